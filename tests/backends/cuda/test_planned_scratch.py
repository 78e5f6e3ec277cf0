"""Memory between a kernel's launches is part of the program's plan: nothing on the host allocates any while a model runs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from graphopt.backends.base.tvm_api import tirx, tvm_ffi
from graphopt.backends.program.program import Program
from graphopt.driver.compiling import to_program
from tests.support.program_runner import run_program

DEEP = 4096
"""So many products in each of few sums are shared by several blocks, which leave their parts to a second launch."""


def _program(target: str) -> Program:
    rng = np.random.default_rng(3)
    weight = onnx.numpy_helper.from_array(rng.normal(size=(DEEP, 16)).astype(np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [16, DEEP])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [16, 16])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Relu", ["p"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return to_program(model.SerializeToString(), target, level=1)[2]


def _allocated_on_the_host(function: object) -> list[str]:
    found: list[str] = []

    def see(statement: object) -> None:
        buffer = statement.buffer  # type: ignore[attr-defined]
        if buffer.scope() == "global":
            found.append(str(buffer.name))

    tvm_ffi.structural_walk(function.body, [(tirx.AllocBuffer, see)])  # type: ignore[attr-defined]
    return found


def test_scratch_has_a_place_in_the_arena() -> None:
    program = _program("cuda:sm_80")
    using = [step for step in program.kernels if step.scratch]
    assert using, "no kernel shares its sums any more: choose another model for this test"
    for step in using:
        function = program.functions[step.function]
        assert len(function.params) == len(step.inputs) + len(step.outputs) + len(step.scratch) + len(step.symbols)
        for buffer in step.scratch:
            assert buffer.offset is not None
            assert buffer.offset % 64 == 0
            assert buffer.offset + (buffer.static_bytes or 0) <= program.arena_bytes
    assert not [name for function in program.functions.values() for name in _allocated_on_the_host(function)]


def test_processors_keep_it_inside() -> None:
    program = _program("x86")
    assert not any(step.scratch for step in program.kernels)
    feed = {"x": np.random.default_rng(4).normal(size=(16, DEEP)).astype(np.float32)}
    assert run_program(program, feed)[0].shape == (16, 16)
