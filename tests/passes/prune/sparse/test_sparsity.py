"""Zeros are the right ones: against loops, in the layers asked for, with every other reader of a constant left alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import optimize
from graphopt.errors import UserError
from graphopt.ir.graph import Array, Graph, Node
from graphopt.ir.onnx_io import graph_to_onnx
from graphopt.ir.printer import format_graph
from graphopt.ir.verifier import verify
from graphopt.passes.catalogue import parse_pass
from graphopt.passes.prune.calibration.statistics import gather
from graphopt.passes.prune.sparse.pattern import lowest, parse_pattern
from graphopt.passes.prune.sparse.sparsity import sparsify
from graphopt.rewrite.remarks import Remarks
from tests.support.onnx_graphs import model_of


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def graph_of(inputs: Mapping[str, str], body: str, outputs: str = "y", **consts: Any) -> Graph:
    return import_onnx(model_of(inputs, body, outputs, **consts))


def node(graph: Graph, name: str) -> Node:
    return next(n for n in graph.walk() if n.name == name)


def weight(graph: Graph, name: str, index: int = 1) -> Array:
    value = node(graph, name).inputs[index]
    assert value is not None
    assert value.data is not None
    return value.data


def feed_runner(graph: Graph, names: Sequence[str], feed: Mapping[str, Array]) -> dict[str, Array]:
    return {name: feed[name] for name in names}


CONV = {"x": "float[1,8,5,5]"}, "[conv] y = Conv(x, w)"


# -- which elements -----------------------------------------------------------------------------------------------------
def test_the_smallest_of_a_layer_become_zero_and_the_rest_stays() -> None:
    w = normal(6, 8, 3, 3)
    graph = graph_of(*CONV, w=w)
    text = format_graph(graph)
    out, (row,) = sparsify(graph, ratio=0.7)
    got = weight(out, "conv")
    assert format_graph(graph) == text
    np.testing.assert_array_equal(weight(graph, "conv"), w)
    cut = round(0.7 * w.size)
    np.testing.assert_array_equal(got == 0, np.abs(w) < np.sort(np.abs(w), axis=None)[cut])
    np.testing.assert_array_equal(got[got != 0], w[got != 0])
    assert (row.layer, row.op, row.weight, row.elements, row.before, row.after, row.reason) == (
        "conv", "Conv", "w", w.size, 0, cut, None,
    )  # fmt: skip
    assert [v.name for v in out.constants()] == [v.name for v in graph.constants()]
    verify(out)
    run = ReferenceEvaluator(graph_to_onnx(out)).run(None, {"x": normal(1, 8, 5, 5)})[0]
    expected = ReferenceEvaluator(model_of(*CONV, w=got)).run(None, {"x": normal(1, 8, 5, 5)})[0]
    np.testing.assert_allclose(run, expected, rtol=1e-5, atol=1e-5)


def test_ties_and_zeros_that_are_there() -> None:
    w = np.ones((4, 8), np.float32)
    w[1] = 0
    out, (row,) = sparsify(graph_of({"x": "float[2,8]"}, "[g] y = Gemm<transB=1>(x, w)", w=w), ratio=0.5)
    assert (row.before, row.after) == (8, 16)
    np.testing.assert_array_equal(weight(out, "g"), [[0] * 8, [0] * 8, [1] * 8, [1] * 8])  # the first of equal ones


def test_lowest_takes_exactly_so_many() -> None:
    rng = np.random.default_rng(0)
    for count in range(9):
        scores = rng.integers(0, 3, (50, 8)).astype(np.float32)
        mask = lowest(scores, count)
        order = np.argsort(scores, axis=1, kind="stable")[:, :count]
        want = np.zeros_like(mask)
        np.put_along_axis(want, order, True, axis=1)
        np.testing.assert_array_equal(mask, want)


def test_not_a_number_stays() -> None:
    w = normal(4, 8)
    w[0, 0] = np.nan
    out, _ = sparsify(graph_of({"x": "float[2,8]"}, "[g] y = Gemm<transB=1>(x, w)", w=w), ratio=0.9)
    assert np.isnan(weight(out, "g")[0, 0])


@pytest.mark.parametrize(("kept", "of"), [(2, 4), (1, 4), (4, 8), (1, 2), (3, 5)])
@pytest.mark.parametrize(
    ("inputs", "body", "shape", "axis"),
    [
        ({"x": "float[1,8,5,5]"}, "[l] y = Conv(x, w)", (6, 8, 3, 3), 1),
        ({"x": "float[1,10,5,5]"}, "[l] y = Conv(x, w)", (6, 10, 1, 1), 1),
        ({"x": "float[1,16,5,5]"}, "[l] y = Conv<group=2>(x, w)", (6, 8, 3, 3), 1),
        ({"x": "float[1,8,5,5]"}, "[l] y = ConvTranspose(x, w)", (8, 6, 2, 2), 0),
        ({"x": "float[2,12]"}, "[l] y = Gemm(x, w)", (12, 7), 0),
        ({"x": "float[2,12]"}, "[l] y = Gemm<transB=1>(x, w)", (7, 12), 1),
        ({"x": "float[3,2,12]"}, "[l] y = MatMul(x, w)", (12, 7), 0),
    ],
)
def test_n_of_m_along_the_axis_that_is_summed_over(
    kept: int, of: int, inputs: dict[str, str], body: str, shape: tuple[int, ...], axis: int
) -> None:
    w = normal(*shape)
    out, (row,) = sparsify(graph_of(inputs, body, w=w), pattern=f"{kept}:{of}")
    got, old = (np.moveaxis(a, axis, -1).reshape(-1, shape[axis]) for a in (weight(out, "l"), w))
    for new_row, old_row in zip(got, old):
        for start in range(0, shape[axis], of):
            new, before = new_row[start : start + of], old_row[start : start + of]
            stay = sorted(np.argsort(-np.abs(before))[:kept])
            assert list(np.flatnonzero(new)) == stay
            np.testing.assert_array_equal(new[stay], before[stay])
    assert row.after == int((weight(out, "l") == 0).sum())


def test_the_constant_may_be_the_left_operand() -> None:
    w = normal(5, 8)
    out, _ = sparsify(graph_of({"x": "float[8,3]"}, "[l] y = MatMul(w, x)", w=w), pattern="2:4")
    assert (np.count_nonzero(weight(out, "l", 0).reshape(5, 2, 4), axis=2) == 2).all()


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("groups", [1, 2])
def test_wanda_against_loops(pattern: str, groups: int) -> None:
    channels, outs, size = 8, 6, 5
    w = normal(outs, channels // groups, 3, 3)
    x = [normal(2, channels, size, size, seed=s) * np.arange(1, channels + 1).reshape(1, -1, 1, 1) for s in range(3)]
    graph = graph_of({"x": "float[2,8,5,5]"}, f"[conv] y = Conv<group={groups}>(x, w)", w=w)
    stats = gather(graph, [{"x": a} for a in x], feed_runner, max_rows=1 << 30)
    ratio = 0.6 if pattern == "unstructured" else None
    out, _ = sparsify(graph, pattern=pattern, ratio=ratio, method="wanda", stats=stats)
    got = weight(out, "conv")
    squares = np.square(np.concatenate(x).astype(np.float64))
    for o in range(outs):
        base = o // (outs // groups) * (channels // groups)
        score = np.zeros(w.shape[1:])
        for c, i, j in itertools.product(range(channels // groups), range(3), range(3)):
            seen = squares[:, base + c, i : i + size - 2, j : j + size - 2]
            score[c, i, j] = abs(w[o, c, i, j]) * np.sqrt(seen.mean())
        if pattern == "2:4":
            for i, j in itertools.product(range(3), range(3)):
                for start in range(0, channels // groups, 4):
                    four = score[start : start + 4, i, j]
                    np.testing.assert_array_equal(got[o, start : start + 4, i, j] != 0, four >= np.sort(four)[2])
        else:
            cut = np.sort(score, axis=None)[round(0.6 * score.size)]
            np.testing.assert_array_equal(got[o] == 0, score < cut)


def test_wanda_prefers_loud_inputs_where_magnitude_does_not() -> None:
    w = np.asarray([[1.0, 0.9, 0.8, 0.7]], np.float32)
    graph = graph_of({"x": "float[2,4]"}, "[g] y = Gemm<transB=1>(x, w)", w=w)
    x = np.asarray([[0.1, 0.2, 3, 4], [0.1, -0.2, -3, -4]], np.float32)
    stats = gather(graph, [{"x": x}], feed_runner)
    out, _ = sparsify(graph, ratio=0.5, method="wanda", stats=stats)
    np.testing.assert_array_equal(weight(out, "g") != 0, [[False, False, True, True]])
    out, _ = sparsify(graph, ratio=0.5)
    np.testing.assert_array_equal(weight(out, "g") != 0, [[True, True, False, False]])


def test_global_compares_all_layers_together() -> None:
    a, b = normal(8, 8), normal(8, 8, seed=1) * 100
    graph = graph_of({"x": "float[2,8]"}, "[a] h = MatMul(x, wa)\n[b] y = MatMul(h, wb)", wa=a, wb=b)
    out, rows = sparsify(graph, ratio=0.5, scope="global")
    assert sum(r.after for r in rows) == 64
    assert rows[0].after > 60
    assert weight(out, "b").any()


# -- which layers, which constants --------------------------------------------------------------------------------------
def test_depthwise_layers_stay_unless_asked_for() -> None:
    body = "[dw] h = Conv<group=8>(x, wd)\n[pw] y = Conv(h, wp)"
    graph = graph_of({"x": "float[1,8,5,5]"}, body, wd=normal(8, 1, 3, 3), wp=normal(4, 8, 1, 1))
    out, rows = sparsify(graph, ratio=0.5)
    assert rows[0].reason == "its outputs read one input channel each"
    assert (rows[0].after, rows[1].after) == (0, 16)
    assert (weight(out, "dw") != 0).all()
    out, rows = sparsify(graph, ratio=0.5, depthwise=True)
    assert [r.after for r in rows] == [36, 16]
    assert sparsify(graph, pattern="2:4", depthwise=True)[1][0].reason
    body = "[first] h = Conv(x, wd)\n[pw] y = Conv(h, wp)"
    graph = graph_of({"x": "float[1,1,5,5]"}, body, wd=normal(8, 1, 3, 3), wp=normal(4, 8, 1, 1))
    assert [r.after for r in sparsify(graph, ratio=0.5)[1]] == [0, 16]


def test_excluded_layers_and_unknown_names() -> None:
    graph = graph_of(
        {"x": "float[2,8]"}, "[first] h = MatMul(x, wa)\n[second] y = MatMul(h, wb)", wa=normal(8, 8), wb=normal(8, 4)
    )
    _, rows = sparsify(graph, ratio=0.5, exclude=["fir*"])
    assert [(r.reason, r.after) for r in rows] == [("it is excluded", 0), (None, 16)]
    with pytest.raises(UserError, match=r"no layer is called 'secnd'(.|\n)*did you mean 'second'") as caught:
        sparsify(graph, ratio=0.5, exclude=["secnd"])
    assert caught.value.code == "unknown-layer"
    with pytest.raises(UserError, match="no layer's weights") as caught:
        sparsify(graph, ratio=0.5, exclude=["*"])
    assert caught.value.notes == ("first: it is excluded", "second: it is excluded")


SHARED = "[one] a = MatMul(x, w)\n[two] b = MatMul(x, w)\n[sum] y = Add(a, b)"


def test_a_constant_of_two_layers_stays_one() -> None:
    graph = graph_of({"x": "float[2,8]"}, SHARED, w=normal(8, 8))
    out, rows = sparsify(graph, ratio=0.5)
    assert [r.after for r in rows] == [32, 32]
    assert [v.name for v in out.constants()] == ["w"]
    stats = gather(graph, [{"x": normal(2, 8)}], feed_runner)
    out, _ = sparsify(graph, ratio=0.5, method="wanda", stats=stats)
    assert [v.name for v in out.constants()] == ["w"]


@pytest.mark.parametrize(
    ("inputs", "body", "outputs", "exclude", "layer", "other"),
    [
        ({"x": "float[2,8]"}, SHARED, "y", ["two"], ("one", 1), ("two", 1)),
        ({"x": "float[2,8]", "i": "int64[3]"}, "[one] y = MatMul(x, w)\n[look] z = Gather(w, i)", "y z", [],
         ("one", 1), ("look", 0)),
        ({"x": "float[8,8]"}, "[one] y = MatMul(x, w)\n[act] z = Relu(w)", "y z", [], ("one", 1), ("act", 0)),
    ],
)  # fmt: skip
def test_other_readers_keep_their_elements(
    inputs: dict[str, str], body: str, outputs: str, exclude: list[str], layer: tuple[str, int], other: tuple[str, int]
) -> None:
    w = normal(8, 8)
    out, _ = sparsify(graph_of(inputs, body, outputs, w=w), ratio=0.5, exclude=exclude)
    assert np.count_nonzero(weight(out, *layer)) == 32
    np.testing.assert_array_equal(weight(out, *other), w)
    verify(out)


def test_layers_that_read_a_constant_otherwise_get_their_own() -> None:
    w = normal(8, 8)
    body = "[one] a = Gemm(x, w)\n[two] b = Gemm<transB=1>(x, w)\n[sum] y = Add(a, b)"
    out, _ = sparsify(graph_of({"x": "float[2,8]"}, body, w=w), pattern="2:4")
    one, two = weight(out, "one"), weight(out, "two")
    assert (np.count_nonzero(one.T.reshape(8, 2, 4), axis=2) == 2).all()
    assert (np.count_nonzero(two.reshape(8, 2, 4), axis=2) == 2).all()
    assert not np.array_equal(one, two)
    assert "w" in [v.name for v in out.constants()]
    verify(out)


def test_layers_without_data_are_left_alone_by_wanda() -> None:
    graph = graph_of(
        {"x": "float[2,8]"}, "[one] y = MatMul(x, w)\n[two] z = MatMul(x, v)", "y z", w=normal(8, 8), v=normal(8, 8)
    )
    stats = gather(graph, [{"x": normal(2, 8)}], feed_runner, layers=["one"])
    _, rows = sparsify(graph, ratio=0.5, method="wanda", stats=stats)
    assert [r.reason for r in rows] == [None, "no calibration data reached it"]


def test_half_precision_stays_half_precision() -> None:
    w = normal(8, 8).astype(np.float16)
    out, _ = sparsify(graph_of({"x": "float16[2,8]"}, "[m] y = MatMul(x, w)", "y:float16", w=w), ratio=0.5)
    assert weight(out, "m").dtype == np.float16
    assert np.count_nonzero(weight(out, "m")) == 32


# -- requests -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"pattern": "2-4"}, "bad-pattern"),
        ({"pattern": "4:4"}, "bad-pattern"),
        ({"pattern": "0:4"}, "bad-pattern"),
        ({"pattern": "4:2"}, "bad-pattern"),
        ({"pattern": "2:999"}, "bad-pattern"),
        ({"pattern": "2:4 "}, "bad-pattern"),
        ({"pattern": "banded"}, "bad-pattern"),
        ({}, "bad-ratio"),
        ({"ratio": 0.0}, "bad-ratio"),
        ({"ratio": 1.0}, "bad-ratio"),
        ({"ratio": -0.5}, "bad-ratio"),
        ({"ratio": float("nan")}, "bad-ratio"),
        ({"pattern": "2:4", "ratio": 0.8}, "contradictory-sparsity"),
        ({"pattern": "2:4", "scope": "global"}, "contradictory-sparsity"),
        ({"ratio": 0.5, "method": "wonda"}, "unknown-method"),
        ({"ratio": 0.5, "scope": "galactic"}, "unknown-scope"),
        ({"ratio": 0.5, "method": "wanda"}, "needs-calibration"),
    ],
)
def test_bad_requests(request_: dict[str, Any], code: str) -> None:
    graph = graph_of(*CONV, w=normal(6, 8, 3, 3))
    with pytest.raises(UserError) as caught:
        sparsify(graph, **request_)
    assert caught.value.code == code
    assert caught.value.hint


def test_a_ratio_that_agrees_with_the_pattern() -> None:
    assert parse_pattern("2:4", 0.5) == parse_pattern("2:4", None)
    assert str(parse_pattern("1:4", 0.75)) == "1:4"
    assert str(parse_pattern("unstructured", 0.8)) == "80%"


def test_models_without_layers() -> None:
    with pytest.raises(UserError, match="no layers with constant weights"):
        sparsify(graph_of({"x": "float[2]"}, "y = Relu(x)"), ratio=0.5)


# -- the pass -----------------------------------------------------------------------------------------------------------
def test_the_pass() -> None:
    w = normal(6, 8, 3, 3)
    remarks = Remarks()
    graph = graph_of(*CONV, w=w)
    out = optimize(graph, passes=["sparsify{ratio=0.5,pattern=2:4}"], remarks=remarks, verify_each=True)
    assert np.count_nonzero(weight(out, "conv")) == w.size // 2
    assert ["216 of 432 elements of %w are zero" in str(r) for r in remarks] == [True]
    assert np.count_nonzero(weight(graph, "conv")) == w.size
    assert parse_pass("sparsify{ratio=0.8,exclude=[a,b]}").spec() == "sparsify{ratio=0.8,exclude=[a,b]}"
    with pytest.raises(UserError, match="needs a ratio"):
        optimize(graph, passes=["sparsify"])


def test_zeros_survive_optimisation() -> None:
    """Folding a BatchNormalization scales rows, so a layer stays as sparse."""
    body = "h = Conv(x, w)\ny = BatchNormalization(h, s, b, m, v)"
    ones = np.ones(6, np.float32)
    graph = graph_of({"x": "float[1,8,5,5]"}, body, w=normal(6, 8, 3, 3), s=ones * 2, b=ones, m=ones, v=ones)
    out = optimize(sparsify(graph, pattern="2:4")[0])
    conv = next(n for n in out.nodes if n.op == "Conv")
    assert [n.op for n in out.nodes] == ["Conv"]
    assert (np.count_nonzero(weight(out, conv.name).reshape(6, 2, 4, 3, 3), axis=2) <= 2).all()


def test_layers_in_branches() -> None:
    w = normal(8, 8)
    then = onnx.parser.parse_graph("then () => (float[2,8] t) { t = MatMul(x, w) }")
    other = onnx.parser.parse_graph("other () => (float[2,8] e) { e = Relu(x) }")
    model = model_of({"x": "float[2,8]", "c": "bool[]"}, "z = Relu(x)", "z y", w=w)
    then.node[0].name = "inner"
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["y"], "choice", then_branch=then, else_branch=other))
    graph = import_onnx(onnx.shape_inference.infer_shapes(model))
    out, _ = sparsify(graph, ratio=0.5)
    assert np.count_nonzero(weight(out, "inner")) == 32
    assert np.count_nonzero(weight(graph, "inner")) == 64
    verify(out)
