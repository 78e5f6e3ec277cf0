"""Groups: names, members, costs, reasons; labels of what rules don't speak of; the masked original."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir.graph import Use
from graphopt.passes.prune.apply import apply_plan
from graphopt.passes.prune.groups import find_groups
from graphopt.passes.prune.labels import Role
from graphopt.passes.prune.mask import masked_graph
from graphopt.passes.prune.plan import PrunePlan
from graphopt.passes.prune.rules import registry
from tests.support.onnx_graphs import graph_of, rand
from tests.support.pruning import check_pruning, sandwich


def test_members_say_where_each_channel_stands() -> None:
    groups = find_groups(
        sandwich("c = Concat<axis=1>(h, h)\nt = BatchNormalization(c, p, p, p, p)", after=16, p=rand(16))
    )
    (group,) = groups.groups
    found = {(m.value.name, m.axis): m for m in group.members}
    np.testing.assert_array_equal(found["w", 0].positions, np.arange(8)[:, None])
    np.testing.assert_array_equal(found["v", 1].positions, np.stack([np.arange(8), np.arange(8) + 8], 1))
    roles = {m.value.name: m.role for m in group.members if isinstance(m.slot, Use)}
    assert roles == {"w": Role.OUT, "v": Role.IN, "p": Role.PARAMETER}
    assert found["v", 1].extent == 16


def test_cost_of_a_channel_counts_everything_it_takes_along() -> None:
    groups = find_groups(
        sandwich("c = Concat<axis=1>(h, h)\nt = BatchNormalization(c, p, p, p, p)", after=16, p=rand(16))
    )
    assert groups.groups[0].parameters == 3 + 4 * 2 + 2 * 4  # w: [8, 3], v: [4, 16], four vectors of 16


def test_groups_come_in_graph_order_with_names_of_their_own() -> None:
    graph = graph_of(
        {"x": "float[1,3,4,4]"},
        "a = Conv(x, w)\nb, c = Split<axis=1,num_outputs=2>(a)\nd = Conv(b, u)\ne = Add(d, c)\ny = Conv(e, v)",
        w=rand(8, 3, 1, 1), u=rand(4, 4, 1, 1), v=rand(2, 4, 1, 1),
    )  # fmt: skip
    groups = check_pruning(graph, {"a": 4, "a#2": 4})
    assert [g.index for g in groups.groups] == [0, 1]
    assert [n.name for n in groups.groups[1].layers] == ["a", "d", "y"]


def test_channels_without_a_layer_are_no_group() -> None:
    assert find_groups(graph_of({"x": "float[1,4]"}, "k = Abs(c)\ny = ReduceSum(k)", c=rand(5))).groups == ()


def test_reason_names_the_node_that_stands_in_the_way() -> None:
    graph = sandwich("s = Softmax<axis=1>(h)\nt = Relu(s)")
    assert [(f.name, f.size) for f in find_groups(graph).frozen] == [("h", 8), ("y", 4)]
    assert "s (Softmax)" in find_groups(graph).frozen[0].reason


def test_results_that_a_rule_says_nothing_of_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._LABEL_RULES, "Relu", lambda c: None)
    groups = find_groups(sandwich("t = Relu(h)"))
    assert all(m.value.name not in ("t", "v") for g in groups.groups for m in g.members)


def test_other_domains_stay() -> None:
    groups = find_groups(sandwich("t = Relu(h)"))
    assert len(groups.groups) == 1
    for node in groups.graph.nodes:
        if node.op == "Relu":
            node.domain = "other"
    assert find_groups(groups.graph).groups == ()


def test_names_of_weights_stay() -> None:
    graph = sandwich("b = Conv(h, u, c)\nt = Slice(b, i, j, k)", u=rand(8, 8, 1, 1), c=rand(8), after=5,
                     i=np.asarray([1]), j=np.asarray([6]), k=np.asarray([1]))  # fmt: skip
    groups = find_groups(graph)
    pruned = apply_plan(PrunePlan(groups, {g.index: np.arange(g.size) == 0 for g in groups.groups}))
    assert [v.name for v in pruned.constants()] == [v.name for v in graph.constants()]
    assert [n.name for n in pruned.nodes] == [n.name for n in graph.nodes]


def test_masked_graph_keeps_shapes_and_weights() -> None:
    graph = sandwich("t = Relu(h)")
    plan = PrunePlan(find_groups(graph), {0: np.arange(8) < 3})
    masked = masked_graph(plan)
    assert {n.name: n.out.shape for n in masked.nodes if n.op != "Where"} == {n.name: n.out.shape for n in graph.nodes}
    kept = {v.name: v.data for v in masked.constants()}
    for value in graph.constants():
        np.testing.assert_array_equal(kept[value.name], value.data)
    assert [n.op for n in masked.nodes] == ["Conv", "Where", "Relu", "Where", "Conv"]


ALONG = {
    "instance": "t = InstanceNormalization(a, c, c)",
    "max pool": "t = MaxPool<kernel_shape=[2]>(a)",
    "average pool": "t = GlobalAveragePool(a)",
    "convolution": "t = Conv(a, k)",
    "transposed convolution": "t = ConvTranspose(a, k)",
    "interpolation": 't = Resize<mode="linear">(a, , f)',
    "sum": "t = CumSum(a, two)",
    "recurrence": "r = Transpose<perm=[2,0,1]>(a)\nt, l = GRU<hidden_size=2>(r, wi, wr)",
}


@pytest.mark.parametrize("body", ALONG.values(), ids=ALONG)
def test_channels_along_an_axis_that_is_worked_over(body: str) -> None:
    graph = graph_of(
        {"x": "float[2,4,6]"}, f"a = MatMul(x, w)\n{body}\ny = ReduceMax(t)", w=rand(6, 8), c=rand(4), k=rand(4, 4, 3),
        f=np.float32([1, 1, 2]), two=np.asarray(2), wi=rand(1, 6, 4), wr=rand(1, 6, 2),
    )  # fmt: skip
    check_pruning(graph, {})
