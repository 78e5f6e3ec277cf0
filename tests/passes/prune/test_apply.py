"""The surgery: shared constants, control flow, interface, failures; what is outside the plan does not change."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import export_onnx
from graphopt.errors import GraphOptError, UserError
from graphopt.ir.editor import clone
from graphopt.ir.graph import Graph
from graphopt.ir.printer import format_graph
from graphopt.passes.prune.apply import apply_in_place, apply_plan
from graphopt.passes.prune.groups import PruneGroups, find_groups
from graphopt.passes.prune.plan import PrunePlan
from graphopt.passes.prune.rules import registry
from tests.support.onnx_graphs import graph_of, model_of, rand
from tests.support.pruning import check_pruning, sandwich


def half(groups: PruneGroups) -> PrunePlan:
    """Every other channel goes."""
    return PrunePlan(groups, {g.index: np.arange(g.size) % 2 == 0 for g in groups.groups})


def reasons(groups: PruneGroups) -> dict[str, str]:
    """Why layers stay."""
    return {f.name: f.reason for f in groups.frozen}


def test_empty_plan_changes_nothing() -> None:
    graph = sandwich("t = Relu(h)")
    assert format_graph(apply_plan(PrunePlan(find_groups(graph), {}))) == format_graph(graph)


def test_in_place_gives_the_same() -> None:
    graph = sandwich("t = Relu(h)")
    plan = half(find_groups(clone(graph)))
    apply_in_place(plan, graph)
    assert format_graph(graph) == format_graph(apply_plan(plan))


@pytest.mark.parametrize("in_place", [False, True])
def test_failure_leaves_the_graph_alone(monkeypatch: pytest.MonkeyPatch, in_place: bool) -> None:
    """A rule that claims too much shows as a node that no longer fits, and nothing has changed."""
    graph = sandwich("a, b = Split<axis=1>(h, k)\nt = Concat<axis=1>(b, a)", k=np.asarray([4, 4]))
    monkeypatch.setitem(registry._ADJUST_RULES, "Split", lambda a: None)
    plan = half(find_groups(graph))
    before = format_graph(graph)
    with pytest.raises(GraphOptError) as caught:
        apply_in_place(plan, graph) if in_place else apply_plan(plan)
    assert caught.value.code == "prune-misfit"
    assert "Split" in str(caught.value.node)
    assert format_graph(graph) == before


def test_whole_groups_can_not_go() -> None:
    groups = find_groups(sandwich("t = Relu(h)"))
    with pytest.raises(ValueError, match="every channel of h"):
        PrunePlan(groups, {0: np.ones(8, bool)})


def test_nothing_left_where_rows_and_columns_meet() -> None:
    """On a diagonal of groups and positions, all can go though neither all groups nor all positions do."""
    graph = sandwich(
        "f = Reshape(h, s)\na = Gather<axis=1>(h, d)\nz = Reshape(f, u)\nt = Concat<axis=1>(a, z)", channels=4, after=6,
        s=np.asarray([2, 2, 2, 6, 6]), u=np.asarray([2, 4, 6, 6]), d=np.asarray([0, 3]),
    )  # fmt: skip
    groups = find_groups(graph)
    assert {g.name: g.size for g in groups.groups} == {"h": 2, "h#2": 2}
    plan = PrunePlan(groups, {0: np.asarray([True, False]), 1: np.asarray([False, True])})
    with pytest.raises(UserError, match="nothing would be left of axis 1"):
        apply_plan(plan)


def test_constant_shared_with_a_layer_that_stays_keeps_its_name_there() -> None:
    graph = graph_of(
        {"x": "float[1,3,5,5]"}, "a = Conv(x, w, b)\nc = Conv(a, u, b)\ny = Conv(c, v, b2)\nz = Add(y, b4)", "z",
        w=rand(8, 3, 1, 1), u=rand(8, 8, 1, 1), v=rand(2, 8, 1, 1), b=rand(8), b2=rand(2), b4=rand(2, 1, 1),
    )  # fmt: skip
    pruned = apply_plan(PrunePlan(find_groups(graph), {0: np.arange(8) < 3}))
    biases = {n.name: n.inputs[2] for n in pruned.nodes if n.op == "Conv"}
    assert [(v.name, v.shape) for v in biases.values() if v is not None] == [("b_1", (5,)), ("b", (8,)), ("b2", (2,))]


@pytest.mark.parametrize(("name", "shape"), [("b", [8]), ("x", [1, 3, 5, 5])])
def test_constant_or_input_that_is_an_output_stays(name: str, shape: list[int]) -> None:
    model = model_of({"x": "float[1,3,5,5]"}, "h = Conv(x, w, b)\ny = Conv(h, v)", f"y {name}",
                     w=rand(8, 3, 1, 1), v=rand(2, 8, 1, 1), b=rand(8))  # fmt: skip
    for output, extents in zip(model.graph.output, ([1, 2, 5, 5], shape)):
        output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, extents))
    check_pruning(import_onnx(model), {"h": 8})


def test_value_that_is_output_and_read() -> None:
    groups = check_pruning(graph_of({"x": "float[1,3,5,5]"}, "h = Conv(x, w)\ny = Conv(h, v)", "y h",
                                    w=rand(8, 3, 1, 1), v=rand(2, 8, 1, 1)), {})  # fmt: skip
    assert reasons(groups)["h"] == "they leave the graph as output 'h'"


def branching(body: list[onnx.NodeProto], result: str, extra: list[onnx.NodeProto], **consts: Any) -> Graph:
    """h = Conv(x, w), t = If(c, ``body``, h or zeros), y = Conv(h, v), r = t."""
    then = helper.make_graph(body, "then", [], [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)])
    other = helper.make_graph(
        [helper.make_node("Identity", ["k"], ["e"])],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="h"), *extra,
        helper.make_node("If", ["c"], ["t"], then_branch=then, else_branch=other, name="t"),
        helper.make_node("Conv", ["h", "v"], ["y"], name="y"),
        helper.make_node("ReduceSum", ["t"], ["r"], keepdims=0),
    ]  # fmt: skip
    weights = {"w": rand(8, 3, 1, 1), "v": rand(2, 8, 1, 1), "k": rand(), **consts}
    shapes = {"x": [1, 3, 4, 4], "c": []}
    types = {"x": TensorProto.FLOAT, "c": TensorProto.BOOL}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, types[n], s) for n, s in shapes.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("y", [1, 2, 4, 4]), ("r", []))],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )  # fmt: skip
    return import_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


@pytest.mark.parametrize("taken", [True, False])
def test_values_captured_by_a_branch_stay(taken: bool) -> None:
    graph = branching([helper.make_node("ReduceMax", ["h"], ["m"], keepdims=0)], "m", [])
    groups = check_pruning(graph, {}, {"x": rand(1, 3, 4, 4), "c": np.asarray(taken)})
    assert "in a branch or body" in reasons(groups)["h"]


@pytest.mark.parametrize("taken", [True, False])
def test_extents_captured_by_a_branch_stay(taken: bool) -> None:
    """The branch reshapes something else by the number of h's channels."""
    body = [helper.make_node("Reshape", ["f", "s"], ["m"])]
    extra = [helper.make_node("Shape", ["h"], ["s4"]), helper.make_node("Slice", ["s4", "one", "two"], ["s"])]
    graph = branching(body, "m", extra, f=rand(8), k=rand(1), one=np.asarray([1]), two=np.asarray([2]))
    groups = check_pruning(graph, {}, {"x": rand(1, 3, 4, 4), "c": np.asarray(taken)})
    assert "counts them" in reasons(groups)["h"]


