"""Convolutions and matrix products of all kinds on a simulated GPU, in every type: exact sums of small whole numbers.

One model holds all of them side by side, so that a type is compiled once; `test_product_sweep.py` has many more in 16 bits. Weights
and data are -1, 0 and 1: float16, bfloat16 and tf32 hold all sums, and results must be equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("ziglang")

import graphopt
from graphopt.backends.cuda.kernels import positions
from graphopt.backends.program.program import KernelStep
from graphopt.driver.compiling import to_program
from graphopt.errors import InputError
from tests.support.cuda_on_cpu.gpu import compiled_for_simulator, run_on_simulated_gpu

Case = tuple[str, dict[str, tuple[int, ...]], dict[str, tuple[int, ...]], dict[str, Any], str]
CASES: dict[str, Case] = {
    # operator, run-time operands, constants, attributes, template
    "window": ("Conv", {"x": (2, 16, 9, 11)}, {"w": (24, 16, 3, 3), "b": (24,)}, {"pads": [1] * 4}, "implicit-gemm"),
    "stride": ("Conv", {"x": (1, 8, 13, 7)}, {"w": (40, 8, 3, 2)}, {"pads": [2, 0, 1, 1], "strides": [3, 2]}, "implicit-gemm"),
    "dilated": ("Conv", {"x": (1, 20, 12, 9)}, {"w": (17, 20, 2, 3)}, {"dilations": [3, 2]}, "implicit-gemm"),
    "point": ("Conv", {"x": (3, 36, 5, 5)}, {"w": (16, 36, 1, 1), "b": (16,)}, {}, "implicit-gemm"),
    "first": ("Conv", {"x": (1, 3, 15, 14)}, {"w": (24, 3, 5, 5)}, {"pads": [2] * 4, "strides": [2, 2]}, "implicit-gemm"),
    "groups": ("Conv", {"x": (1, 24, 6, 7)}, {"w": (36, 8, 3, 3)}, {"group": 3, "pads": [1] * 4}, "implicit-gemm"),
    "line": ("Conv", {"x": (2, 12, 29)}, {"w": (20, 12, 5)}, {"pads": [2, 1]}, "implicit-gemm"),
    "volume": ("Conv", {"x": (1, 8, 5, 6, 4)}, {"w": (16, 8, 3, 2, 3), "b": (16,)}, {"pads": [1, 0, 1, 1, 1, 0]}, "implicit-gemm"),
    "sliced": ("Conv", {"x": (1, 96, 4, 4)}, {"w": (32, 96, 2, 2)}, {}, "implicit-gemm"),
    "depthwise": ("Conv", {"x": (2, 16, 9, 11)}, {"w": (16, 1, 3, 3), "b": (16,)}, {"group": 16, "pads": [1] * 4}, "depthwise"),
    "multiplied": ("Conv", {"x": (1, 6, 8, 9)}, {"w": (12, 1, 3, 5)}, {"group": 6, "dilations": [2, 1], "pads": [2] * 4},
        "depthwise"),
    "steps": ("Conv", {"x": (1, 8, 10, 11)}, {"w": (8, 1, 2, 3)}, {"group": 8, "strides": [2, 3]}, "depthwise"),
    "phases": ("ConvTranspose", {"x": (1, 16, 5, 6)}, {"w": (16, 24, 3, 3), "b": (24,)},
        {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 0]}, "transposed-gemm"),
    "uneven": ("ConvTranspose", {"x": (2, 16, 4, 3)}, {"w": (16, 8, 4, 2)}, {"strides": [3, 2], "group": 2}, "transposed-gemm"),
    "rows": ("MatMul", {"x": (2, 19, 48)}, {"w": (48, 70)}, {}, "matmul-tiles"),
    "gemm": ("Gemm", {"x": (37, 100)}, {"w": (50, 100), "b": (50,)}, {"transB": 1}, "matmul-tiles"),
    "vector": ("Gemm", {"x": (1, 256)}, {"w": (256, 10), "b": (10,)}, {}, "matmul-tiles"),
    "pairs": ("MatMul", {"x": (2, 3, 19, 48), "z": (2, 3, 48, 40)}, {}, {}, "matmul-batched-tiles"),
    "odd": ("MatMul", {"x": (1, 3, 19, 47), "z": (3, 47, 33)}, {}, {}, "matmul-batched-tiles"),
    "turned": ("Gemm", {"x": (40, 21), "z": (26, 40)}, {}, {"transA": 1, "transB": 1}, "matmul-batched-tiles"),
}  # fmt: skip


def model() -> tuple[Any, dict[str, Any]]:
    rng = np.random.default_rng(8)
    nodes, inputs, outputs, constants, feed = [], [], [], [], {}
    for name, (op, data, weights, attrs, _) in CASES.items():
        for operand, shape in data.items():
            feed[f"{name}_{operand}"] = rng.integers(-1, 2, shape).astype(np.float32)
            inputs.append(helper.make_tensor_value_info(f"{name}_{operand}", TensorProto.FLOAT, shape))
        for operand, shape in weights.items():
            constants.append(
                numpy_helper.from_array(rng.integers(-1, 2, shape).astype(np.float32), f"{name}_{operand}")
            )
        nodes.append(
            helper.make_node(op, [f"{name}_{o}" for o in (*data, *weights)], [f"{name}_y"], **attrs, name=name)
        )
        nodes.append(helper.make_node("Relu", [f"{name}_y"], [name]))
        outputs.append(onnx.ValueInfoProto(name=name))
    nodes.append(helper.make_node("Add", ["window", "again_x"], ["sum"]))  # an operand as large as the result
    inputs.append(helper.make_tensor_value_info("again_x", TensorProto.FLOAT, (2, 24, 9, 11)))
    feed["again_x"] = rng.integers(-1, 2, (2, 24, 9, 11)).astype(np.float32)
    outputs = [o for o in outputs if o.name != "window"] + [onnx.ValueInfoProto(name="sum")]
    graph = helper.make_graph(nodes, "products", inputs, outputs, constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(proto), feed


TYPES: dict[str, dict[str, Any]] = {
    "tf32": {}, "float32": {"exact": True},
}  # fmt: skip


@pytest.mark.parametrize("type_", ["tf32", pytest.param("float32", marks=pytest.mark.slow)])
def test_all_products(type_: str) -> None:
    proto, feed = model()
    program = to_program(proto, "cuda:sm_80", **TYPES[type_])[2]
    chosen = {(name, step.template) for step in program.steps if isinstance(step, KernelStep) for name in step.origins}
    assert not {(name, template) for name, (*_, template) in CASES.items()} - chosen
    want = graphopt.compile(proto, "x86", level=0).run(feed)
    compare(run_on_simulated_gpu(proto, feed, **TYPES[type_], schedules=(0, 1, 2) if type_ == "tf32" else (1,)), want)


@pytest.mark.slow
def test_before_asynchronous_copies() -> None:
    """Turing: copies through registers, tensor cores of half the size; bfloat16, which it multiplies in float32."""
    proto, feed = model()
    want = graphopt.compile(proto, "x86", level=0).run(feed)
    compare(run_on_simulated_gpu(proto, feed, arch=75, precision="bf16", schedules=(2,)), want)


def compare(got: dict[str, Any], want: dict[str, Any]) -> None:
    for name, expected in want.items():
        assert np.abs(expected).max() >= 3, name  # the case means something
        np.testing.assert_array_equal(got[name], expected, err_msg=name)


def test_more_elements_than_a_kernel_can_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions have 32 bits; where sizes are open, the host looks at them before it launches."""
    monkeypatch.setattr(positions, "LARGEST_POSITION", 100)  # so that the test needs no gigabytes
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = helper.make_graph(
        [node], "open", [helper.make_tensor_value_info("x", 1, ["N", 16])], [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(np.eye(16, dtype=np.float32), "w")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = compiled_for_simulator(proto, tmp_path / "open.gopt", exact=True)
    feed = {"x": np.arange(96, dtype=np.float32).reshape(6, 16)}
    np.testing.assert_array_equal(run_on_simulated_gpu(path, feed, schedules=(0,))["y"], feed["x"])
    with pytest.raises(InputError, match="more than 100 elements"):
        run_on_simulated_gpu(path, {"x": np.zeros((7, 16), np.float32)}, schedules=(0,))
