"""Dead channels go, nothing else does, and outputs stay what they were in ONNX Runtime without optimisation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.driver.optimizing import optimize
from graphopt.errors import InternalError
from graphopt.ir.graph import Array, Graph
from graphopt.passes.prune.dead import dead_channels
from graphopt.passes.prune.dead.dead_channels import find_dead
from graphopt.passes.prune.groups import find_groups
from graphopt.passes.prune.plan import PrunePlan
from graphopt.rewrite.remarks import Remarks
from tests.passes.prune.dead.dead_nets import BLOCKS, network
from tests.support.onnx_graphs import assert_refuses, graph_of, ops, rand, run_pass

PASS = "remove-dead-channels"
X = {"x": "float[1,3,6,6]"}


def rows(count: int, *inner: int, gone: int | list[int], axis: int = 0) -> Array:
    """Random weights without some rows (or columns)."""
    data = rand(count, *inner)
    data[(slice(None),) * axis + (gone,)] = 0
    return data


def weights(graph: Graph) -> list[tuple[int, ...]]:
    """Shapes of the weights of layers, in order."""
    return [n.inputs[1].shape for n in graph.nodes if n.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")]  # type: ignore[union-attr,misc]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=7), st.integers(0, 1 << 20))
def test_outputs_stay_as_they_were(blocks: list[str], seed: int) -> None:
    run_pass(network(blocks, seed), PASS)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=5), st.integers(0, 1 << 20))
def test_together_with_all_of_level_3(blocks: list[str], seed: int) -> None:
    graph = network(blocks, seed)
    optimize(graph, 3, verify_each=True, for_export=False)
    run_pass(optimize(graph, 2, for_export=False), PASS)


def test_most_random_networks_lose_channels() -> None:
    """Otherwise the tests above would prove nothing."""
    lost = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        groups = find_groups(network([BLOCKS[i] for i in rng.integers(0, len(BLOCKS), 4)], seed))
        lost += any(mask.any() for mask in find_dead(groups).removed.values())
    assert lost > 20


def test_rows_of_zeros_go_through_an_activation() -> None:
    g = graph_of(
        X, "c = Conv(x, v, b)\nr = Relu(c)\ny = Conv(r, w)", v=rows(4, 3, 3, 3, gone=[1, 3]), b=np.float32([1, 0, 1, -5]),
        w=rand(5, 4, 1, 1),
    )  # fmt: skip
    after, remarks = run_pass(g, PASS)
    assert weights(after) == [(2, 3, 3, 3), (5, 2, 1, 1)]
    assert "2 of 4 channels" in next(r.text for r in remarks if r.applied)


def test_columns_of_zeros_take_their_producers_along() -> None:
    """And what only those read: a chain from the end to the start."""
    u, v, w = rand(6, 3, 1, 1), rand(5, 6, 1, 1), rows(4, 5, 1, 1, gone=[0, 1], axis=1)
    v[2:, 4:] = 0  # channels 4 and 5 are read by the two dead ones only
    g = graph_of(X, "a = Conv(x, u)\nr = Tanh(a)\nb = Conv(r, v)\ns = Exp(b)\ny = Conv(s, w)", u=u, v=v, w=w)
    after, _ = run_pass(g, PASS)
    assert weights(after) == [(4, 3, 1, 1), (3, 4, 1, 1), (4, 3, 1, 1)]


def test_a_channel_that_is_zero_here_and_unread_there() -> None:
    """Of two readers one sees zeros after its activation, the other multiplies by zero."""
    v, w = rows(4, 3, 1, 1, gone=2), rand(4, 4, 1, 1)
    body = "a = Conv(x, v)\ny = Conv(a, w)\nc = Exp(a)\nz = Conv<pads=[1,1,1,1]>(c, u)"
    g = graph_of(X, body, "y z", v=v, w=w, u=rows(4, 4, 1, 1, gone=2, axis=1))
    assert weights(run_pass(g, PASS)[0])[0] == (3, 3, 1, 1)
    g = graph_of(X, body, "y z", v=v, w=w, u=rows(4, 4, 3, 3, gone=1, axis=1))
    assert weights(run_pass(g, PASS)[0])[0] == (4, 3, 1, 1)


def test_a_residual_needs_zeros_on_both_sides() -> None:
    body = "a = Conv(x, u)\nr = Relu(a)\nb = Conv(r, v)\ns = Add(r, b)\ny = Conv(s, w)"
    u, v, w = rows(4, 3, 1, 1, gone=[0, 1]), rows(4, 4, 1, 1, gone=[1, 2]), rand(3, 4, 1, 1)
    assert weights(run_pass(graph_of(X, body, u=u, v=v, w=w), PASS)[0]) == [(3, 3, 1, 1), (3, 3, 1, 1), (3, 3, 1, 1)]


def test_norms_without_scale_and_gates_that_are_shut() -> None:
    g = graph_of(
        X, "a = Conv(x, v)\nn = BatchNormalization(a, s, t, m, q)\nk = Mul(n, h)\ny = Conv(k, w)", v=rand(5, 3, 1, 1),
        s=np.float32([1, 0, 1, 0, 1]), t=np.float32([1, 0, 1, 2, 1]), m=rand(5), q=rand(5, positive=True),
        h=np.float32([1, 1, 1, 1, 0]).reshape(5, 1, 1), w=rand(2, 5, 3, 3),
    )  # fmt: skip
    after, remarks = run_pass(g, PASS)
    assert weights(after) == [(2, 3, 1, 1), (2, 2, 3, 3)]
    assert not [r for r in remarks.refusals() if "same number" in r.text]  # the shift of 2 went into the bias


def test_constant_channels_go_into_the_next_bias() -> None:
    consts = {"v": rows(4, 3, 1, 1, gone=[0, 2]), "b": np.float32([3, 1, 2, 1]), "w": rand(5, 4, 2, 2)}
    g = graph_of(X, "a = Conv(x, v, b)\nr = Sigmoid(a)\ny = Conv(r, w)", **consts)
    after, remarks = run_pass(g, PASS)
    assert weights(after) == [(2, 3, 1, 1), (5, 2, 2, 2)]
    assert any("in the bias now" in r.text for r in remarks if r.applied)
    flat = "f = Flatten(r)\ny = Gemm<alpha=0.5,beta=3.0,transB=1>(f, m, n)"
    g = graph_of(
        {"x": "float[2,3,1,1]"}, f"a = Conv(x, v, b)\nr = Sigmoid(a)\n{flat}", v=consts["v"], b=consts["b"], m=rand(5, 4), n=rand(5)
    )  # fmt: skip
    assert weights(run_pass(g, PASS)[0]) == [(2, 3, 1, 1), (5, 2)]


@pytest.mark.parametrize(
    ("reader", "why"),
    [
        ("y = Conv<pads=[1,1,1,1]>(r, w)", "the border is zero"),
        ('y = Conv<auto_pad="SAME_UPPER">(r, w)', "the border is zero"),
        ("y = ConvTranspose(r, w)", "border positions sum fewer taps"),
        ("z = Conv(r, w)\nq = Conv(x, w3)\nk = Conv(q, w)\ny = Add(z, k)", "the weight is shared"),
    ],
)
def test_constant_channels_stay_where_no_bias_could_hold_them(reader: str, why: str) -> None:
    g = graph_of(
        X, f"a = Conv(x, v, b)\nr = Sigmoid(a)\n{reader}", v=rows(4, 3, 1, 1, gone=[0, 2]), b=np.float32([3, 1, 2, 1]),
        w=rand(4, 4, 2, 2), w3=rand(4, 3, 1, 1),
    )  # fmt: skip
    assert_refuses(g, PASS, "are the same number everywhere, but not zero")


def test_parts_that_nobody_takes() -> None:
    """They are a group of their own, of which one channel stays."""
    cut = {"b": np.int64([1]), "e": np.int64([4]), "a": np.int64([1])}
    body = "c = Conv(x, v)\ns = Slice(c, b, e, a)\ny = Conv(s, w)"
    g = graph_of(X, body, v=rand(8, 3, 1, 1), w=rand(2, 3, 1, 1), **cut)
    assert weights(run_pass(g, PASS)[0]) == [(4, 3, 1, 1), (2, 3, 1, 1)]
    body = "c = Conv(x, v)\ns = Gather<axis=1>(c, i)\ny = Conv(s, w)"
    g = graph_of(X, body, v=rand(8, 3, 1, 1), w=rand(2, 3, 1, 1), i=np.int64([5, 0, 5]))
    assert weights(run_pass(g, PASS)[0]) == [(3, 3, 1, 1), (2, 3, 1, 1)]


def test_no_part_of_a_split_becomes_empty() -> None:
    g = graph_of(
        X,
        "c = Conv(x, v)\na, b = Split<axis=1>(c, s)\ny = Conv(a, w)\nz = Conv(b, u)", "y z",
        v=rows(6, 3, 1, 1, gone=[2, 3, 4, 5]),
        s=np.int64([2, 4]), w=rand(3, 2, 1, 1), u=rand(3, 4, 1, 1),
    )  # fmt: skip
    assert weights(run_pass(g, PASS)[0]) == [(3, 3, 1, 1), (3, 2, 1, 1), (3, 1, 1, 1)]


def test_one_channel_stays_where_all_are_dead() -> None:
    g = graph_of(X, "c = Conv(x, v)\ny = Conv(c, w)", v=np.zeros((4, 3, 1, 1), np.float32), w=rand(2, 4, 1, 1))
    assert weights(run_pass(g, PASS)[0]) == [(1, 3, 1, 1), (2, 1, 1, 1)]


def test_what_is_left_can_be_a_multiple() -> None:
    g = graph_of(X, "c = Conv(x, v)\ny = Conv(c, w)", v=rows(16, 3, 1, 1, gone=[0, 2, 3, 4, 5, 9]), w=rand(2, 16, 1, 1))
    assert weights(run_pass(g, PASS + "{multiple=4}")[0]) == [(12, 3, 1, 1), (2, 12, 1, 1)]
    assert weights(run_pass(g, PASS + "{multiple=32}")[0]) == weights(g)


def test_depthwise_and_grouped() -> None:
    body = "a = Conv(x, u)\nr = Relu(a)\nd = Conv<group=4,pads=[1,1,1,1]>(r, v)\ny = Conv(d, w)"
    u, v, w = rows(4, 3, 1, 1, gone=0), rows(4, 1, 3, 3, gone=1), rand(3, 4, 1, 1)
    after, _ = run_pass(graph_of(X, body, u=u, v=v, w=w), PASS)
    assert weights(after) == [(2, 3, 1, 1), (2, 1, 3, 3), (3, 2, 1, 1)]
    body = "a = Conv(x, u)\nr = Relu(a)\nd = Conv<group=2>(r, v)\ny = Conv(d, w)"
    g = graph_of(X, body, u=rows(4, 3, 1, 1, gone=[1, 3]), v=rand(4, 2, 1, 1), w=rand(3, 4, 1, 1))
    assert weights(run_pass(g, PASS)[0])[:2] == [(2, 3, 1, 1), (4, 1, 1, 1)]


def test_run_time_products() -> None:
    """Queries and keys: an index of the summed axis is dead as soon as one of them is zero there."""
    body = "q = MatMul(x, a)\nk = MatMul(x, b)\nt = Transpose<perm=[0,2,1]>(k)\ns = MatMul(q, t)\ny = Softmax(s)"
    g = graph_of({"x": "float[2,5,6]"}, body, a=rows(6, 4, gone=1, axis=1), b=rows(6, 4, gone=2, axis=1))
    assert weights(run_pass(g, PASS)[0])[:2] == [(6, 2), (6, 2)]


def test_symbolic_batch_and_extents() -> None:
    g = graph_of(
        {"x": "float[N,3,H,W]"}, "c = Conv<pads=[1,1,1,1]>(x, v)\nr = Relu(c)\np = MaxPool<kernel_shape=[2,2]>(r)\ny = Conv(p, w)",
        v=rows(4, 3, 3, 3, gone=1), w=rand(2, 4, 1, 1),
    )  # fmt: skip
    assert weights(run_pass(g, PASS)[0]) == [(3, 3, 3, 3), (2, 3, 1, 1)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = Relu(c)", "they leave the graph as output"),
        ("r = Relu(c)\ny = Softmax<axis=1>(r)", "computes over all of them"),
        ("m = ReduceMean<keepdims=1>(c, ax)\ny = Sub(c, m)", ""),
    ],
)
def test_zero_channels_that_stay(body: str, reason: str) -> None:
    g = graph_of(X, f"c = Conv(x, v)\n{body}", v=rows(4, 3, 1, 1, gone=1), ax=np.int64([1]))
    assert_refuses(g, PASS, "1 output channels with weights of zero stay: ")
    assert_refuses(g, PASS, reason)


@pytest.mark.parametrize(
    "body",
    [
        "r = Exp(c)\ny = Conv<pads=[1,1,1,1]>(r, w)",  # one, and read, with a border of zeros
        "r = Add(c, x4)\ny = Conv(r, w)",  # zero plus something
        "r = Softmax<axis=3>(c)\ny = Conv(r, w)",  # an even distribution of zeros
        "r = Pad(c, pads, one)\ny = Conv(r, w)",  # framed in ones
    ],
)  # fmt: skip
def test_channels_that_are_not_dead(body: str) -> None:
    g = graph_of(
        {**X, "x4": "float[1,4,6,6]"}, f"c = Conv(x, v)\n{body}", v=rows(4, 3, 1, 1, gone=1), w=rand(2, 4, 1, 1),
        pads=np.int64([0, 0, 1, 1, 0, 0, 1, 1]), one=np.float32(1),
    )  # fmt: skip
    after, _ = run_pass(g, PASS)
    assert weights(after) == weights(g)


def test_branches_keep_what_they_use() -> None:
    from onnx import TensorProto, helper

    from graphopt.driver.importing import import_onnx
    from tests.support.onnx_graphs import model_of

    model = model_of(
        {**X, "p": "bool[1]"},
        "c = Conv(x, v)\nr = Relu(c)\nz = Conv(r, w)",
        "z",
        v=rows(4, 3, 1, 1, gone=1),
        w=rand(2, 4, 1, 1),
    )
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    branches = [helper.make_graph([helper.make_node(op, ["r"], ["o"])], op, [], [out]) for op in ("Exp", "Cos")]
    model.graph.node.append(helper.make_node("If", ["p"], ["y"], then_branch=branches[0], else_branch=branches[1]))
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6]))
    after, _ = run_pass(import_onnx(model), PASS)
    assert weights(after) == [(4, 3, 1, 1), (2, 4, 1, 1)]


def test_without_zeros_channels_are_not_even_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(graph: Graph) -> None:
        raise AssertionError("the whole analysis ran")

    monkeypatch.setattr(dead_channels, "find_groups", fail)
    g = graph_of(X, "c = Conv(x, v)\nr = Relu(c)\ny = Conv(r, w)", v=rand(4, 3, 3, 3), w=rand(2, 4, 1, 1))
    after = optimize(g, passes=[PASS], for_export=False)
    assert after.version == g.version


def test_a_graph_that_cannot_follow_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(plan: PrunePlan, graph: Graph) -> None:
        raise InternalError("doesn't fit")

    monkeypatch.setattr(dead_channels, "apply_in_place", fail)
    g = graph_of(X, "c = Conv(x, v)\ny = Conv(c, w)", v=rows(4, 3, 1, 1, gone=1), w=rand(2, 4, 1, 1))
    assert_refuses(g, PASS, "dead channels stay: doesn't fit")


def test_only_level_3_does_it() -> None:
    g = graph_of(
        X, "c = Conv(x, v)\nr = Relu(c)\ny = Conv(r, w)", v=rows(12, 3, 3, 3, gone=[0, 1, 2, 5, 8]), w=rand(2, 12, 1, 1)
    )
    assert weights(optimize(g, 2))[0] == (12, 3, 3, 3)
    remarks = Remarks()
    after = optimize(g, 3, remarks=remarks)
    assert weights(after)[0] == (8, 3, 3, 3)
    assert ops(after) == ops(g)
    assert weights(optimize(g, 3, skip=[PASS]))[0] == (12, 3, 3, 3)
