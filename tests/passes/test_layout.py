"""Which values are stored in channel blocks, and where copies remain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.backends.targets.compilation import fuse_for
from graphopt.backends.targets.grammar import parse_target
from graphopt.driver.importing import import_onnx
from graphopt.ir.dtypes import DType
from graphopt.ir.fused import FusedGraph, Group, GroupKind
from graphopt.ir.graph import Value
from graphopt.ir.layout import PLAIN, Layout, channel_blocks
from graphopt.ir.options import CompileOptions
from graphopt.passes.layout.assign import LayoutPolicy, assign_layouts
from graphopt.passes.layout.borders import Border, LayoutCosts, cheapest_border
from graphopt.passes.partition.partition import partition

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.standard_normal((32, 16, 3, 3)).astype(np.float32) / 12,
    "v": RNG.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12,
    "fc": RNG.standard_normal((32, 10)).astype(np.float32),
    "starts": np.array([16]), "ends": np.array([32]), "axes": np.array([1]), "odd": np.array([12, 20]),
}  # fmt: skip


def model(nodes: list[NodeProto], output: str, rank: int = 4) -> ModelProto:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 6, 7])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(a, n) for n, a in WEIGHTS.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def conv(x: str, w: str, y: str) -> NodeProto:
    return helper.make_node("Conv", [x, w], [y], pads=[1, 1, 1, 1])


def fused(proto: ModelProto) -> FusedGraph:
    return fuse_for(import_onnx(proto), parse_target("x86-64-v3"))


def check(proto: ModelProto) -> None:
    x = RNG.standard_normal((1, 16, 6, 7)).astype(np.float32)
    got = graphopt.compile(proto, "native", threads=1).run({"x": x})
    want = ReferenceEvaluator(proto).run(None, {"x": x})
    np.testing.assert_allclose(next(iter(got.values())), want[0], rtol=1e-4, atol=1e-4)


def name_of(graph: FusedGraph, value: Value) -> str:
    return graph.layout(value).name(len(value.shape))


def layouts(graph: FusedGraph) -> dict[str, str]:
    return {g.anchor.op: name_of(graph, g.outputs[0]) for g in graph.groups}


def test_one_pixel_leaves_the_blocked_region_as_a_view() -> None:
    nodes = [
        conv("x", "w", "c"), helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("MatMul", ["f", "fc"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, "y", 2)
    graph = fused(proto)
    assert layouts(graph)["GlobalAveragePool"] == "NCHW16c"
    assert [g.kind for g in graph.groups if g.anchor.op == "Identity"] == [GroupKind.view]
    check(proto)


def test_one_pixel_that_is_the_result() -> None:
    proto = model([conv("x", "w", "c"), helper.make_node("GlobalAveragePool", ["c"], ["y"])], "y")
    check(proto)


@pytest.mark.parametrize(
    ("cut", "layout"),
    [
        (helper.make_node("Split", ["c"], ["a", "b"], axis=1, num_outputs=2), "NCHW16c"),
        (helper.make_node("Slice", ["c", "starts", "ends", "axes"], ["a"]), "NCHW16c"),
    ],
)
def test_cuts_between_blocks_keep_the_layout(cut: NodeProto, layout: str) -> None:
    proto = model([conv("x", "w", "c"), cut, conv("a", "v", "d"), helper.make_node("Relu", ["d"], ["y"])], "y")
    graph = fused(proto)
    assert layouts(graph)[cut.op_type] == layout
    check(proto)


def test_cuts_through_blocks_are_made_on_plain_data() -> None:
    cut = helper.make_node("Split", ["c", "odd"], ["a", "b"], axis=1)
    proto = model([conv("x", "w", "c"), cut, helper.make_node("Exp", ["b"], ["y"])], "y")
    assert layouts(fused(proto))["Split"] == "plain"
    check(proto)


def lone_conv(size: int, kernel: int = 3, channels: int = 64, residual: bool = False) -> ModelProto:
    weight = RNG.standard_normal((64, channels, kernel, kernel)).astype(np.float32) / (kernel * 8)
    nodes = [helper.make_node("Conv", ["x", "k"], ["c" if residual else "y"], pads=[kernel // 2] * 4)]
    if residual:
        nodes.append(helper.make_node("Add", ["c", "x"], ["y"]))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)], [numpy_helper.from_array(weight, "k")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def check_lone(proto: ModelProto) -> None:
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    x = RNG.standard_normal(shape).astype(np.float32)
    got = graphopt.compile(proto, "native", threads=1).run({"x": x})
    np.testing.assert_allclose(got["y"], ReferenceEvaluator(proto).run(None, {"x": x})[0], rtol=1e-4, atol=1e-4)


def test_a_convolution_alone_runs_by_winograd_between_two_copies() -> None:
    proto = lone_conv(29)
    assert [g.anchor.op for g in fused(proto).groups] == ["Identity", "Conv", "Identity"]
    check_lone(proto)


def test_the_copy_serves_the_residual_too() -> None:
    proto = lone_conv(29, residual=True)
    graph = fused(proto)
    assert [g.anchor.op for g in graph.groups] == ["Identity", "Conv", "Identity"]
    assert graph.groups[1].inputs.count(graph.graph.inputs[0]) == 0
    check_lone(proto)


@pytest.mark.parametrize(("size", "kernel", "channels"), [(29, 1, 64), (29, 3, 5), (29, 3, 3)])
def test_copies_that_save_nothing_are_not_made(size: int, kernel: int, channels: int) -> None:
    proto = lone_conv(size, kernel, channels)
    graph = fused(proto)
    assert [(g.anchor.op, name_of(graph, g.outputs[0])) for g in graph.groups] == [("Conv", "plain")]
    check_lone(proto)


def test_exact_compilation_has_no_use_for_copies() -> None:
    graph = fuse_for(import_onnx(lone_conv(29)), parse_target("x86-64-v3"), CompileOptions(exact=True))
    assert [g.anchor.op for g in graph.groups] == ["Conv"]


def test_convolutions_share_the_copy_of_their_input() -> None:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "k"], ["a"], pads=[1] * 4), helper.make_node("Conv", ["x", "l"], ["b"], pads=[1] * 4)],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 29, 29])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * 4) for n in "ab"],
        [numpy_helper.from_array(RNG.standard_normal((64, 64, 3, 3)).astype(np.float32) / 24, n) for n in "kl"],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    ops = [g.anchor.op for g in fused(proto).groups]
    assert (ops.count("Identity"), ops.count("Conv")) == (3, 2)
    x = RNG.standard_normal((1, 64, 29, 29)).astype(np.float32)
    got = graphopt.compile(proto, "native", threads=1).run({"x": x})
    for name, want in zip("ab", ReferenceEvaluator(proto).run(None, {"x": x})):
        np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("copy", "ready", "wanted", "blocked", "copied"),
    [
        (2, False, False, True, True),
        (3.5, False, False, False, False),
        (3.5, True, False, True, True),
        (7, False, True, True, False),
    ],
)
def test_copies_count_against_what_they_save(
    copy: float, ready: bool, wanted: bool, blocked: bool, copied: bool
) -> None:
    """A kernel takes 10 s, 9 with results in blocks, 4 with operands in blocks as well."""
    graph = fused(lone_conv(29, kernel=1))
    (group,) = graph.groups
    x, y = group.inputs[0], group.outputs[0]

    def seconds(trial: FusedGraph, _: Group) -> float:
        return 10 if trial.layout(y).is_plain else 9 if trial.layout(x).is_plain else 4

    blocks = channel_blocks(16)
    costs = LayoutCosts(seconds, lambda _: copy, lambda _: blocks)
    found = cheapest_border(graph, group, blocks, wanted, costs, {x} if ready else set())
    assert found == Border(blocks if blocked else PLAIN, (x,) if copied else ())
    assert cheapest_border(graph, group, blocks, wanted, replace(costs, kernel=lambda *_: None), set()) is None


@pytest.mark.parametrize(("stored", "layout"), [({DType.f16}, "NCHW16c"), ({DType.f32}, "plain")])
def test_the_target_says_which_element_types_have_layouts(stored: set[DType], layout: str) -> None:
    weight = numpy_helper.from_array(WEIGHTS["v"].astype(np.float16), "v")
    graph = import_onnx(helper.make_model(helper.make_graph(
        [conv("x", "v", "c"), helper.make_node("Relu", ["c"], ["r"]), conv("r", "v", "y")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 16, 6, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [None] * 4)], [weight],
    ), opset_imports=[helper.make_opsetid("", 20)]))  # fmt: skip

    def wanted(fused: FusedGraph, group: Group) -> Layout:
        return channel_blocks(16) if group.anchor.op == "Conv" else PLAIN

    fused = assign_layouts(partition(graph), LayoutPolicy(wanted, stored))
    assert [name_of(fused, g.outputs[0]) for g in fused.groups if g.anchor.op == "Conv"] == [layout, layout]


def test_a_first_result_that_nobody_asks_for() -> None:
    """A recurrent net that gives its last state only has no first output to pass a layout on to."""
    weights = [numpy_helper.from_array(np.ones((1, 4, d), np.float32), n) for n, d in (("w", 3), ("r", 4))]
    proto = helper.make_model(helper.make_graph(
        [helper.make_node("RNN", ["x", "w", "r"], ["", "state"], hidden_size=4)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 2, 3])],
        [helper.make_tensor_value_info("state", TensorProto.FLOAT, [None] * 3)], weights,
    ), opset_imports=[helper.make_opsetid("", 20)])  # fmt: skip
    assert [g.anchor.op for g in fused(proto).groups] == ["RNN"]
