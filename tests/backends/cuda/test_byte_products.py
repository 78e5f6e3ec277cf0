"""Quantized layers on tensor cores give the bits that they have on CPUs, whatever the bytes of data and weights mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("ziglang")

import graphopt
from graphopt.backends.program.program import KernelStep
from graphopt.driver.compiling import to_program
from tests.support.cuda_on_cpu.gpu import SimulatedGpus, run_on_simulated_gpu

LAYERS: dict[str, tuple[tuple[int, ...], dict[str, Any], type[Any], int, type[Any], int]] = {
    # weights, attributes, type and zero point of the data, of the weights
    "signed": ((24, 16, 3, 3), {"pads": [1] * 4}, np.int8, 0, np.int8, 0),
    "moved": ((24, 16, 3, 3), {"pads": [1] * 4}, np.uint8, 117, np.int8, 0),
    "turned": ((24, 16, 3, 3), {"pads": [1] * 4}, np.int8, -9, np.int8, 0),
    "unsigned": ((24, 16, 3, 3), {"pads": [1] * 4}, np.uint8, 117, np.uint8, 131),
    "others": (
        (24, 16, 3, 3),
        {"pads": [1] * 4},
        np.uint8,
        90,
        np.uint8,
        125,
    ),  # shares a kernel with the one above, if any
    "strided": ((20, 16, 2, 3), {"pads": [1, 0, 0, 2], "strides": [2, 2]}, np.uint8, 200, np.uint8, 128),
    "depthwise": ((16, 1, 3, 3), {"group": 16, "pads": [1] * 4}, np.uint8, 117, np.int8, 0),
    "grouped": ((32, 8, 3, 3), {"group": 2}, np.uint8, 3, np.int8, 0),
}


def model() -> tuple[Any, dict[str, Any]]:
    rng = np.random.default_rng(4)
    nodes, inputs, outputs, constants, feed = [], [], [], {}, {}
    for name, (shape, attrs, data, zero, weights, of_weights) in LAYERS.items():
        low, high = (-127, 128) if weights is np.int8 else (of_weights - 120, min(of_weights + 120, 256))
        constants |= {
            f"{name}_w": rng.integers(low, high, shape).astype(weights), f"{name}_sw": np.float32(0.011),
            f"{name}_zw": weights(of_weights), f"{name}_sx": np.float32(0.02), f"{name}_zx": data(zero),
            f"{name}_sy": np.float32(0.07), f"{name}_zy": np.uint8(101),
        }  # fmt: skip
        n = name
        for op, operands, result, more in (
            ("QuantizeLinear", [f"{n}_x", f"{n}_sx", f"{n}_zx"], f"{n}_q", {}),
            ("DequantizeLinear", [f"{n}_q", f"{n}_sx", f"{n}_zx"], f"{n}_d", {}),
            ("DequantizeLinear", [f"{n}_w", f"{n}_sw", f"{n}_zw"], f"{n}_dw", {}),
            ("Conv", [f"{n}_d", f"{n}_dw"], f"{n}_c", attrs),
            ("QuantizeLinear", [f"{n}_c", f"{n}_sy", f"{n}_zy"], f"{n}_qy", {}),
            ("DequantizeLinear", [f"{n}_qy", f"{n}_sy", f"{n}_zy"], name, {}),
        ):
            nodes.append(helper.make_node(op, operands, [result], name=result, **more))
        feed[f"{n}_x"] = rng.normal(size=(1, 16, 9, 8)).astype(np.float32)
        inputs.append(helper.make_tensor_value_info(f"{n}_x", TensorProto.FLOAT, (1, 16, 9, 8)))
        outputs.append(onnx.ValueInfoProto(name=name))
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "bytes", inputs, outputs, initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return onnx.shape_inference.infer_shapes(proto), feed


def test_bits_of_cpus() -> None:
    proto, feed = model()
    program = to_program(proto, "cuda:sm_80")[2]
    products = [s.config for s in program.steps if isinstance(s, KernelStep) and s.template == "implicit-gemm"]
    assert len(products) == len(LAYERS) - 1
    assert all("s8s8" in config or "u8s8" in config for config in products)
    want = graphopt.compile(proto, "x86").run(feed)
    gpus = SimulatedGpus("8.0", apart=True)  # whose memory the host can't read
    got = run_on_simulated_gpu(proto, feed, schedules=(1,), contract=True, gpus=gpus)
    gpus.close()
    for name in LAYERS:
        assert len(np.unique(want[name])) > 20, name
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