@pytest.mark.parametrize("taken", [True, False])
def test_weights_captured_by_a_branch_are_split(taken: bool) -> None:
    body = [helper.make_node("ReduceMax", ["w"], ["m"], keepdims=0)]
    check_pruning(branching(body, "m", []), {"h": 8}, {"x": rand(1, 3, 4, 4), "c": np.asarray(taken)})


def test_assumptions_about_extents_follow() -> None:
    """What was assumed of a product with channels in it is assumed of what is left."""
    graph = graph_of(
        {"x": "float[N,3,H,4]", "z": "float[N,M]"},
        "h = Conv(x, w)\nc = Concat<axis=1>(h, h)\nf = Flatten(c)\nr = ReduceSum<keepdims=1>(f)\nk = Add(z, r)\n"
        "g = Conv(h, v)\ny = ReduceMax(g)", "y k",
        w=rand(8, 3, 1, 1), v=rand(2, 8, 1, 1),
    )  # fmt: skip
    check_pruning(graph)


def test_sequence_operators_stay() -> None:
    graph = graph_of(
        {"x": "float[1,3,5,5]"}, "h = Conv(x, w)\ns = SequenceConstruct(h, h)\nl = SequenceLength(s)\ny = Conv(h, v)", "y l:int64",
        w=rand(8, 3, 1, 1), v=rand(2, 8, 1, 1),
    )  # fmt: skip
    groups = check_pruning(graph, {})
    assert "no pruning rule for" in reasons(groups)["h"]


def test_zero_extents() -> None:
    graph = graph_of(
        {"x": "float[0,3,5,5]"}, "h = Conv(x, w)\nf = Reshape<allowzero=1>(h, s)\ny = MatMul(f, v)",
        w=rand(8, 3, 1, 1), v=rand(200, 2), s=np.asarray([0, 200]),
    )  # fmt: skip
    check_pruning(graph, {"h": 8})


def test_pruned_model_exports_and_imports() -> None:
    graph = sandwich("b = BatchNormalization(h, c, c, c, c)\nt = Relu(b)", c=rand(8, positive=True))
    pruned = apply_plan(half(find_groups(graph)))
    again = import_onnx(export_onnx(pruned))
    assert [v.shape for v in again.constants()] == [v.shape for v in pruned.constants()]
    assert [v.name for v in again.constants()] == [v.name for v in pruned.constants()]
