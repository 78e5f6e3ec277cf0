"""Moves of quantized values move integers, and give the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.driver.optimizing import optimize
from tests.support.onnx_graphs import assert_fires, assert_refuses, graph_of, rand

NAME = "move-integers"
RNG = np.random.default_rng(0)
W = RNG.integers(-127, 128, (3, 4, 5)).astype(np.int8)
X = {"x": "float[2,3,4,5]"}
S = np.float32(0.05)


def scales(count: int) -> dict[str, np.ndarray]:
    return {"s": rand(count, positive=True), "z": RNG.integers(-9, 9, count).astype(np.int8)}


@pytest.mark.parametrize(
    ("move", "axis", "after"),
    [
        ("Transpose<perm=[2,0,1]>(d)", 0, 1),
        ("Transpose<perm=[2,0,1]>(d)", 2, 0),
        ("Transpose(d)", 1, 1),
        ("Unsqueeze(d, ones)", 1, 2),
        ("Unsqueeze(d, ones)", 0, 0),
        ("Reshape(d, flat)", 2, 1),
        ("Reshape(d, split)", 2, 3),
        ("Flatten<axis=1>(d)", 0, 0),
        ("Gather<axis=0>(d, picks)", 2, 3),
        ("Gather<axis=1>(d, picks)", 0, 0),
    ],
)
def test_scales_follow_their_axis(move: str, axis: int, after: int) -> None:
    shapes = {"ones": np.array([1]), "flat": np.array([12, 5]), "split": np.array([3, 2, 2, 5])}
    picks = {"picks": RNG.integers(0, 3, (2, 2))}
    name = next(n for n in (*shapes, *picks, "none") if n in move or n == "none")
    given = {k: v for k, v in {**shapes, **picks}.items() if k == name}
    graph = graph_of(
        {"x": "float[1]"}, f"d = DequantizeLinear<axis={axis}>(w, s, z)\nm = {move}\ny = Add(m, x)",
        w=W, **scales(W.shape[axis]), **given,
    )  # fmt: skip
    moved = ["Gather", "DequantizeLinear", "Add"] if "Gather" in move else ["DequantizeLinear", "Add"]
    after_graph = assert_fires(graph, NAME, moved)
    node = next(n for n in after_graph.nodes if n.op == "DequantizeLinear")
    assert int(node.attrs.get("axis", 1)) == after
    assert node.inputs[0] is not None


@pytest.mark.parametrize(
    ("move", "axis"), [("Reshape(d, flat)", 0), ("Gather<axis=1>(d, picks)", 1), ("Reshape(d, whole)", 1)]
)
def test_scales_whose_axis_goes(move: str, axis: int) -> None:
    shapes = {"flat": np.array([12, 5]), "picks": np.array([0, 1]), "whole": np.array([60])}
    given = {k: v for k, v in shapes.items() if k in move}
    graph = graph_of(
        {"x": "float[1]"}, f"d = DequantizeLinear<axis={axis}>(w, s, z)\nm = {move}\ny = Add(m, x)",
        w=W, **scales(W.shape[axis]), **given,
    )  # fmt: skip
    assert_refuses(graph, NAME, "an axis that goes")


def test_data_that_a_product_reads() -> None:
    text = "q = QuantizeLinear(x, s, z)\nd = DequantizeLinear(q, s, z)\nt = Transpose<perm=[0,2,1,3]>(d)\n"
    far = text + "r = Reshape(t, shape)\ny = MatMul(r, one)"
    graph = graph_of(X, far, s=S, z=np.uint8(100), shape=np.array([2, 4, -1, 1]), one=rand(1, 6))
    after = optimize(graph, passes=[NAME], for_export=False)
    assert [n.op for n in after.nodes][:4] == ["QuantizeLinear", "Transpose", "Reshape", "DequantizeLinear"]
    alone = graph_of(X, text + "y = Relu(t)", s=S, z=np.uint8(100))
    assert_refuses(alone, NAME, "no product reads")


def test_results_are_quantized_where_they_are_made() -> None:
    text = (
        "c = Conv(x, w)\nt = Transpose<perm=[0,2,3,1]>(c)\nq = QuantizeLinear(t, s, z)\ny = DequantizeLinear(q, s, z)"
    )
    graph = graph_of(X, text, w=rand(6, 3, 1, 1), s=S, z=np.int8(3))
    assert_fires(graph, NAME, ["Conv", "QuantizeLinear", "Transpose", "DequantizeLinear"])
    other = graph_of(
        X, text.replace("Linear(t", "Linear<axis=3>(t").replace("Linear(q", "Linear<axis=3>(q"), w=rand(6, 3, 1, 1), **scales(6)
    )  # fmt: skip
    assert_refuses(other, NAME, "several scales")


def test_a_transposed_value_with_other_readers_stays() -> None:
    text = "c = Conv(x, w)\nt = Transpose<perm=[0,2,3,1]>(c)\nq = QuantizeLinear(t, s, z)\n"
    text += "d = DequantizeLinear(q, s, z)\ny = Add(d, t)"
    graph = graph_of(X, text, w=rand(6, 3, 1, 1), s=S, z=np.int8(3))
    assert_refuses(graph, NAME, "other uses")
