"""Weights that would vanish in float16: scaled by a power of two where that changes no bit and nothing can overflow for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.driver.compiling import compile as compile_graph
from graphopt.driver.optimizing import optimize
from graphopt.driver.precision.converting import convert
from graphopt.ir.dtypes import DType
from graphopt.ir.editor import clone
from graphopt.ir.graph import Graph
from graphopt.ir.printer import format_graph
from graphopt.passes.precision.narrow_format import BF16, FP16, NarrowFormat
from graphopt.passes.precision.small_weights import enlarge_small_weights
from graphopt.rewrite.passes import PassContext
from tests.support.onnx_graphs import graph_of, rand
from tests.support.precision import computed_in, converted

NET = """
c = Conv<pads=[1,1,1,1]>(x, w1, b1)
r = Relu(c)
y = ConvTranspose<strides=[2,2]>(r, w2, b2)
"""
SMALL = {"w1": rand(4, 3, 3, 3) * 2e-5, "b1": rand(4), "w2": rand(4, 2, 2, 2), "b2": rand(2)}
SHAPES = {"x": "float[1,3,6,5]"}


def _scaled(graph: Graph, form: NarrowFormat = FP16) -> list[str]:
    return [node.op for node in enlarge_small_weights(graph, form, PassContext().editor(graph))]


def test_the_float32_graph_computes_the_same_bits() -> None:
    graph = optimize(graph_of(SHAPES, NET, **SMALL))
    before, x = clone(graph), 1000 * rand(1, 3, 6, 5)
    assert _scaled(graph) == ["Conv"]
    assert not FP16.vanishes(graph.nodes[0].inputs[1].data)  # type: ignore[union-attr, arg-type]
    results = [compile_graph(g, "native", level=0).run({"x": x})["y"] for g in (before, graph)]
    np.testing.assert_array_equal(*results)


def test_what_lies_between_has_another_name_and_results_keep_theirs() -> None:
    graph = optimize(graph_of(SHAPES, NET, **SMALL))
    _scaled(graph)
    assert [node.out.name for node in graph.nodes] == ["c_enlarged", "r_enlarged", "y"]


def test_no_sum_of_float16_operands_can_leave_its_range_for_the_factor() -> None:
    """All data at the greatest number, each with the sign of its weight."""
    graph = optimize(graph_of(SHAPES, NET, **SMALL))
    _scaled(graph)
    weight, bias = (v.data.astype(np.float64) for v in graph.nodes[0].inputs[1:])  # type: ignore[union-attr]
    assert (FP16.largest * np.abs(weight).sum((1, 2, 3)) + np.abs(bias)).max() <= FP16.largest


def test_such_a_layer_is_converted() -> None:
    after, _ = converted(graph_of(SHAPES, NET, **SMALL), "cast-fp16")
    assert set(computed_in(after).values()) == {DType.f16}
    graph, report = convert(graph_of(SHAPES, NET, **SMALL), "fp16")
    assert not [row for row in report.nodes if row.precision == "float32"]
    assert graph.outputs[0].name == "y"


CONV = "c = Conv<pads=[1,1,1,1]>(x, w1, b1)\n"


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        (CONV + "r = Sigmoid(c)\ny = Conv(r, w3)", {}),  # no factor passes through it
        (CONV + "y = Relu(c)", {}),  # nothing behind that could be divided
        (
            CONV + "r = Relu(c)\nz = Conv(r, w3)\nm = ReduceMax(r)\ny = Add(z, m)",
            {},
        ),  # somebody else reads what lies between
        (CONV + "r = Relu(c)\ny = Conv(r, w3)", {"w3": rand(2, 4, 3, 3) * 1e-4}),  # would vanish itself
        (CONV + "r = Relu(c)\ny = Conv(r, w3)", {"w1": np.where(rand(4, 3, 3, 3) > 0.9, 3, 2e-5)}),  # sums may be great
        (CONV + "r = Relu(c)\nz = Conv(r, w3)\nm = ReduceMax(w3)\ny = Add(z, m)", {}),  # somebody else reads the weight
    ],
)
def test_others_are_left_alone(body: str, constants: dict[str, np.ndarray[Any, Any]]) -> None:
    weights = {**SMALL, "w3": rand(2, 4, 3, 3), **{k: a.astype(np.float32) for k, a in constants.items()}}
    graph = graph_of(SHAPES, body, **{name: array for name, array in weights.items() if name in body})
    before = format_graph(graph)
    assert _scaled(graph) == []
    assert format_graph(graph) == before


def test_bfloat16_has_room_for_them() -> None:
    assert _scaled(graph_of(SHAPES, NET, **SMALL), BF16) == []
