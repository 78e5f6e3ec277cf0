"""Diamonds behind an anchor: what is computed in its kernel, and that nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from graphopt.driver.compiling import to_program
from graphopt.ir.fused import FusedGraph, Group
from graphopt.ir.graph import Node, Value
from graphopt.ops.registry import ANCHOR, ELEMENTWISE, POOL, has_trait
from graphopt.passes.partition.partition import MAX_NODES
from tests.passes.test_partition import W, check_order, conv, graph_of, ops
from tests.support.writing import IDIOMS, Writing

SKIPPED = ("recognise-activations", "recognise-gelu")
ANCHORS: dict[str, tuple[tuple[int, ...], Callable[[Writing], str]]] = {
    "Conv": ((1, 8, 6, 6), lambda w: w("Conv", "x", w.weight(8, 8, 3, 3), w.weight(8), pads=[1] * 4)),
    "MatMul": ((5, 16), lambda w: w("MatMul", "x", w.weight(16, 24))),
}


def nodes_of(*text: str) -> list[onnx.NodeProto]:
    """Nodes written as ``result = Op operand operand``."""
    made = []
    for line in text:
        result, _, op, *operands = line.split()
        made.append(conv(operands[0], result) if op == "Conv" else helper.make_node(op, operands, [result]))
    return made


@pytest.mark.parametrize("skip", [(), SKIPPED], ids=["recognised", "in parts"])
@pytest.mark.parametrize("anchor", ANCHORS)
def test_activations_in_parts_run_in_the_anchors_kernel(anchor: str, skip: tuple[str, ...]) -> None:
    shape, begin = ANCHORS[anchor]
    for name, idiom in IDIOMS.items():
        writing = Writing()
        writing.result(idiom(writing, begin(writing)))
        fused = to_program(writing.model({"x": shape}), "x86-64-v3", skip=skip)[1]
        kernels = [g for g in fused.groups if g.anchor.op != "Identity"]
        assert [g.anchor.op for g in kernels] == [anchor], f"{name}: {ops(fused)}"
        assert len(kernels[0].outputs) == 1


def test_a_chain_of_diamonds_is_cut_where_one_value_is_left() -> None:
    lines = ["v0 = Conv x"]
    for i in range(40):
        lines += [f"s{i} = Sigmoid v{i}", f"v{i + 1} = Mul v{i} s{i}"]
    fused = graph_of(nodes_of(*lines), ["v40"], W)
    first = next(g for g in fused.groups if g.anchor.op == "Conv")
    assert len(first.nodes) == MAX_NODES - 1
    assert [v.name for v in first.outputs] == [f"v{MAX_NODES // 2 - 1}"]
    check_order(fused)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(("a = Conv x", "s = Sigmoid a", "z = Mul a s"), id="one"),
        pytest.param(("a = Conv x", "s = Sigmoid a", "t = Tanh s", "u = Mul s t", "z = Mul a u"), id="nested"),
        pytest.param(("a = Conv x", "b = Conv y", "s = Sigmoid a", "t = Mul s b", "z = Add a t"), id="gated"),
        pytest.param(("a = Conv x", "z = Mul a a"), id="square"),
        pytest.param(("a = Conv x", "g = Greater a y", "l = Less a y", "m = Or g l", "z = Where m a y"), id="mask"),
        pytest.param(("a = Conv x", "s = Sigmoid a", "t = Mul a s", "z = Add t x"), id="residual"),
    ],
)
def test_closed_diamonds_join(lines: tuple[str, ...]) -> None:
    fused = graph_of(nodes_of(*lines), ["z"], W)
    others = [g for g in fused.groups if len(g.nodes) == 1 and g.anchor.op == "Conv"]
    assert len(fused.groups) == 1 + len(others)
    check_order(fused)


@pytest.mark.parametrize(
    ("lines", "results"),
    [
        pytest.param(("a = Conv x", "s = Sigmoid a", "z = Mul a s"), ["z", "a"], id="the value is a result"),
        pytest.param(("a = Conv x", "s = Sigmoid a", "z = Mul a s"), ["z", "s"], id="a branch is a result"),
        pytest.param(("a = Conv x", "p = Conv a", "z = Mul a p"), ["z"], id="a branch has an anchor"),
        pytest.param(("a = Conv x", "s = Sigmoid a", "i = Identity s", "z = Mul a i"), ["z"], id="a branch is copied"),
        pytest.param(("a = Conv x", "s = Sigmoid a", "t = Tanh a"), ["s", "t"], id="branches do not meet"),
        pytest.param(("a = Conv x", "g = Greater a y", "l = Less a y", "z = And g l"), ["z"], id="another type"),
    ],
)
def test_open_diamonds_stay_outside(lines: tuple[str, ...], results: list[str]) -> None:
    fused = graph_of(nodes_of(*lines), results, W)
    assert ["Conv"] in ops(fused)
    check_order(fused)


def test_what_a_branch_of_control_flow_reads_stays_a_result() -> None:
    made = helper.make_tensor_value_info("r", TensorProto.FLOAT, [1, 8, 6, 6])
    branches = {
        name: helper.make_graph([helper.make_node(op, ["s"], ["r"])], name, [], [made])
        for name, op in (("then_branch", "Neg"), ("else_branch", "Exp"))
    }
    nodes = [
        *nodes_of("a = Conv x", "s = Sigmoid a", "z = Mul a s"),
        helper.make_node("ReduceSum", ["y"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["q"], **branches),
    ]
    fused = graph_of(nodes, ["z", "q"], W)
    assert ["Conv"] in ops(fused)
    check_order(fused)


def test_operands_that_wait_for_the_anchor_are_seen_through_other_groups() -> None:
    """The Max joins the group of the Relu that the convolution reads, so the diamond, which reads the Max, can't be in its kernel
    if the Relu's other reader needs the diamond."""
    lines = ("r = Relu x", "a = Conv r", "n = Neg r", "s = Sigmoid a", "t = Mul s n", "z = Add a t", "q = Max r z")
    fused = graph_of(nodes_of(*lines), ["z", "q"], W)
    check_order(fused)


