"""Expanding an operator into ONNX's function body computes the same, for every backend test whose operator has one."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.driver.importing import import_onnx
from graphopt.errors import UnsupportedOpError, UserError
from graphopt.ir.onnx_io import graph_to_onnx
from graphopt.ir.verifier import verify
from graphopt.passes.canonical.expand_functions import ExpandFunctions
from graphopt.rewrite.passes import PassContext
from tests.support.arrays import wide
from tests.support.onnx_cases import OnnxCase, onnx_cases

SKIPPED = {"test_bernoulli", "test_bernoulli_double", "test_bernoulli_seed"}  # random
KEEP = {"Range"}  # its body is a Loop that no evaluator likes for float16; it has a kernel of its own


@functools.cache
def function_ops() -> set[str]:
    found: Iterator[Any] = (s for s in onnx.defs.get_all_schemas() if not s.domain)
    return {s.name for s in found if s.has_function or s.has_context_dependent_function} - KEEP


def cases() -> list[OnnxCase]:
    """One-node cases of function operators; the ``_expanded`` ones are what they are compared with elsewhere."""
    return [
        c
        for c in onnx_cases("node")
        if len(c.model.graph.node) == 1
        and c.all_tensors
        and c.model.graph.node[0].op_type in function_ops()
        and not c.model.graph.node[0].domain
    ]


def outcome(case: OnnxCase) -> str:
    """``ok``, or what is wrong, or ``refused: ...``."""
    case = case.with_constant_operands()
    try:
        graph = import_onnx(case.model)
        types = [str(v) for v in graph.outputs]
        ExpandFunctions().run(graph, PassContext(lowerable=lambda node: node.op in KEEP))
    except UserError as e:
        return f"refused: {e}"
    verify(graph)
    if types != [str(v) for v in graph.outputs] and "u" not in "".join(types):
        return f"types {types} became {[str(v) for v in graph.outputs]}"
    if any(n.op in function_ops() for n in graph.walk()):
        return "refused: a function without a body for these types is left"
    model = graph_to_onnx(graph)
    onnx.checker.check_model(model)
    declared = {i.name for i in model.graph.input}
    feeds = {i.name: a for i, a in zip(case.model.graph.input, case.inputs) if i.name in declared}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        got = ReferenceEvaluator(model).run(None, feeds)
    for found, wanted in zip(got, case.outputs):
        if not np.allclose(wide(found), wide(wanted), rtol=5e-3, atol=5e-3, equal_nan=True):
            return "different numbers"
    return "ok"


def test_expansion_computes_the_same() -> None:
    results = {c.name: outcome(c) for c in cases() if c.name not in SKIPPED}
    bad = {k: v for k, v in results.items() if v != "ok" and not v.startswith("refused")}
    assert not bad, bad
    assert sum(v == "ok" for v in results.values()) > 0.9 * len(results)


def test_a_body_that_onnx_leaves_unfinished_is_refused() -> None:
    """ONNX stops writing the body of CausalConvWithState at an activation that it doesn't know."""
    case = next(c for c in onnx_cases("node") if c.name == "test_causal_conv_with_state_silu")
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.graph.node[0].attribute[0].s = b"tanhh"
    with pytest.raises(UnsupportedOpError, match="CausalConvWithState never computes 'weight'") as caught:
        graphopt.compile(model)
    assert "attributes" in str(caught.value.hint)
