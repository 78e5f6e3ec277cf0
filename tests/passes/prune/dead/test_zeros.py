"""What the analysis of zeros claims holds for every value, and what it should find it finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.driver.optimizing import export_onnx
from graphopt.ir.editor import Editor, clone
from graphopt.ir.graph import Array, Graph, Node
from graphopt.ops.infer import infer_node
from graphopt.passes.prune.dead.zero_rules import rule_of
from graphopt.passes.prune.dead.zeros import Zeros
from tests.passes.prune.dead.dead_nets import BLOCKS, network
from tests.support.evaluate import random_inputs
from tests.support.onnx_graphs import graph_of, rand
from tests.support.ort import run_ort


def holed(*shape: int, axis: int = 0, at: int = 1) -> Array:
    """Random weights with a slice of zeros."""
    data = rand(*shape)
    data[(slice(None),) * axis + (at,)] = 0
    return data


def claims(graph: Graph, op: str, axis: int = 1) -> list[float | None]:
    """What is known along an axis of the result of the last node of an operator."""
    node: Node = [n for n in graph.nodes if n.op == op][-1]
    known = Zeros(graph, rule_of).known(node.out, axis)
    extent = node.out.shape[axis]
    assert isinstance(extent, int)
    return [float(known.value[i]) if known is not None and known.mask[i] else None for i in range(extent)]


def check_claims(graph: Graph) -> int:
    """Compare everything that is known of run-time values with ONNX Runtime; returns how many slices that were."""
    whole = clone(graph)
    editor = Editor(whole, infer_node)
    values = [n.out for n in whole.nodes]
    for value in values:
        if not value.escapes:
            editor.set_output(whole, len(whole.outputs), value)
    names = [v.name for v in whole.outputs]
    results = dict(zip(names, run_ort(export_onnx(whole), random_inputs(whole))))
    zeros, checked = Zeros(graph, rule_of), 0
    for node in graph.nodes:
        for axis in range(len(node.out.shape)):
            known = zeros.known(node.out, axis)
            for i in np.flatnonzero(known.mask) if known is not None else ():
                assert known is not None
                found = np.take(results[node.out.name], i, axis).astype(np.float64)
                error = np.abs(found - float(known.value[i])).max(initial=0)
                limit = 0 if known.value[i] == 0 else 1e-5 * (1 + abs(float(known.value[i])))
                assert error <= limit, f"{node.label}: {known.value[i]} claimed at {i} of axis {axis}"
                checked += 1
    return checked


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=7), st.integers(0, 1 << 20))
def test_every_claim_holds(blocks: list[str], seed: int) -> None:
    check_claims(network(blocks, seed))


@pytest.mark.parametrize("block", dict.fromkeys(BLOCKS))
def test_each_block_tells_something(block: str) -> None:
    """Otherwise the test above would prove nothing of it."""
    assert sum(check_claims(network([block, "relu"], seed)) for seed in range(4)) > 0


CONV = "c = Conv(x, w, b)\n"
X = {"x": "float[2,3,4,4]"}


def test_a_row_of_zeros_leaves_the_bias() -> None:
    g = graph_of(X, CONV + "y = Relu(c)", w=holed(4, 3, 1, 1), b=np.float32([1, -2, 3, 4]))
    assert claims(g, "Conv") == [None, -2, None, None]
    assert claims(g, "Relu") == [None, 0, None, None]


def test_zero_inputs_count_for_each_output_that_reads_only_them() -> None:
    w = rand(4, 4, 1, 1)
    w[2, [0, 2, 3]] = 0  # reads channel 1 alone, which is zero
    g = graph_of(X, "c = Conv(x, v)\nr = Relu(c)\ny = Conv(r, w)", v=holed(4, 3, 1, 1), w=w)
    assert claims(g, "Conv") == [None, None, 0, None]


def test_groups_keep_their_inputs_apart() -> None:
    v = rand(4, 3, 1, 1)
    v[:2] = 0
    body = "c = Conv(x, v)\ny = Conv<group=2>(c, w)"
    assert claims(graph_of(X, body, v=v, w=rand(6, 2, 1, 1)), "Conv") == [0, 0, 0, None, None, None]
    body = "c = Conv(x, v)\ny = ConvTranspose<group=2>(c, w)"
    assert claims(graph_of(X, body, v=v, w=rand(4, 3, 1, 1)), "ConvTranspose") == [0, 0, 0, None, None, None]


def test_batch_norm_without_scale_leaves_its_shift() -> None:
    g = graph_of(
        X, "y = BatchNormalization(x, s, b, m, v)", s=np.float32([0, 1, 0]), b=np.float32([0, 0, 5]),
        m=rand(3), v=rand(3, positive=True),
    )  # fmt: skip
    assert claims(g, "BatchNormalization") == [0, None, 5]


def test_batch_norm_of_a_known_channel() -> None:
    g = graph_of(
        X, CONV + "y = BatchNormalization(c, s, t, m, v)", w=holed(2, 3, 1, 1), b=np.float32([1, 3]),
        s=np.float32([2, 2]), t=np.float32([1, -2]), m=np.float32([0, 2]), v=np.float32([1, 1 - 1e-5]),
    )  # fmt: skip
    assert claims(g, "BatchNormalization") == [None, pytest.approx(0, abs=1e-6)]


@pytest.mark.parametrize(
    ("body", "want"),
    [
        ("y = Cos(c)", [None, 1]),  # evaluated, not assumed to keep zero
        ("y = Exp(c)", [None, 1]),
        ("y = Reciprocal(c)", [None, None]),  # infinite
        ("y = Log(c)", [None, None]),
        ("y = Add(c, k)", [None, 7]),
        ("y = Sub(k, c)", [None, 7]),
        ("y = Max(c, k, c)", [None, 7]),
        ("y = Mul(x2, c)", [None, 0]),
        ("y = Add(x2, c)", [None, None]),
        ("y = PRelu(c, x2)", [None, 0]),
        ("y = Sum(c, c)", [None, 0]),
        ("y = Mul(c, z)", [0, 0]),
        ("m = Cast<to=9>(x2)\ny = Where(m, c, c)", [None, 0]),
        ("m = Cast<to=9>(x2)\ny = Where(m, c, x2)", [None, None]),
        ("y = MaxPool<kernel_shape=[2,2]>(c)", [None, 0]),
        ("d = Add(c, k)\ny = AveragePool<kernel_shape=[2,2],pads=[1,1,1,1],count_include_pad=1>(d)", [None, None]),
        ("y = ReduceSum<keepdims=1>(c, ax)", [None, 0]),
        ("y = ReduceLogSum<keepdims=1>(c, ax)", [None, None]),
        ("y = Pad(c, pads)", [None, 0]),
        ("y = Pad(c, pads, k)", [None, None]),
        ('y = Pad<mode="edge">(c, pads)', [None, 0]),
        ("y = Softmax<axis=3>(c)", [None, None]),
    ],
)  # fmt: skip
def test_channels_of_zero_through(body: str, want: list[float | None]) -> None:
    g = graph_of(
        {**X, "x2": "float[2,2,4,4]"}, f"c = Conv(x, w)\n{body}", w=holed(2, 3, 1, 1), k=np.float32(7), z=np.float32(0),
        ax=np.int64([3]), pads=np.int64([0, 0, 1, 1, 0, 0, 1, 1]),
    )  # fmt: skip
    node = next(n for n in g.nodes if n.out.is_output)
    known = Zeros(g, rule_of).known(node.out, 1)
    assert [float(known.value[i]) if known is not None and known.mask[i] else None for i in range(2)] == want


def test_numbers_move_with_the_elements() -> None:
    v = rand(4, 3, 1, 1)
    v[[0, 1]] = 0
    shape = "s = Reshape(c, t)\n"
    g = graph_of(X, f"c = Conv(x, v)\n{shape}y = Transpose<perm=[0,2,1,3]>(s)", v=v, t=np.int64([2, 2, 2, 16]))
    assert claims(g, "Reshape", 1) == [0, None]  # the first of two groups
    assert claims(g, "Transpose", 2) == [0, None]
    v = rand(4, 3, 1, 1)
    v[[0, 2]] = 0
    g = graph_of(X, f"c = Conv(x, v)\n{shape}y = Relu(s)", v=v, t=np.int64([2, 2, 2, 16]))
    assert claims(g, "Reshape", 1) == [None, None]
    assert claims(g, "Reshape", 2) == [0, None]  # the first of every group


def test_quantised_weights_are_zero_at_their_zero_point() -> None:
    w = np.random.default_rng(0).integers(1, 9, (3, 3, 1, 1)).astype(np.int8)
    w[1] = 4
    g = graph_of(
        X, "d = DequantizeLinear<axis=0>(w, s, p)\ny = Conv(x, d)", w=w, s=np.float32([1, 2, 3]), p=np.int8([0, 4, 0])
    )  # fmt: skip
    assert claims(g, "Conv") == [None, 0, None]


def test_products_of_matrices_and_batches() -> None:
    a = {"a": "float[4,2,3]", "b": "float[4,3,5]"}
    g = graph_of(a, "m = Mul(a, h)\ny = MatMul(m, b)", h=np.float32([1, 0, 1, 1]).reshape(4, 1, 1))
    assert claims(g, "MatMul", 0) == [None, 0, None, None]
    g = graph_of({"x": "float[4,3]"}, "m = MatMul(x, w)\ny = Relu(m)", w=holed(3, 5, axis=1))
    assert claims(g, "MatMul", 1) == [None, 0, None, None, None]
    g = graph_of(
        {"x": "float[4,3]"}, "y = Gemm<beta=2.0>(x, w, b)", w=holed(3, 5, axis=1), b=np.float32([1, 2, 3, 4, 5])
    )
    assert claims(g, "Gemm", 1) == [None, 4, None, None, None]


def test_nothing_is_known_of_dense_networks() -> None:
    g = graph_of(X, CONV + "y = Relu(c)", w=rand(4, 3, 1, 1), b=rand(4))
    assert Zeros(g, rule_of).is_empty


def test_channels_that_go_count_as_zero() -> None:
    g = graph_of(
        X, "c = Conv(x, v)\ny = Conv(c, w)", v=rand(4, 3, 1, 1), w=np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    )
    first = g.nodes[0].out
    gone = np.asarray([True, False, True, True])
    zeros = Zeros(g, rule_of, lambda slot: [None, gone, None, None] if slot is first else [])
    assert zeros.zero(g.nodes[1].out, 1).tolist() == [False, True, False, False]