@st.composite
def random_diamonds(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    lines, names = ["a = Conv x"], ["a"]
    for i in range(draw(st.integers(2, 12))):
        op = draw(st.sampled_from(["Sigmoid", "Tanh", "Add", "Mul", "Mul", "Conv", "Max"]))
        # late values more often, so that branches meet again
        recent = st.sampled_from([*names, *names[-3:], *names[-3:]])
        second = f" {draw(st.sampled_from([*names, 'y']))}" if op in ("Add", "Mul", "Max") else ""
        lines.append(f"v{i} = {op} {draw(recent)}{second}")
        names.append(f"v{i}")
    read = {operand for line in lines for operand in line.split()[3:]}
    results = [n for n in names if n not in read]
    return lines, results + draw(
        st.lists(st.sampled_from(names), max_size=1).map(lambda n: [m for m in n if m in read])
    )


@given(random_diamonds())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_groups_of_anchors_are_closed_and_as_large_as_can_be(case: tuple[list[str], list[str]]) -> None:
    fused = graph_of(nodes_of(*case[0]), case[1], W)
    check_order(fused)
    for group in fused.groups:
        if has_trait(group.anchor, ANCHOR) or has_trait(group.anchor, POOL):
            assert [v.producer for v in group.outputs] == [group.nodes[-1]]
            assert not left_out(fused, group), f"{ops(fused)}: {[n.op for n in left_out(fused, group)]}"


def left_out(fused: FusedGraph, group: Group) -> list[Node]:
    """A closed set of nodes behind a group that no other anchor took and that waits for nothing, found by trying every end."""
    free = {n for g in fused.groups if has_trait(g.anchor, ELEMENTWISE) for n in g.nodes}
    value = group.outputs[0]
    for end in free:
        inner = between(value, end)
        if not inner or not inner <= free or len(group.nodes) + len(inner) > MAX_NODES:
            continue
        seen = [value, *(n.out for n in inner if n is not end)]
        closed = not any(v.escapes or any(u.node not in inner for u in v.uses) for v in seen)
        own = {n.out for n in inner} | {value}
        alone = all(v in own or v.producer is None for n in inner for v in n.inputs if v is not None)
        if closed and alone:
            return list(inner)
    return []


def between(value: Value, end: Node) -> set[Node]:
    """Nodes on paths from a value to ``end``, which is one of them; none if there is no path."""

    def reaches(node: Node) -> bool:
        return node is end or any(reaches(u.node) for u in node.out.uses)

    def behind(made: Value) -> set[Node]:
        found = {u.node for u in made.uses}
        return found.union(*(behind(n.out) for n in found))

    return {n for n in behind(value) if reaches(n)}
