"""Options reach every kernel: those of branches and those that layouts are priced with, too."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.backends.program.program import BranchStep, KernelStep, Program
from graphopt.driver.compiling import to_program
from graphopt.ir.options import CompileOptions

TARGET = "x86-64-v3"


def model() -> bytes:
    """A convolution that Winograd's algorithm is good for, in both branches of an If and after it."""
    weight = np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float32) / 24

    def branch(name: str, op: str) -> object:
        nodes = [
            helper.make_node("Conv", ["x", "w"], [f"{name}_c"], pads=[1] * 4, name=f"{name}_conv"),
            helper.make_node(op, [f"{name}_c"], [f"{name}_y"]),
        ]
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [1, 64, 28, 28])
        return helper.make_graph(nodes, name, [], [out])

    graph = helper.make_graph(
        [
            helper.make_node("If", ["c"], ["a"], then_branch=branch("t", "Relu"), else_branch=branch("e", "Neg")),
            helper.make_node("Conv", ["a", "w"], ["y"], pads=[1] * 4, name="after"),
        ],
        "g",
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 28, 28]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64, 28, 28])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


def kernels(program: Program) -> Iterator[KernelStep]:
    """Kernel calls of a program and of its branches."""
    for step in program.steps:
        if isinstance(step, KernelStep):
            yield step
        elif isinstance(step, BranchStep):
            yield from kernels(step.then.program)
            yield from kernels(step.otherwise.program)


@pytest.mark.parametrize(
    ("options", "templates"),
    [
        (CompileOptions(), {"conv2d-winograd"}),
        (CompileOptions(exact=True), {"conv2d-direct"}),
        (CompileOptions(level=1, exact=True), {"conv2d-direct"}),
    ],
)
def test_branches_are_compiled_as_the_graph_around_them(options: CompileOptions, templates: set[str]) -> None:
    _, fused, program = to_program(model(), TARGET, threads=1, level=options.level, exact=options.exact)
    assert fused.options == options
    assert fused.trial({}).options == options
    convs = [step for step in kernels(program) if "conv" in step.function]
    assert len(convs) >= 3
    assert {step.template for step in convs} == templates


def test_level_0_is_plain_loops_everywhere() -> None:
    program = to_program(model(), TARGET, threads=1, level=0)[2]
    found = list(kernels(program))
    assert len(found) == 5
    assert {step.template for step in found} & {"conv2d-winograd", "conv2d-direct", "layout-copy"} == set()
