"""Quantized layers of the same shape share kernels whatever their scales, zero points and weights: scales are operands."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.backends.base.tvm_api import tvm_ffi
from graphopt.backends.program import emission
from graphopt.backends.program.program import KernelStep
from graphopt.driver.compiling import to_program
from tests.backends.test_emission import steps_of

LAYERS = 3


@functools.cache
def quantized(activations: str, symmetric: bool) -> onnx.ModelProto:
    """Blocks of 1x1, 3x3 and depthwise convolutions with residuals, SiLU, pools and products; each layer in a range of its own."""
    rng = np.random.default_rng(3)
    nodes, constants = [], {}

    def layer(op: str, x: str, name: str, *shape: int, **attributes: Any) -> str:
        weight = rng.standard_normal(shape) * rng.uniform(0.02, 0.2)
        constants[f"{name}_w"] = weight.astype(np.float32)
        constants[f"{name}_b"] = rng.standard_normal(shape[0]).astype(np.float32)
        nodes.append(helper.make_node(op, [x, f"{name}_w", f"{name}_b"], [name], name=name, **attributes))
        return name

    def node(op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    x = node("Relu", [layer("Conv", "x", "stem", 32, 3, 3, 3, pads=[1] * 4)], "image")
    for i in range(LAYERS):
        a = node("Relu", [layer("Conv", x, f"p{i}", 32, 32, 1, 1)], f"pr{i}")
        b = layer("Conv", a, f"q{i}", 32, 32, 3, 3, pads=[1] * 4)
        c = node("Mul", [b, node("Sigmoid", [b], f"s{i}")], f"silu{i}")
        d = node("Relu", [layer("Conv", c, f"d{i}", 32, 1, 3, 3, pads=[1] * 4, group=32)], f"dr{i}")
        x = node("Relu", [node("Add", [x, layer("Conv", d, f"e{i}", 32, 32, 1, 1)], f"sum{i}")], f"out{i}")
    x = node("MaxPool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2])
    x = node("Flatten", [node("GlobalAveragePool", [x], "mean")], "flat")
    for i in range(LAYERS):
        x = node("Relu", [layer("Gemm", x, f"g{i}", 32, 32, transB=1)], f"gr{i}")
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 10, 14))],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, (1, 32))],
        [numpy_helper.from_array(a, name) for name, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    data = [{"x": rng.standard_normal((1, 3, 10, 14)).astype(np.float32)} for _ in range(3)]
    found, _ = graphopt.quantize(
        model, data, activations=activations, symmetric=symmetric, compare=False, method="minmax"
    )
    return graphopt.export_onnx(found)


@pytest.mark.parametrize(
    ("activations", "symmetric", "target"),
    [
        ("u8", False, "x86-64-v3"),
        ("s8", True, "x86-64"),
        pytest.param("s8", False, "arm:cortex-a53", marks=pytest.mark.slow),
        pytest.param("u8", False, "arm:neoverse-n1", marks=pytest.mark.slow),
        ("s8", False, "x86-64-v3"),
    ],
)
def test_programs_are_those_made_without_sharing(
    activations: str, symmetric: bool, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a signature leaves out must not show in a kernel."""
    model = quantized(activations, symmetric)
    shared = to_program(model, target, threads=2)[2]
    monkeypatch.setattr(emission, "_is_shareable", lambda *_: False)
    apart = to_program(model, target, threads=2)[2]
    assert steps_of(shared) == steps_of(apart)
    assert shared.functions.keys() == apart.functions.keys()
    for name, function in shared.functions.items():
        assert tvm_ffi.structural_equal(function, apart.functions[name]), name


@pytest.mark.parametrize(("activations", "symmetric"), [("u8", False), ("s8", True)])
def test_layers_of_a_shape_are_one_kernel(activations: str, symmetric: bool) -> None:
    program = to_program(quantized(activations, symmetric), "x86-64-v3", threads=1)[2]
    kernels: dict[str, set[str]] = {}
    for step in program.steps:
        if isinstance(step, KernelStep) and step.anchor:
            kernels.setdefault(step.anchor.rstrip("0123456789"), set()).add(step.function)
    for kind in "pqe":
        assert len(kernels[kind]) == 1, kernels
