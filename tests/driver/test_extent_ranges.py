"""Ranges and likely extents of symbolic dimensions: how they are written, what they allow, what they refuse."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt.driver.extent_range import Range, parse_range
from graphopt.driver.input_shapes import parse_shape
from graphopt.errors import InputError, UserError
from graphopt.ir.dims import symbol
from graphopt.ir.intervals import Interval


def positions(rows: int = 16) -> onnx.ModelProto:
    """``x + table[:n]``, whose length a model declares as ``n``; ``table`` has so many rows."""
    table = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    nodes = [
        helper.make_node("Shape", ["x"], ["length"], start=1, end=2),
        helper.make_node("Slice", ["table", "zero", "length", "zero"], ["rows"]),
        helper.make_node("Add", ["x", "rows"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "positions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            helper.make_tensor("table", TensorProto.FLOAT, table.shape, table.reshape(-1)),
            helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1..512", Range(1, 512)),
        ("1..512@128", Range(1, 512, 128)),
        ("..9", Range(None, 9)),
        ("4..", Range(4)),
        ("n@8", Range(likely=8, name="n")),
        ("n:1..8@2", Range(1, 8, 2, "n")),
        ("n", None),
        ("12", None),
    ],
)
def test_how_ranges_are_written(text: str, expected: Range | None) -> None:
    assert parse_range(text) == expected
    if expected is not None:
        assert parse_range(str(expected)) == expected


def test_shapes_hold_ranges() -> None:
    assert parse_shape("1x3x224..1280x?") == (1, 3, Range(224, 1280), "?")


@pytest.mark.parametrize("text", ["5..2", "1..4@9", "..", "@", "1...4", "-1..4", "n:", "1..4@", "4..@2"])
def test_malformed_ranges_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"range|extent"):
        parse_range(text)


def test_a_range_settles_what_depends_on_it() -> None:
    graph = graphopt.import_onnx(positions(), shapes={"x": (2, Range(1, 16, 8), 3)})
    assert graph.bounds == {"n": Interval(1, 16)}
    assert graph.likely == {"n": 8}
    assert graph.outputs[0].shape == (2, symbol("n"), 3)


def test_what_is_added_bounds_a_length_without_a_range() -> None:
    graph = graphopt.import_onnx(positions())
    assert graph.bounds["n"].high == 16
    assert graph.outputs[0].shape == (symbol("b"), symbol("n"), 3)


def test_sizes_outside_of_the_range_are_refused_by_name() -> None:
    model = graphopt.compile(positions(), shapes={"x": "bx2..9x3"})
    for n in (2, 9):
        x = np.ones((1, n, 3), np.float32)
        np.testing.assert_array_equal(model.run({"x": x})["y"][0], 1 + np.arange(n * 3).reshape(n, 3))
    for n in (1, 10, 17):
        with pytest.raises(InputError) as caught:
            model.run({"x": np.ones((1, n, 3), np.float32)})
        assert f"n = {n}" in str(caught.value)
        assert "dimension 1 of input 'x' is declared to be 2..9" in str(caught.value)


def test_a_length_beyond_the_table_is_still_refused() -> None:
    model = graphopt.compile(positions(4))
    with pytest.raises(InputError):
        model.run({"x": np.ones((1, 5, 3), np.float32)})


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"x": (1, Range(5, 9), Range(1, 3))}, "dimension 2 of input 'x' is 3 in the model"),
        ({"x": (Range(1, 4, name="n"), Range(5, 9, name="n"), 3)}, "no extent is in all ranges"),
        ({"x": (Range(1, 9, name="n"), Range(1, 4, 2, name="n"), 3)}, None),
        ({"x": (Range(likely=3, name="n"), Range(1, 4, 2, name="n"), 3)}, "several likely extents"),
        ({"x": (Range(6, 9, name="n"), Range(1, 7, 2, name="n"), 3)}, "likely extent 2"),
    ],
)
def test_ranges_that_contradict(shapes: dict[str, tuple[int | Range, ...]], words: str | None) -> None:
    if words is None:
        assert graphopt.import_onnx(positions(), shapes=shapes).bounds["n"] == Interval(1, 4)
        return
    with pytest.raises(UserError, match=words):
        graphopt.import_onnx(positions(), shapes=shapes)
