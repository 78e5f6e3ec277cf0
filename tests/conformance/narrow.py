"""Cases in float16 and bfloat16 that follow from ONNX's cases in float32, of which its suite has few of its own.

Inputs of float32 are turned into the type wherever the operator's schema allows it. What is expected is what ONNX's reference
computes in float32 from the rounded inputs, rounded once at the end.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, defs, shape_inference
from onnx.reference import ReferenceEvaluator

from tests.conformance.cases import Case, all_cases
from tests.conformance.check import compare

Array = npt.NDArray[Any]

NARROW: dict[str, tuple[int, np.dtype[Any]]] = {
    "float16": (TensorProto.FLOAT16, np.dtype(np.float16)),
    "bfloat16": (TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
}
"""ONNX's code and numpy's type by ONNX's name."""
ULPS = 1
"""Units in the last place that results may be off: kernels compute in float32 too, which differs where it lies near a tie."""


def derived(case: Case, to: str) -> Case | None:
    """The case in another type, by its name with the type behind it.

    None where the type isn't allowed, or the reference doesn't know the result.
    """
    code, dtype = NARROW[to]
    if not _is_of_one_operator(case) or (model := _retyped(case.model, to)) is None:
        return None
    narrow_in, narrow_out = (_of_type(values, code) for values in (model.graph.input, model.graph.output))
    data = []
    try:
        reference = ReferenceEvaluator(case.model)
        for inputs, outputs in case.data:
            if compare(_run(reference, case, inputs), outputs, 1e-4, 1e-6):
                return None  # the reference is wrong, or the operator draws lots
            rounded = [_to(x, dtype) if narrow else x for x, narrow in zip(inputs, narrow_in, strict=True)]
            wide = [_to(x, np.dtype(np.float32)) if narrow else x for x, narrow in zip(rounded, narrow_in, strict=True)]
            if any(np.isinf(w).sum() != np.isinf(x).sum() for w, x in zip(wide, inputs) if x.dtype == np.float32):
                return None  # out of range
            results = _run(reference, case, wide)
            data.append(
                (rounded, [_to(y, dtype) if narrow else y for y, narrow in zip(results, narrow_out, strict=True)])
            )
    except Exception:  # whatever the reference raises at what it doesn't know
        return None
    return Case(f"{case.name}_{to}", case.kind, model, data, case.rtol, case.atol, ULPS)


def narrow_cases(to: str, names: Iterable[str]) -> list[Case]:
    """Those of the cases that there are in a type."""
    found = (derived(all_cases()[name], to) for name in names)
    return [case for case in found if case is not None]


def operators() -> dict[str, list[str]]:
    """Names of the cases of one operator that take float32, by operator, in an order that has nothing to do with what they test."""
    found: dict[str, list[str]] = {}
    for case in all_cases().values():
        if _is_of_one_operator(case) and any(_of_type(case.model.graph.input, TensorProto.FLOAT)):
            found.setdefault(case.model.graph.node[0].op_type, []).append(case.name)
    return {op: sorted(found[op], key=lambda name: hashlib.sha256(name.encode()).digest()) for op in sorted(found)}


def _is_of_one_operator(case: Case) -> bool:
    return (
        case.kind == "node"
        and "_expanded" not in case.name
        and len(case.model.graph.node) == 1
        and not any(a.HasField("g") for a in case.model.graph.node[0].attribute)
        and all(isinstance(x, np.ndarray) for pair in case.data for part in pair for x in part)
        and all(len(inputs) == len(case.feeds) == len(case.model.graph.input) for inputs, _ in case.data)
    )


def _run(reference: ReferenceEvaluator, case: Case, inputs: Sequence[Any]) -> list[Any]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return list(reference.run(None, dict(zip(case.feeds, inputs, strict=True))))


def _to(array: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(array).astype(dtype)


def _of_type(values: Any, code: int) -> list[bool]:
    return [v.type.tensor_type.elem_type == code for v in values]


def _retyped(model: ModelProto, to: str) -> ModelProto | None:
    """The model with inputs of the type in place of float32 where the operator allows it; None if that is nowhere.

    Results are of the types that ONNX infers, or that its schema says.
    """
    made = ModelProto()
    made.CopyFrom(model)
    (node,) = made.graph.node
    version = next(o.version for o in made.opset_import if o.domain == node.domain)
    schema = defs.get_schema(node.op_type, version, node.domain)
    variables = {c.type_param_str for c in schema.type_constraints if f"tensor({to})" in c.allowed_type_strs}
    last = len(schema.inputs) - 1  # which may stand for many operands
    operands = {name for i, name in enumerate(node.input) if schema.inputs[min(i, last)].type_str in variables}
    changed = [v for v in made.graph.input if v.name in operands and v.type.tensor_type.elem_type == TensorProto.FLOAT]
    for value in changed:
        value.type.tensor_type.elem_type = NARROW[to][0]
    for value in made.graph.output:
        value.type.tensor_type.ClearField("elem_type")
    try:
        made = shape_inference.infer_shapes(made, strict_mode=True)
    except shape_inference.InferenceError:
        return None  # types are tied to an attribute, as those of BitCast
    last = len(schema.outputs) - 1
    for i, value in enumerate(made.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.UNDEFINED:  # ONNX infers nothing of some functions
            same = schema.outputs[min(i, last)].type_str in variables
            value.type.tensor_type.elem_type = NARROW[to][0] if same else TensorProto.FLOAT
    return made if changed else None
