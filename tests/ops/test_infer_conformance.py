"""Inferred types against the expected outputs of ONNX's backend tests: right, symbolic where it has to be, or refused;
never wrong.

``python -m tests.ops.test_infer_conformance`` lists what is not exact.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable

import numpy as np
import pytest

from graphopt.driver.importing import import_onnx
from graphopt.errors import GraphOptError, UserError
from graphopt.ir.dims import Dim, as_symbol, subs
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Graph
from graphopt.ir.types import TensorType
from tests.support.onnx_cases import KINDS, OnnxCase, onnx_cases

FORMS: dict[str, Callable[[OnnxCase], OnnxCase]] = {
    "inputs": lambda case: case,
    "constants": OnnxCase.with_constant_operands,
    "symbolic": OnnxCase.with_symbolic_dims,
}


def check(case: OnnxCase) -> tuple[str, str]:
    """``(verdict, detail)``; verdicts are exact, symbolic, opaque, refused, wrong, crash."""
    try:
        graph = import_onnx(case.model)
    except UserError as e:
        return "refused", str(e).replace("\n", " | ")
    except GraphOptError as e:
        return "crash", str(e).replace("\n", " | ")
    if len(case.outputs) != len(graph.outputs):
        return "opaque", "outputs that are no tensors"
    env = run_time_symbols(graph, case)
    verdict, detail = "exact", ""
    for value, array in zip(graph.outputs, case.outputs):
        if array is None or not isinstance(value.type, TensorType):
            verdict, detail = "opaque", str(value)
            continue
        array = np.asarray(array)
        if value.type.dtype is not DType.from_numpy(array.dtype):
            return "wrong", f"{value}, expected {array.dtype}"
        if value.type.shape is None:
            verdict, detail = "symbolic", str(value)
            continue
        dims = [subs(d, env) for d in value.type.shape]
        if len(dims) != array.ndim:
            return "wrong", f"{value}, expected {array.shape}"
        for dim, extent in zip(dims, array.shape):
            if not isinstance(dim, int):
                verdict, detail = "symbolic", f"{value}, expected {array.shape}"
            elif dim != extent:
                return "wrong", f"{value} = {dims}, expected {array.shape}"
        if value.content is not None and value.content.shape == array.shape and array.dtype.kind in "iub":
            for found, wanted in zip(value.content.reshape(-1), array.reshape(-1)):
                if isinstance(subs(found, env), int) and subs(found, env) != int(wanted):
                    return "wrong", f"content {value.content} of {value}, expected {array}"
    for (a, b), why in graph.constraints.items():
        left, right = subs(a, env), subs(b, env)
        if isinstance(left, int) and isinstance(right, int) and left != right:
            return "wrong", f"constraint {a} == {b} does not hold ({why})"
    return verdict, detail


def run_time_symbols(graph: Graph, case: OnnxCase) -> dict[str, Dim]:
    """Values of the symbols that a run with the case's inputs binds."""
    arrays = {info.name: array for info, array in zip(case.model.graph.input, case.inputs)}
    env: dict[str, Dim] = {}
    for value in graph.inputs:
        array = arrays.get(value.name)
        if array is None or not isinstance(value.type, TensorType) or value.type.shape is None:
            continue
        pairs = list(zip(value.type.shape, np.shape(array)))
        if value.binds and value.content is not None:
            pairs += zip(value.content.reshape(-1), np.asarray(array).reshape(-1))
        env.update({name: int(x) for dim, x in pairs if (name := as_symbol(dim)) is not None})
    return env


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.few(4)
def test_never_wrong(kind: str, form: str) -> None:
    bad = {}
    for case in onnx_cases(kind):
        verdict, detail = check(FORMS[form](case))
        if verdict in ("wrong", "crash"):
            bad[case.name] = f"{verdict}: {detail}"
    assert not bad, "\n".join(f"{k}: {v}" for k, v in bad.items())


def main() -> None:
    for kind in KINDS if len(sys.argv) < 2 else sys.argv[1:2]:
        for form, convert in FORMS.items():
            counts: collections.Counter[str] = collections.Counter()
            for case in onnx_cases(kind):
                verdict, detail = check(convert(case))
                counts[verdict] += 1
                if verdict != "exact":
                    sys.stdout.write(f"{verdict} {form} {case.name}: {detail[:260]}\n")
            sys.stdout.write(f"== {kind}, {form}: {dict(counts)}\n")


if __name__ == "__main__":
    main()
