"""Arithmetic, comparisons and selections of infinities, NaN, -0.0 and the extremes of integers, alone and in chains.

TVM's simplifier has rules of its own for most of these; ``graphopt.backends.tensors.exact`` keeps them away.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from tests.support.run_node import model_with, node, reference, run

Array = npt.NDArray[Any]
FLOATS = (0.0, -0.0, 1.0, -1.0, 3.5, np.inf, -np.inf, np.nan)
LEVELS = (0, 2)


class Graph:
    """Nodes over inputs x, y (all pairs of the values) and b (bool), each with a fresh result."""

    def __init__(self, values: Array, constants: dict[str, Array]) -> None:
        n = len(values)
        self.feed = {"x": np.repeat(values, n), "y": np.tile(values, n)}
        self.constants = constants
        self.nodes: list[onnx.NodeProto] = []

    def add(self, op: str, inputs: str, **attrs: Any) -> str:
        name = f"o{len(self.nodes)}"
        self.nodes.append(node(op, inputs, name, **attrs))
        return name

    def model(self) -> onnx.ModelProto:
        return model_with(self.nodes, self.feed, self.constants)


def identical(graph: Graph, want: dict[str, Array], level: int) -> None:
    """Fail unless every result is the same number, with the same sign of zero; NaN for NaN, whatever its sign."""
    got = run(graph.model(), graph.feed, level=level)
    unsigned: set[str] = set()
    for made in graph.nodes:
        name, expected = made.output[0], want[made.output[0]]
        found = got[name]
        where = f"{made.op_type}({', '.join(made.input)}) at -O{level}"
        assert found.dtype == expected.dtype, where
        np.testing.assert_array_equal(found, expected, err_msg=where)
        if made.op_type in ("Relu", "Sign", "Max", "Min") or unsigned.intersection(made.input):
            unsigned.add(name)  # runtimes disagree on the sign of zero here
        elif found.dtype.kind == "f":
            kept = ~np.isnan(expected)
            np.testing.assert_array_equal(np.signbit(found)[kept], np.signbit(expected)[kept], err_msg=where)


def float_graph(dtype: Any) -> Graph:
    c = {"z": 0.0, "mz": -0.0, "inf": np.inf, "ninf": -np.inf, "nan": np.nan, "one": 1.0, "two": 2.0, "c41": 41.0}
    values = np.array([*FLOATS, 41.0], dtype)
    g = Graph(values, {k: np.asarray(v, dtype) for k, v in c.items()})
    for op in ("Add", "Sub", "Mul", "Div"):
        g.add(op, "x x")
        g.add(op, "x y")
        for k in c:
            g.add(op, f"x {k}")
            g.add(op, f"{k} x")
    for op in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
        for operands in ("x x", "x y", "y x", "x nan", "inf x", "x z", "z x"):
            g.add("Not", g.add(op, operands))
    for op in ("Max", "Min"):
        for operands in ("x x", "x y", "x nan", "nan x", "x inf"):
            g.add(op, operands)
    total, product = g.add("Add", "x y"), g.add("Mul", "x y")
    for operands in (
        f"{total} y",
        f"{total} x",
        f"x {total}",
        f"y {total}",
        f"{total} {total}",
        f"{product} {product}",
    ):
        g.add("Sub", operands)
    g.add("Sub", f"{g.add('Add', 'x one')} one")
    g.add("Sub", f"one {g.add('Sub', 'one x')}")
    g.add("Div", f"{product} {product}")
    g.add("Equal", f"{product} {product}")
    for op in ("Relu", "Abs", "Neg", "Sign", "LeakyRelu"):
        made = g.add(op, "x")
        g.add("Sub", f"{made} x")
        g.add("Add", f"{made} x")
        g.add("Mul", f"{made} z")
    below, above, same = g.add("Less", "x y"), g.add("Greater", "x y"), g.add("Equal", "x y")
    least, most = g.add("LessOrEqual", "x y"), g.add("GreaterOrEqual", "x y")
    g.add("Or", f"{below} {above}")
    g.add("Or", f"{below} {most}")
    g.add("And", f"{below} {g.add('Not', above)}")
    g.add("Or", f"{below} {same}")
    for condition, other in (
        (below, most),
        (above, least),
        (below, above),
        (most, below),
        (same, below),
        (least, most),
    ):
        # the opposite of a comparison is not another comparison: both are false of NaN
        chosen = g.add("Where", f"{condition} one {g.add('Where', f'{other} two nan')}")
        g.add("Sub", f"{g.add('Where', f'{condition} x y')} x")
        g.add("Mul", f"{chosen} z")
    g.add("Mul", f"x {g.add('Where', f'{below} z z')}")
    g.add("Floor", g.add("Div", "x c41"))
    g.add("Where", f"{below} z mz")
    return g


def cases(quick: set[tuple[Any, int]], dtypes: tuple[Any, ...]) -> list[Any]:
    """All types and levels, of which the quick ones are in the default run."""
    return [
        pytest.param(t, level, marks=() if (t, level) in quick else pytest.mark.slow)
        for t in dtypes
        for level in LEVELS
    ]


@pytest.mark.parametrize(("dtype", "level"), cases({(np.float32, 2)}, (np.float32, np.float16, np.float64)))
def test_floats_obey_ieee_754(dtype: Any, level: int) -> None:
    graph = float_graph(dtype)
    want = reference(graph.model(), graph.feed)
    identical(graph, want, level)


def integer_graph(dtype: Any) -> Graph:
    limits = np.iinfo(dtype)
    low, high = int(limits.min), int(limits.max)
    c = {"low": low, "high": high, "one": 1, "two": 2, "five": 5, "zero": 0, "big": high // 2 + 1}
    values = np.array(sorted({low, low + 1, 0, 1, 2, 3, 5, 7, high - 1, high, high // 2}), dtype)
    g = Graph(values, {k: np.asarray(v, dtype) for k, v in c.items()})
    for op in ("Add", "Sub", "Mul"):
        for operands in ("x x", "x y", "x high", "low x", "zero x", "zero one"):
            made = g.add(op, operands)
            g.add("Less", f"{made} x")
            g.add("Greater", f"{made} five")
            g.add("Sub", f"{made} x")
    small = g.add("Less", "x five")
    for op in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"):
        for operands in ("x y", "x low", "low x", "x high", "zero x"):
            made = g.add(op, operands)
            g.add("Where", f"{made} five x")
            inner = g.add("Where", f"{small} one y")
            g.add("Where", f"{made} {inner} x")
    for op in ("Max", "Min"):
        for operands in ("x y", "x low", "x high", "zero x"):
            made = g.add(op, operands)
            g.add("Less", f"{made} five")
    for bounds in ("low high", "low", "_ high", "zero", "zero five", "five two", "high low", "_ zero"):
        clipped = g.add("Clip", f"x {bounds}")
        g.add("Greater", f"{clipped} one")
    for operands in ("x one", "x two", "x big"):
        g.add("Less", f"{g.add('Div', operands)} five")
    if low:
        g.add("Less", f"{g.add('Abs', 'x')} zero")
        g.add("Less", f"{g.add('Neg', 'x')} x")
        g.add("Sign", "x")
    return g


INTEGERS = (np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64)


@pytest.mark.parametrize(("dtype", "level"), cases({(np.uint8, 0), (np.int64, 2)}, INTEGERS))
def test_integers_wrap_around(dtype: Any, level: int) -> None:
    graph = integer_graph(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = reference(graph.model(), graph.feed)
    for made in graph.nodes:
        if made.op_type == "Div":  # the reference divides some types as floats
            divisor = int(graph.constants[made.input[1]])
            quotients = [abs(int(v)) // divisor * (1 if v >= 0 else -1) for v in graph.feed[made.input[0]]]
            want[made.output[0]] = np.array(quotients, dtype)
            for user in graph.nodes:
                if made.output[0] in user.input:
                    want[user.output[0]] = want[made.output[0]] < graph.constants["five"]
    identical(graph, want, level)


@pytest.mark.parametrize("level", LEVELS)
def test_constants_out_of_range_empty_contents_and_nan_that_counts(level: int) -> None:
    nan, inf = np.nan, np.inf
    feed: dict[str, Array] = {
        "u": np.array([0, 5, 255], np.uint8),
        "v": np.array([[1, nan, 3, 2], [inf, -inf, 0, nan], [-0.0, nan, nan, 0]], np.float32),
        "image": np.ones((1, 3, 4, 4), np.float32),
        "rows": np.ones((2, 0), np.int64),
    }
    weight = np.ones((4, 3, 1, 1), np.float32)
    weight[1] = inf
    constants: dict[str, Array] = {
        "minus": np.float32(-1), "over": np.float32(300), "k": np.array([4]), "a": np.array([3]), "b": np.array([-1]),
        "axis": np.array([1]), "w": weight,
    }  # fmt: skip
    nodes = [
        node("Cast", "minus", "low", to=2), node("Clip", "u low", "clipped"),
        node("Cast", "over", "high", to=2), node("Max", "u high", "most"),
        node("NonZero", "v", "where"), node("TopK", "v k", "top at"), node("TopK", "v k", "end until", largest=0),
        node("Shape", "u", "s"), node("Slice", "s a b", "none"), node("Unsqueeze", "none axis", "column"),
        node("MatMul", "rows column", "product"),
        node("Conv", "image w", "padded", pads=[1, 1, 1, 1]),
    ]  # fmt: skip
    model = model_with(nodes, feed, constants)
    want, got = reference(model, feed), run(model, feed, level=level)
    for name, expected in want.items():
        assert got[name].shape == expected.shape, name
        np.testing.assert_array_equal(got[name], expected, err_msg=f"{name} at -O{level}")
