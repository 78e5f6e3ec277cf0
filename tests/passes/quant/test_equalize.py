"""Equalisation: the float graph computes the same bits, ranges become alike, and what isn't proven stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.driver.optimizing import export_onnx
from graphopt.ir.editor import clone
from graphopt.ir.graph import Graph
from graphopt.ir.verifier import verify
from graphopt.passes.quant.equalize import equalize
from graphopt.rewrite.passes import PassContext
from tests.support.onnx_graphs import graph_of, rand
from tests.support.ort import run_ort

CONV = "Conv<pads=[1,1,1,1]>"
FACTORS = np.exp2(np.linspace(-6, 6, 8)).astype(np.float32)
ROWS = FACTORS[:, None, None, None]


def equalized(graph: Graph) -> tuple[Graph, list[tuple[str, str]]]:
    """An equalised copy that computes the same bits, and the pairs by the names of their results."""
    work = clone(graph)
    pairs = equalize(work, PassContext())
    verify(work)
    feeds = {v.name: rand(*v.shape, seed=3) for v in graph.inputs}  # type: ignore[arg-type]
    for got, want in zip(*(run_ort(export_onnx(g), feeds) for g in (work, graph))):
        np.testing.assert_array_equal(got, want)
    assert [v.name for v in work.outputs] == [v.name for v in graph.outputs]
    names = {node: node.name for node in work.nodes}
    return work, [(names[pair.first], names[pair.second]) for pair in pairs]


def of(inputs: dict[str, str], body: str, outputs: str = "y", **consts: Any) -> Graph:
    graph = graph_of(inputs, body, outputs, **consts)
    for node in graph.nodes:
        node.name = node.out.name
    return graph


IMAGE = {"x": "float[2,4,8,8]"}
PARTS: dict[str, Any] = {"u": rand(8, 4, 3, 3) * ROWS, "b": rand(8) * FACTORS, "v": rand(6, 8, 3, 3)}


@pytest.mark.parametrize(
    "between",
    ["m = Relu(a)", "m = Identity(a)", "m = MaxPool<kernel_shape=[2,2], pads=[1,1,0,0]>(a)",
     "r = Relu(a)\nm = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(r)"],
)  # fmt: skip
def test_pairs_become_alike(between: str) -> None:
    graph = of(IMAGE, f"a = {CONV}(x, u, b)\n{between}\ny = {CONV}(m, v)", **PARTS)
    work, pairs = equalized(graph)
    assert pairs == [("a", "y")]
    first, second = (next(n for n in work.nodes if n.name == name) for name in ("a", "y"))
    rows = np.abs(first.inputs[1].data).max(axis=(1, 2, 3))  # type: ignore[union-attr, arg-type]
    columns = np.abs(second.inputs[1].data).max(axis=(0, 2, 3))  # type: ignore[union-attr, arg-type]
    assert (np.abs(np.log2(rows / columns)) <= 1.001).all()
    old = np.abs(PARTS["u"]).max(axis=(1, 2, 3)) / np.abs(PARTS["v"]).max(axis=(0, 2, 3))
    assert np.abs(np.log2(old)).max() > 5, "they were not"
    assert second.inputs[0].name.endswith("_equalized")  # type: ignore[union-attr]


def test_chains_with_depthwise_convolutions() -> None:
    body = (
        f"a = {CONV}(x, u, b)\nr = Relu(a)\nd = Conv<pads=[1,1,1,1], group=8>(r, w, c)\ns = Relu(d)\ny = {CONV}(s, v)"
    )
    graph = of(IMAGE, body, w=rand(8, 1, 3, 3) * np.roll(ROWS, 3, axis=0), c=rand(8), **PARTS)
    _, pairs = equalized(graph)
    assert pairs == [("a", "d"), ("d", "y")]


@pytest.mark.parametrize(
    "body",
    ["a = Gemm(x, u, b)\nr = Relu(a)\ny = MatMul(r, v)", "a = MatMul(x, u)\nr = Relu(a)\ny = Gemm<transB=1>(r, t, c)",
     "a = Gemm<alpha=0.5>(x, u)\ny = MatMul(a, v)"],
)  # fmt: skip
def test_products_of_matrices(body: str) -> None:
    _, pairs = equalized(
        of({"x": "float[3,4]"}, body, u=rand(4, 8) * FACTORS, b=rand(1, 8), v=rand(8, 5), t=rand(5, 8), c=rand(5))
    )
    assert pairs == [("a", "y")]


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (f"a = {CONV}(x, u, b)\nr = Relu(a)\ny = {CONV}(r, v)", "y r"),
        (f"a = {CONV}(x, u, b)\nr = Relu(a)\ny = {CONV}(r, v)\nz = Exp(a)", "y z"),
        (f"a = {CONV}(x, u, b)\nr = Relu(a)\ny = {CONV}(r, v)\nz = {CONV}(r, v)", "y z"),
        (f"a = {CONV}(x, u, b)\nr = Clip(a, zero, six)\ny = {CONV}(r, v)", "y"),
        (f"a = {CONV}(x, u, b)\nr = Sigmoid(a)\ny = {CONV}(r, v)", "y"),
        (f"a = {CONV}(x, u, b)\nr = Add(a, six)\ny = {CONV}(r, v)", "y"),
        (f"a = {CONV}(x, u, b)\nz = {CONV}(x, u)\nr = Relu(a)\ny = {CONV}(r, v)", "y z"),
        (f"a = {CONV}(x, u, b)\nr = Relu(a)\ny = {CONV}(r, v)\nz = Mul(b, six)", "y z"),
        (f"a = {CONV}(x, u, b)\nr = Relu(a)\ny = Conv<group=2>(r, g)", "y"),
        (f"a = {CONV}(x, u, b)\nr = Relu(a)\ny = ConvTranspose(r, p)", "y"),
        (f"a = {CONV}(x, u, b)\nr = Relu(a)\nt = Transpose<perm=[0,1,3,2]>(r)\ny = {CONV}(t, v)", "y"),
        (f"a = {CONV}(x, u, b)\nr = Relu(a)\ny = MatMul(r, q)", "y"),
        ("y = MatMul(x, q)\na = MatMul(x, q)\nz = MatMul(a, a)", "y z"),
    ],
)  # fmt: skip
def test_what_is_not_proven_stays(body: str, outputs: str) -> None:
    graph = of(
        IMAGE, body, outputs, zero=np.float32(0), six=np.float32(6), g=rand(6, 4, 3, 3), q=rand(8, 8), p=rand(8, 6, 3, 3), **PARTS
    )  # fmt: skip
    assert equalized(graph)[1] == []


def test_channels_of_zeros_and_weights_that_are_not_finite_stay() -> None:
    parts = {name: array.copy() for name, array in PARTS.items()}
    parts["u"][2] = 0
    parts["v"][:, 3] = 0
    parts["v"][0, 4, 1, 1] = np.inf
    graph = of(IMAGE, f"a = {CONV}(x, u, b)\nr = Relu(a)\ny = {CONV}(r, v)", **parts)
    work = clone(graph)
    equalize(work, PassContext())
    first = next(n for n in work.nodes if n.name == "a")
    for channel in (2, 3, 4):
        np.testing.assert_array_equal(first.inputs[1].data[channel], parts["u"][channel])  # type: ignore[union-attr, index]
    assert first.inputs[2].data[2] == parts["b"][2]  # type: ignore[union-attr, index]
    assert first.inputs[2].data[0] != parts["b"][0]  # type: ignore[union-attr, index]
