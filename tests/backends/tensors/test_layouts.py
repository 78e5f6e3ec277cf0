"""The generic schedule in every layout, against numpy: copies between any two, and whole networks on NHWC or mixed layouts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dim_names import DimNames
from graphopt.backends.base.tvm_api import cpu_pass_context, tvm
from graphopt.backends.cpu.nest import CpuSchedule
from graphopt.backends.lower.copy import emit_copy
from graphopt.backends.program.lowering import lower
from graphopt.backends.program.program import JoinStep, Program
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.platforms import platform_of
from graphopt.driver.importing import import_onnx
from graphopt.ir.dtypes import DType
from graphopt.ir.fused import FusedGraph, Group
from graphopt.ir.graph import Graph, Value
from graphopt.ir.layout import PLAIN, Layout, channel_blocks, channels_last
from graphopt.ir.types import TensorType
from graphopt.passes.layout.assign import LayoutPolicy, assign_layouts
from graphopt.passes.partition.partition import partition
from tests.support.ort import run_ort
from tests.support.program_runner import run_program

CAPS = Caps(vector_bits=256, vector_registers=16, cores=2)
SHAPES = [(3, 8, 5), (3, 4, 7, 5), (1, 8, 9, 1), (2, 4, 3, 1, 5), (1, 24, 2, 17, 3)]


def layouts_of(rank: int) -> list[Layout]:
    """Plain, channel blocks, channels last, and one with axes swapped and an axis in blocks, as packed weights have it."""
    return [PLAIN, channel_blocks(4), channels_last(rank), Layout((1, 0, *range(2, rank)), ((1, 2), (1, 2)))]


def test_copies_between_any_two_layouts() -> None:
    functions, cases = {}, []
    for shape in SHAPES:
        for source, target in product(layouts_of(len(shape)), repeat=2):
            value = Value("x", TensorType(DType.f32, shape))
            fused = FusedGraph(Graph("g"), [], {value: source})
            name = f"copy{len(cases)}"
            function, read, symbols = emit_copy(value, fused, CAPS, CpuSchedule(), DimNames(str), target)
            assert (read, symbols) == ([value], [])
            functions[name] = function.with_attr("global_symbol", name)
            cases.append((name, shape, source, target))
    with cpu_pass_context():
        module = tvm.compile(tvm.IRModule(functions), tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v3"})).jit()
    for name, shape, source, target in cases:
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        stored = x[source.logical_index(np.indices(source.physical_shape(shape)))]
        out = tvm.runtime.tensor(np.full(target.physical_shape(shape), np.nan, np.float32))
        module[name](tvm.runtime.tensor(stored), out)
        want = x[target.logical_index(np.indices(target.physical_shape(shape)))]
        np.testing.assert_array_equal(out.numpy(), want, err_msg=f"{shape} {source} -> {target}")


def network(rank: int) -> ModelProto:
    """Every kind of generic loops: windows over padded copies, joins and cuts, reductions, an order of axes that changes."""
    rng = np.random.default_rng(1)
    spatial = (8, 7, 5)[: rank - 2]
    weights = {
        "w": rng.standard_normal((12, 4, *(3 for _ in spatial))).astype(np.float32) / 6,
        "b": rng.standard_normal(12).astype(np.float32),
        "s": rng.standard_normal((12, *(1 for _ in spatial))).astype(np.float32),
        "from": np.array([4]), "to": np.array([12]), "axis": np.array([1]),
    }  # fmt: skip
    window = {"kernel_shape": [3] * (rank - 2), "pads": [1] * 2 * (rank - 2)}
    turned = [0, 1, *range(2, rank)[::-1]]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], **window),
        helper.make_node("Mul", ["c", "s"], ["m"]),
        helper.make_node("MaxPool", ["m"], ["p"], **window),
        helper.make_node("Concat", ["p", "c"], ["j"], axis=1),
        helper.make_node("Slice", ["j", "from", "to", "axis"], ["k"]),
        helper.make_node("Relu", ["k"], ["r"]),
        helper.make_node("Concat", ["k", "r"], ["d"], axis=2),
        helper.make_node("Transpose", ["d"], ["t"], perm=turned),
        helper.make_node("Softmax", ["t"], ["q"], axis=1),
        helper.make_node("ReduceMean", ["q", "axis"], ["y"], keepdims=1),
        helper.make_node("GlobalAveragePool", ["j"], ["z"]),
        helper.make_node("Flatten", ["z"], ["f"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, [1, 4, *spatial])],
        [helper.make_tensor_value_info("y", 1, [None] * rank), helper.make_tensor_value_info("f", 1, [1, 24])],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def by_hand(graph: Graph, layout: Callable[[int], Layout]) -> FusedGraph:
    """The kernels of a graph with values between them in the layouts of their place, where only kernels read them."""
    fused = partition(graph)
    between = [v for g in fused.groups for v in g.outputs if g.kind.value == "kernel" and not v.escapes]
    viewed = {v for g in fused.groups if g.kind.value == "view" for v in g.inputs}
    for i, value in enumerate(v for v in between if v not in viewed):
        fused.layouts[value] = layout(i)
    return fused


def check(proto: ModelProto, graph: Graph, fused: FusedGraph, templates: bool) -> Program:
    rank = len(graph.inputs[0].shape)
    x = np.random.default_rng(2).standard_normal([int(d) for d in graph.inputs[0].shape]).astype(np.float32)  # type: ignore[arg-type]
    goal = parse_target("x86-64-v3", 2)
    platform = platform_of(goal)
    program = lower(fused, goal, platform, platform.templates() if templates else ())
    for got, want in zip(run_program(program, {"x": x}), run_ort(proto, {"x": x})):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=f"rank {rank}")
    return program


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_a_network_on_channels_last(rank: int) -> None:
    proto = network(rank)
    graph = import_onnx(proto)
    fused = by_hand(graph, lambda _: channels_last(rank))
    assert len(fused.layouts) > 4
    program = check(proto, graph, fused, True)  # templates know no such layout and say so
    joined = [step.output.name for step in program.steps if isinstance(step, JoinStep)]
    assert joined == ["d"]  # rows of pixels lie one after the other, whatever their channels


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_a_network_on_mixed_layouts(rank: int) -> None:
    proto = network(rank)
    graph = import_onnx(proto)
    fused = by_hand(graph, lambda i: layouts_of(rank)[(i * 3 + 1) % 4])
    check(proto, graph, fused, templates=False)


def test_a_policy_may_ask_for_channels_last() -> None:
    proto = network(4)
    graph = import_onnx(proto)

    def wanted(_: FusedGraph, group: Group) -> Layout:
        return channels_last(4) if group.anchor.op in ("Conv", "MaxPool", "Transpose") else PLAIN

    fused = assign_layouts(partition(graph), LayoutPolicy(wanted, {DType.f32}))
    names = {g.anchor.op: fused.layout(g.outputs[0]).name(4) for g in fused.groups if len(g.outputs[0].shape) == 4}
    assert {o: names[o] for o in ("Conv", "MaxPool", "Concat", "Slice", "Softmax")} == {
        "Conv": "NHWC", "MaxPool": "NHWC", "Concat": "NHWC", "Slice": "NHWC", "Softmax": "plain",
    }  # fmt: skip
    check(proto, graph, fused, templates=True)
