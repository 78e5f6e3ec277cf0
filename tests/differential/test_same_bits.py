"""One plan of regions gives the same bits on every instruction set: whole quantized models, for x86-64 and (emulated) ARM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.driver.optimizing import export_onnx
from graphopt.ir.kernel_plan import KernelPlan
from tests.support import qemu
from tests.support.cuda_on_cpu.gpu import run_on_simulated_gpu
from tests.support.run_node import node
from tests.support.zoo_models import Arrays, zoo_model

X86 = "x86-64-v3"
NEEDS_QEMU = [
    pytest.mark.qemu,
    pytest.mark.skipif(qemu.why_unavailable() is not None, reason=str(qemu.why_unavailable())),
]
OTHERS = [
    pytest.param("x86-64", "", id="x86-64"),
    pytest.param("arm", "cortex-a53", id="arm", marks=NEEDS_QEMU),
    pytest.param("arm:neoverse-n1", "neoverse-n1", id="dotprod", marks=[*NEEDS_QEMU, pytest.mark.slow]),
    pytest.param("arm:neoverse-v1", "max", id="i8mm", marks=NEEDS_QEMU),
]


def _mobile() -> onnx.ModelProto:
    """Convolutions of all kinds: full, depthwise, 1x1, in groups, transposed; and a residual, pools, a concatenation."""
    rng = np.random.default_rng(0)
    constants: dict[str, np.ndarray[Any, Any]] = {}
    nodes: list[onnx.NodeProto] = []

    def conv(name: str, source: str, shape: tuple[int, ...], op: str = "Conv", **attrs: Any) -> str:
        outputs = shape[1] if op == "ConvTranspose" else shape[0]
        fan = int(np.prod(shape)) / outputs
        constants[f"{name}.w"] = (rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)
        constants[f"{name}.b"] = (rng.standard_normal(outputs) * 0.1).astype(np.float32)
        nodes.append(node(op, f"{source} {name}.w {name}.b", f"{name}.c", name=name, **attrs))
        nodes.append(node("Relu", f"{name}.c", name))
        return name

    same = {"pads": [1] * 4}
    x = conv("stem", "x", (16, 3, 3, 3), strides=[2, 2], **same)
    x = conv("dw1", x, (16, 1, 3, 3), group=16, **same)
    short = conv("pw1", x, (32, 16, 1, 1))
    x = conv("dw2", short, (32, 1, 5, 5), group=32, pads=[2] * 4)
    x = conv("full", x, (32, 32, 3, 3), **same)
    nodes.append(node("Add", f"{x} {short}", "sum"))
    x = conv("groups", "sum", (32, 8, 3, 3), group=4, **same)
    nodes.append(node("MaxPool", x, "small", kernel_shape=[2, 2], strides=[2, 2]))
    x = conv("up", "small", (32, 16, 2, 2), op="ConvTranspose", strides=[2, 2])
    nodes.append(node("Concat", f"{x} {short}", "both", axis=1))
    x = conv("dw3", "both", (48, 1, 3, 3), group=48, strides=[2, 2], **same)
    nodes.append(node("GlobalAveragePool", x, "mean"))
    nodes.append(node("Flatten", "mean", "flat"))
    constants["fc.w"] = rng.standard_normal((48, 40)).astype(np.float32)
    nodes.append(node("Gemm", "flat fc.w", "y", name="fc"))
    graph = helper.make_graph(
        nodes, "mobile", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 3, 24, 28))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 40))],
        [numpy_helper.from_array(a, name) for name, a in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def _random_feed() -> Arrays:
    return {"x": np.random.default_rng(1).standard_normal((2, 3, 24, 28)).astype(np.float32)}


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Arrays]]] = {
    "digits": (lambda: zoo_model("digits").path(), lambda: zoo_model("digits").inputs(1)),
    "mobile": (_mobile, _random_feed),
    "mobilenet_v2": (lambda: zoo_model("mobilenet_v2").path(), lambda: zoo_model("mobilenet_v2").inputs(1)),
    "ppocr_cls": (lambda: zoo_model("ppocr_cls").path(), lambda: zoo_model("ppocr_cls").inputs(1)),
}


@cache
def _compiled(name: str) -> tuple[onnx.ModelProto, Arrays, Arrays, KernelPlan]:
    """A quantized model, what it is fed, what it gives, and the templates that compute it: configurations are a target's own."""
    source, inputs = MODELS[name]
    feed = inputs()
    graph, _ = graphopt.quantize(
        source(), calibration=[feed], compare=False, shapes={k: v.shape for k, v in feed.items()}
    )
    model = export_onnx(graph)
    compiled = graphopt.compile(model, X86, threads=1)
    plan = compiled.plan
    kernels = {k: replace(choice, config=None) for k, choice in plan.kernels.items()}
    return model, feed, compiled.run(feed), KernelPlan(kernels)


@pytest.mark.parametrize(
    "name",
    ["digits", *(pytest.param(n, marks=pytest.mark.slow) for n in ("mobile", "mobilenet_v2", "ppocr_cls"))],
)
@pytest.mark.parametrize(("target", "cpu"), OTHERS)
def test_whole_models(name: str, target: str, cpu: str) -> None:
    model, feed, want, plan = _compiled(name)
    compiled = graphopt.compile(model, target, threads=1, plan=plan)
    got = _emulated(compiled, feed, want, cpu) if cpu else compiled.run(feed)
    for output, array in want.items():
        assert len(np.unique(array)) > 1
        np.testing.assert_array_equal(got[output], array, err_msg=output)


@pytest.mark.parametrize("name", ["digits", pytest.param("mobile", marks=pytest.mark.slow)])
def test_on_a_gpu(name: str) -> None:
    """Tensor cores add up the same integers; what the compiler may fuse, it fuses here wherever it can."""
    pytest.importorskip("ziglang")
    model, feed, want, _ = _compiled(name)
    got = run_on_simulated_gpu(model, feed, schedules=(0,), contract=True)
    for output, array in want.items():
        np.testing.assert_array_equal(got[output], array, err_msg=output)


def _emulated(compiled: Any, feed: Arrays, want: Arrays, cpu: str) -> Arrays:
    arguments = [feed[spec.name] for spec in compiled.inputs] + compiled.constants
    outputs = [(want[spec.name].shape, want[spec.name].dtype) for spec in compiled.outputs]
    results = qemu.run_under_qemu(compiled.built.library_bytes(), arguments, outputs, cpu=cpu, timeout=500)
    return {spec.name: array for spec, array in zip(compiled.outputs, results, strict=True)}
