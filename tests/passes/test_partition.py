"""Cutting a graph into kernels: what joins a group, what must not, and that groups never form a cycle."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from graphopt.driver.importing import import_onnx
from graphopt.ir.fused import FusedGraph, GroupKind
from graphopt.ir.graph import Value
from graphopt.passes.partition.operands import captured
from graphopt.passes.partition.partition import partition


def graph_of(
    nodes: list[onnx.NodeProto], outputs: list[str], weights: dict[str, tuple[int, ...]] | None = None
) -> FusedGraph:
    """The second level of a graph over ``x: f32[1, 8, 6, 6]`` and ``y`` of the same type."""
    shape = [1, 8, 6, 6]
    inputs = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("x", "y")]
    results = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs]
    for r in results:
        r.type.tensor_type.shape.Clear()
        for i in range(4):
            r.type.tensor_type.shape.dim.add().dim_param = f"{r.name}{i}"
    rng = np.random.default_rng(0)
    init = [
        onnx.numpy_helper.from_array(rng.standard_normal(s).astype("float32"), n) for n, s in (weights or {}).items()
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, results, init), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    return partition(import_onnx(model))


def ops(fused: FusedGraph) -> list[list[str]]:
    return [[n.op for n in g.nodes] for g in fused.groups]


def conv(x: str, out: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [x, "w"], [out], pads=[1, 1, 1, 1])


W = {"w": (8, 8, 3, 3)}


def test_residual_and_activation_join_the_later_convolution() -> None:
    fused = graph_of(
        [conv("x", "a"), conv("a", "b"), helper.make_node("Add", ["a", "b"], ["c"]), helper.make_node("Relu", ["c"], ["z"])],
        ["z"], W,
    )  # fmt: skip
    assert ops(fused) == [["Conv"], ["Conv", "Add", "Relu"]]
    assert fused.groups[1].anchor.op == "Conv"


def test_an_anchor_keeps_one_result() -> None:
    nodes = [conv("x", "a"), helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Add", ["a", "b"], ["z"])]
    assert ops(graph_of(nodes, ["z", "b"], W))[0] == ["Conv"]
    assert ops(graph_of(nodes, ["z", "a"], W))[0] == ["Conv"]


def test_an_output_inside_a_chain_is_still_computed() -> None:
    fused = graph_of([helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["z"])], ["a", "z"])
    assert [v.name for g in fused.groups for v in g.outputs] == ["a", "z"]


def test_no_group_waits_for_itself() -> None:
    # Relu -> MaxPool -> Add with the Relu: the Add can't join the Relu's group, which the pool needs first
    pool = helper.make_node("MaxPool", ["a"], ["p"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    fused = graph_of([helper.make_node("Relu", ["x"], ["a"]), pool, helper.make_node("Add", ["a", "p"], ["z"])], ["z"])
    check_order(fused)
    assert len(fused.groups) == 2


def test_reshapes_are_views() -> None:
    shape = onnx.numpy_helper.from_array(np.array([1, 8, 36, 1]), "shape")
    fused = graph_of(
        [helper.make_node("Constant", [], ["shape"], value=shape), helper.make_node("Reshape", ["x", "shape"], ["z"])],
        ["z"],
    )
    assert [g.kind for g in fused.groups] == [GroupKind.view]


def check_order(fused: FusedGraph) -> None:
    """Operands, what subgraphs read among them, are made before they are used, and every node is in one group."""
    ready: set[Value] = set(fused.graph.inputs)
    seen: list[object] = []
    for group in fused.groups:
        read = [*group.inputs, *(v for n in group.nodes for sub in n.subgraphs for v in captured(sub))]
        missing = [v.name for v in read if not v.is_const and v not in ready]
        assert not missing, f"{group.label} needs {missing}"
        ready.update(group.outputs)
        seen += group.nodes
    assert len(seen) == len(set(map(id, seen))) == len(fused.graph.nodes)


@st.composite
def random_nodes(draw: st.DrawFn) -> tuple[list[onnx.NodeProto], list[str]]:
    names = ["x", "y"]
    nodes = []
    for i in range(draw(st.integers(1, 14))):
        op = draw(st.sampled_from(["Relu", "Neg", "Add", "Mul", "Conv", "MaxPool"]))
        first = draw(st.sampled_from(names))
        out = f"v{i}"
        if op in ("Add", "Mul"):
            nodes.append(helper.make_node(op, [first, draw(st.sampled_from(names))], [out]))
        elif op == "Conv":
            nodes.append(conv(first, out))
        elif op == "MaxPool":
            nodes.append(helper.make_node(op, [first], [out], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        else:
            nodes.append(helper.make_node(op, [first], [out]))
        names.append(out)
    outputs = draw(st.lists(st.sampled_from(names[2:]), min_size=1, max_size=3, unique=True))
    return nodes, outputs


@given(random_nodes())
@settings(max_examples=60, deadline=None)
def test_random_graphs_are_cut_into_an_acyclic_order(case: tuple[list[onnx.NodeProto], list[str]]) -> None:
    nodes, outputs = case
    check_order(graph_of(nodes, outputs, W))


def test_a_pool_used_twice_keeps_its_kernel_to_itself() -> None:
    pool = helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    nodes = [pool, helper.make_node("Relu", ["p"], ["r"]), helper.make_node("Neg", ["p"], ["n"])]
    fused = graph_of(nodes, ["r", "n"], W)
    assert [len(g.outputs) for g in fused.groups if g.anchor.op == "MaxPool"] == [1]
    assert [[n.op for n in g.nodes] for g in fused.groups if g.anchor.op == "MaxPool"] == [["MaxPool"]]


def test_what_branches_read_counts_as_an_operand() -> None:
    """Relu and Max can't be one kernel: the If between them reads Relu's result from outside its branches."""
    branches = {}
    for name, op in (("then_branch", "Neg"), ("else_branch", "Exp")):
        result = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 8, 6, 6])
        branches[name] = helper.make_graph([helper.make_node(op, ["r"], [name])], name, [], [result])
    nodes = [
        helper.make_node("ReduceSum", ["y"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["c"], to=onnx.TensorProto.BOOL),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("If", ["c"], ["chosen"], **branches),
        helper.make_node("Max", ["r", "chosen"], ["m"]),
    ]
    fused = graph_of(nodes, ["m"])
    assert [group for group in ops(fused) if group[0] in ("Relu", "If", "Max")] == [["Relu"], ["If"], ["Max"]]
