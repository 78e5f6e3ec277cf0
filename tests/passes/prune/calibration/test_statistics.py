"""Moments of layers' rows against explicit loops in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from graphopt.errors import UserError
from graphopt.ir.dims import symbol
from graphopt.ir.graph import Array, Graph, Use
from graphopt.passes.prune.calibration.linear_layer import linear, linear_layers
from graphopt.passes.prune.calibration.moments import pick_rows
from graphopt.passes.prune.calibration.statistics import Statistics, gather
from tests.support.graphs import new_graph

F64 = npt.NDArray[np.float64]


def feed_runner(graph: Graph, names: Sequence[str], feed: Mapping[str, Array]) -> dict[str, Array]:
    """A runner for graphs whose layers read inputs directly."""
    return {name: feed[name] for name in names}


def layer_graph(op: str, x: tuple[int, ...], w: tuple[int, ...], *, weight_at: int = 1, **attrs: Any) -> Graph:
    graph, editor, value = new_graph(*x)
    constant = editor.constant(np.random.default_rng(1).standard_normal(w).astype(np.float32), "w")
    operands = [value, constant] if weight_at == 1 else [constant, value]
    editor.set_output(graph, 0, editor.node(op, operands, attrs, name="layer").out)
    return graph


def patches(
    x: F64, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int]
) -> F64:
    """[N * positions, C * taps] by loops; two spatial axes."""
    n, channels, height, width = x.shape
    top, left, bottom, right = pads
    padded = np.zeros((n, channels, height + top + bottom, width + left + right))
    padded[:, :, top : top + height, left : left + width] = x
    rows = []
    for sample in padded:
        for i in range(0, padded.shape[2] - (kernel[0] - 1) * dilations[0], strides[0]):
            for j in range(0, padded.shape[3] - (kernel[1] - 1) * dilations[1], strides[1]):
                taps = [
                    sample[c, i + a * dilations[0], j + b * dilations[1]]
                    for c in range(channels)
                    for a in range(kernel[0])
                    for b in range(kernel[1])
                ]
                rows.append(taps)
    return np.asarray(rows)


def gathered(graph: Graph, arrays: Sequence[Array], **options: Any) -> tuple[Statistics, Use]:
    options.setdefault("max_rows", 1 << 30)
    return gather(graph, [{"x": a} for a in arrays], feed_runner, **options), linear_layers(graph)["layer"].weight


def check(statistics: Statistics, use: Use, rows: F64) -> None:
    """Rows: [n, K], or [G, n, K]."""
    n = rows.shape[-2]
    assert statistics.rows(use) == n
    want = np.matmul(np.swapaxes(rows, -1, -2), rows) / n
    np.testing.assert_allclose(statistics.gram(use), want, rtol=1e-6, atol=1e-6 * np.abs(want).max())
    np.testing.assert_allclose(statistics.mean(use), rows.mean(-2), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(statistics.energy(use), np.square(rows).mean(-2), rtol=1e-6)


@pytest.mark.parametrize(
    ("kernel", "strides", "dilations", "pads"),
    [
        ((1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
        ((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
        ((3, 2), (2, 3), (1, 1), (2, 0, 1, 1)),
        ((2, 3), (1, 2), (2, 1), (0, 3, 1, 0)),
        ((5, 1), (3, 1), (1, 1), (4, 0, 4, 0)),
    ],
)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolution_rows_are_patches(kernel: Any, strides: Any, dilations: Any, pads: Any, groups: int) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 4, 9, 11)).astype(np.float32) for _ in range(3)]
    attrs = {"strides": list(strides), "dilations": list(dilations), "pads": list(pads), "group": groups}
    graph = layer_graph("Conv", (2, 4, 9, 11), (8, 4 // groups, *kernel), **attrs)
    found = [patches(a.astype(np.float64), kernel, strides, dilations, pads) for a in arrays]
    rows = np.concatenate(found).reshape(-1, groups, 4 // groups * kernel[0] * kernel[1]).transpose(1, 0, 2)
    check(*gathered(graph, arrays), rows[0] if groups == 1 else rows)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding(mode: str) -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 6, 7)).astype(np.float32)
    graph = layer_graph("Conv", x.shape, (3, 2, 2, 4), auto_pad=mode, strides=[2, 2])
    pads = {"SAME_UPPER": (0, 1, 0, 2), "SAME_LOWER": (0, 2, 0, 1), "VALID": (0, 0, 0, 0)}[mode]
    check(*gathered(graph, [x]), patches(x.astype(np.float64), (2, 4), (2, 2), (1, 1), pads))


def test_one_spatial_axis() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 10)).astype(np.float32)
    graph = layer_graph("Conv", x.shape, (4, 3, 3), strides=[2], pads=[1, 0])
    rows = patches(x[:, :, None].astype(np.float64), (1, 3), (1, 2), (1, 1), (0, 1, 0, 0))
    check(*gathered(graph, [x]), rows)


@pytest.mark.parametrize("groups", [1, 3])
def test_transposed_convolution_multiplies_pixels(groups: int) -> None:
    x = np.random.default_rng(0).standard_normal((2, 6, 4, 5)).astype(np.float32)
    graph = layer_graph("ConvTranspose", x.shape, (6, 2, 3, 3), strides=[2, 2], group=groups)
    rows = x.transpose(0, 2, 3, 1).reshape(-1, groups, 6 // groups).transpose(1, 0, 2).astype(np.float64)
    check(*gathered(graph, [x]), rows[0] if groups == 1 else rows)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("weight_at", [0, 1])
def test_gemm(trans_a: int, trans_b: int, weight_at: int) -> None:
    m, k, n = 5, 4, 3
    a, b = ((k, m) if trans_a else (m, k)), ((n, k) if trans_b else (k, n))
    shape = b if weight_at == 0 else a
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    graph = layer_graph("Gemm", shape, a if weight_at == 0 else b, weight_at=weight_at, transA=trans_a, transB=trans_b)
    turned = trans_b == 0 if weight_at == 0 else trans_a == 1
    check(*gathered(graph, [x]), (x.T if turned else x).astype(np.float64))
    layer = linear_layers(graph)["layer"]
    w = layer.w.data
    assert w is not None
    matrix = layer.matrix(w)
    assert matrix.shape == (1, n if weight_at == 1 else m, k)
    np.testing.assert_array_equal(layer.array(matrix, w), w)
    want = (x.T if trans_a else x) @ (w.T if trans_b else w) if weight_at == 1 else None
    if want is not None:
        np.testing.assert_allclose(layer.rows(x)[0] @ matrix[0].T, layer.results(want)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("x", "w", "weight_at"), [((2, 5, 4), (4, 3), 1), ((2, 4, 5), (3, 4), 0), ((4,), (4, 3), 1)])
def test_matmul(x: tuple[int, ...], w: tuple[int, ...], weight_at: int) -> None:
    array = np.random.default_rng(0).standard_normal(x).astype(np.float32)
    graph = layer_graph("MatMul", x, w, weight_at=weight_at)
    turned = array if weight_at == 1 else np.swapaxes(array, -1, -2)
    check(*gathered(graph, [array]), turned.reshape(-1, 4).astype(np.float64))
    layer = linear_layers(graph)["layer"]
    weight = layer.w.data
    assert weight is not None
    y = array @ weight if weight_at == 1 else weight @ array
    np.testing.assert_allclose(
        layer.rows(array)[0] @ layer.matrix(weight)[0].T, layer.results(y)[0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_weights_as_matrix_reproduce_a_convolution(groups: int) -> None:
    from onnx.reference import ReferenceEvaluator

    from graphopt.driver.optimizing import export_onnx

    graph = layer_graph("Conv", (2, 4, 7, 6), (6, 4 // groups, 3, 2), strides=[2, 1], pads=[1, 0, 0, 1], group=groups)
    x = np.random.default_rng(0).standard_normal((2, 4, 7, 6)).astype(np.float32)
    y = ReferenceEvaluator(export_onnx(graph)).run(None, {"x": x})[0]
    layer = linear_layers(graph)["layer"]
    assert layer.w.data is not None
    got = np.matmul(layer.rows(x), layer.matrix(layer.w.data).transpose(0, 2, 1))
    np.testing.assert_allclose(got, layer.results(y), rtol=1e-5, atol=1e-5)


def test_rows_are_subsampled_by_seed() -> None:
    graph = layer_graph("Conv", (1, 2, 16, 16), (3, 2, 3, 3))
    x = np.random.default_rng(0).standard_normal((1, 2, 16, 16)).astype(np.float32)
    (a, use), (b, use_b) = gathered(graph, [x], max_rows=50), gathered(graph, [x], max_rows=50)
    c = gathered(graph, [x], max_rows=50, seed=1)[0]
    assert use == use_b
    assert a.rows(use) == 50
    np.testing.assert_array_equal(a.gram(use), b.gram(use))
    assert not np.array_equal(a.mean(use), c.mean(use))
    whole = gathered(graph, [x])[0]
    assert np.abs(a.energy(use) - whole.energy(use)).max() < 0.6


def test_picks_are_sorted_and_distinct() -> None:
    picks = pick_rows(1000, 100, (0, 1))
    assert len(set(picks.tolist())) == 100
    assert (np.diff(picks) > 0).all()
    np.testing.assert_array_equal(pick_rows(5, 100, (0,)), np.arange(5))


def test_memory_is_bounded() -> None:
    graph, editor, x = new_graph(2, 8)
    small = editor.node("MatMul", [x, editor.constant(np.ones((8, 30), np.float32))], name="small").out
    editor.set_output(graph, 0, small)
    wide = editor.node("MatMul", [small, editor.constant(np.ones((30, 4), np.float32))], name="wide").out
    editor.set_output(graph, 1, wide)

    def run(graph: Graph, names: Sequence[str], feed: Mapping[str, Array]) -> dict[str, Array]:
        known = {"x": feed["x"], small.name: np.repeat(feed["x"].sum(1, keepdims=True), 30, 1)}
        return {name: known[name] for name in names}

    uses = {name: layer.weight for name, layer in linear_layers(graph).items()}
    feeds = [{"x": np.ones((2, 8), np.float32)}]
    for limits in ({"max_columns": 29}, {"max_memory": 8 * 8 * 8 + 100}):
        statistics = gather(graph, feeds, run, **limits)  # type: ignore[arg-type]
        assert statistics.gram(uses["small"]) is not None
        assert statistics.gram(uses["wide"]) is None
        np.testing.assert_allclose(statistics.energy(uses["wide"]), 64)
        np.testing.assert_allclose(statistics.mean(uses["wide"]), 8)


def test_only_named_layers() -> None:
    graph = layer_graph("Gemm", (2, 3), (3, 4))
    statistics = gather(graph, [{"x": np.ones((2, 3), np.float32)}], feed_runner, layers=[])
    use = linear_layers(graph)["layer"].weight
    assert use not in statistics
    assert statistics.gram(use) is None
    assert statistics.rows(use) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_refused(bad: float) -> None:
    graph = layer_graph("Gemm", (2, 3), (3, 4))
    x = np.ones((2, 3), np.float32)
    x[1, 2] = bad
    with pytest.raises(UserError, match="NaN or infinity") as caught:
        gathered(graph, [x])
    assert "layer (Gemm)" in str(caught.value)


def test_no_feeds() -> None:
    with pytest.raises(UserError, match="no calibration samples"):
        gathered(layer_graph("Gemm", (2, 3), (3, 4)), [])


def test_an_empty_batch_adds_nothing() -> None:
    graph, editor, x = new_graph(symbol("N"), 3)
    weight = editor.constant(np.ones((3, 4), np.float32), "w")
    editor.set_output(graph, 0, editor.node("Gemm", [x, weight], name="layer").out)
    statistics, use = gathered(graph, [np.ones((0, 3), np.float32), np.ones((2, 3), np.float32)])
    assert statistics.rows(use) == 2


def test_what_is_no_linear_layer() -> None:
    _graph, editor, x = new_graph(2, 3)
    assert linear(editor.node("Relu", [x])) is None
    assert linear(editor.node("MatMul", [x, editor.constant(np.ones((5, 3, 2), np.float32))])) is None
    assert linear(editor.node("Gemm", [x, x], {"transB": 1})) is None
