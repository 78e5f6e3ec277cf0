"""Traits of operators, against ONNX's schemas, and the axes of linear operators, against ONNX's shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from graphopt.ops.linear import channel_axis, kept_axis, summed_axis
from graphopt.ops.registry import (
    ANCHOR,
    BIAS,
    BROADCAST,
    COMMUTATIVE,
    CONTROL,
    CONVOLUTION,
    CUT,
    ELEMENTWISE,
    LINEAR,
    LOOP,
    MATRIX_PRODUCT,
    MOVEMENT,
    PART,
    RANDOM,
    REDUCE,
    RESHAPE,
    UNARY,
    VIEW,
    WHOLE_SUMS,
    has_trait,
)
from graphopt.ops.table import names, ops_with
from tests.support.onnx_graphs import graph_of

SCHEMAS = {s.name: s for s in onnx.defs.get_all_schemas() if s.domain == "" and not s.deprecated}


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (UNARY, ELEMENTWISE), (BROADCAST, ELEMENTWISE), (RESHAPE, VIEW), (RESHAPE, MOVEMENT), (CUT, PART), (CUT, MOVEMENT),
        (LINEAR, ANCHOR), (WHOLE_SUMS, LINEAR), (BIAS, LINEAR), (LOOP, CONTROL),
    ],
)  # fmt: skip
def test_traits_that_follow_from_others(narrow: str, wide: str) -> None:
    assert ops_with(narrow)
    assert set(ops_with(narrow)) < set(ops_with(wide))


def test_traits_agree_with_schemas() -> None:
    assert set(names()) <= set(SCHEMAS)
    assert set(ops_with(REDUCE)) == {name for name in SCHEMAS if name.startswith("Reduce")}
    drawn = {
        n for n, s in SCHEMAS.items() if "seed" in s.attributes and n != "Dropout"
    }  # Dropout draws in training only
    assert set(ops_with(RANDOM)) == drawn
    graphs = {n for n, s in SCHEMAS.items() if any(a.type.name == "GRAPH" for a in s.attributes.values())}
    assert set(ops_with(CONTROL)) == graphs - {"SequenceMap"}
    assert all(len(SCHEMAS[op].inputs) == 1 for op in ops_with(UNARY))
    assert {op for op in ops_with(LINEAR) if len(SCHEMAS[op].inputs) > 2} == set(ops_with(BIAS))
    assert sorted(ops_with(CONVOLUTION) + ops_with(MATRIX_PRODUCT)) == list(ops_with(LINEAR))


@pytest.mark.parametrize("op", ops_with(COMMUTATIVE))
def test_commutative_operators_give_the_same_both_ways(op: str) -> None:
    rng = np.random.default_rng(0)
    kind = SCHEMAS[op].inputs[0].types
    dtype = np.float32 if "tensor(float)" in kind else (np.int32 if "tensor(int32)" in kind else np.bool_)
    a, b = (rng.integers(0, 2, (3, 4)).astype(dtype) for _ in range(2))
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node(op, ["a", "b"], ["y"]), helper.make_node(op, ["b", "a"], ["z"])], "g",
        [helper.make_tensor_value_info(n, code, [3, 4]) for n in "ab"],
        [helper.make_empty_tensor_value_info(n) for n in "yz"],
    )  # fmt: skip
    y, z = ReferenceEvaluator(helper.make_model(graph)).run(None, {"a": a, "b": b})
    np.testing.assert_array_equal(y, z)


@pytest.mark.parametrize(
    ("op", "shape", "attributes"),
    [
        ("Identity", (2, 3, 4), {}),
        ("Flatten", (2, 3, 4), {"axis": 2}),
        ("Reshape", (2, 3, 4), {"operand": np.array([4, -1])}),
        ("Squeeze", (2, 1, 4), {"operand": np.array([1])}),
        ("Unsqueeze", (2, 3), {"operand": np.array([0, 3])}),
    ],
)
def test_views_have_the_bytes_of_their_operand(op: str, shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    operand = attributes.pop("operand", None)
    node = helper.make_node(op, ["x", "o"] if operand is not None else ["x"], ["y"], **attributes)
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    feed = {"x": x, **({"o": operand} if operand is not None else {})}
    assert ReferenceEvaluator(node).run(None, feed)[0].tobytes() == x.tobytes()
    assert op in ops_with(VIEW)


def test_every_view_is_looked_at() -> None:
    assert set(ops_with(VIEW)) == {"Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze"}


@pytest.mark.parametrize(
    ("body", "a", "b"),
    [
        ("y = MatMul(a, b)", "5,7", "7,3"),
        ("y = MatMul(a, b)", "2,5,7", "2,7,3"),
        ("y = Gemm(a, b)", "5,7", "7,3"),
        ("y = Gemm<transA = 1>(a, b)", "7,5", "7,3"),
        ("y = Gemm<transB = 1>(a, b)", "5,7", "3,7"),
        ("y = Gemm<transA = 1, transB = 1>(a, b)", "7,5", "3,7"),
        ("y = Conv(a, b)", "5,7,9,9", "3,7,2,2"),
        ("y = ConvTranspose(a, b)", "5,7,9,9", "7,3,2,2"),
        ("y = Conv(a, b)", "5,7,9", "3,7,2"),
    ],
)
def test_axes_of_linear_operators(body: str, a: str, b: str) -> None:
    """Extents tell the axes apart: 7 is summed over, 5 and 3 are kept, 3 by the weight."""
    graph = graph_of({"a": f"float[{a}]", "b": f"float[{b}]"}, body)
    (node,) = graph.nodes
    shapes = [value.shape for value in node.inputs if value is not None]
    assert has_trait(node, LINEAR)
    assert [shapes[i][summed_axis(node, i)] for i in (0, 1)] == [7, 7]
    assert [shapes[i][kept_axis(node, i)] for i in (0, 1)] == [5, 3]
    assert node.out.shape[channel_axis(node)] == 3


@pytest.mark.parametrize(("a", "b"), [("7", "7,3"), ("5,7", "7"), ("7", "7")])
def test_vectors_are_summed_over(a: str, b: str) -> None:
    graph = graph_of({"a": f"float[{a}]", "b": f"float[{b}]"}, "y = MatMul(a, b)")
    (node,) = graph.nodes
    assert [value.shape[summed_axis(node, i)] for i, value in enumerate(node.inputs) if value is not None] == [7, 7]


def test_operators_of_other_domains_have_no_traits() -> None:
    graph = graph_of({"x": "float[2]"}, "y = Relu(x)")
    (node,) = graph.nodes
    assert has_trait(node, UNARY)
    node.domain = "com.example"
    assert not has_trait(node, UNARY)
