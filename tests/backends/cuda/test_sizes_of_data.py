"""Sizes that values decide, on a simulated GPU: the host computes and checks them, kernels count what they need themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("ziglang")

import graphopt
from graphopt.errors import InputError
from tests.support.cuda_on_cpu.gpu import compiled_for_simulator, run_on_simulated_gpu

INPUTS = {
    "shape": (TensorProto.INT64, [2]), "limit": (TensorProto.FLOAT, []), "image": (TensorProto.FLOAT, [1, 1, 4, 5]),
    "scales": (TensorProto.FLOAT, [4]), "mask": (TensorProto.FLOAT, [6]),
}  # fmt: skip


def model() -> Any:
    def scalar(name: str, value: float) -> Any:
        return numpy_helper.from_array(np.float32(value), name)

    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"], value=helper.make_tensor("v", 1, [1], [3.0])),
        helper.make_node("Range", ["start", "limit", "step"], ["steps"]),
        helper.make_node("Mul", ["steps", "two"], ["doubled"]),
        helper.make_node("Resize", ["image", "", "scales"], ["larger"], mode="nearest"),
        helper.make_node("NonZero", ["mask"], ["places"]),
    ]
    inputs = [helper.make_tensor_value_info(name, *of) for name, of in INPUTS.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in ("zeros", "doubled", "larger", "places")]
    constants = [scalar("start", 0.5), scalar("step", 0.75), scalar("two", 2.0)]
    graph = helper.make_graph(nodes, "sizes", inputs, outputs, constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return onnx.shape_inference.infer_shapes(proto)


def feed(*shape: int, limit: float = 4.0, scale: float = 2.0) -> dict[str, Any]:
    return {
        "shape": np.array(shape, np.int64), "limit": np.float32(limit),
        "image": np.arange(20, dtype=np.float32).reshape(1, 1, 4, 5),
        "scales": np.array([1, 1, scale, 1.5], np.float32), "mask": np.array([1, 0, 0, 3, 4, 0], np.float32),
    }  # fmt: skip


def test_sizes_of_data(tmp_path: Path) -> None:
    proto = model()
    path = compiled_for_simulator(proto, tmp_path / "sizes.gopt")
    on_cpu = graphopt.compile(proto, "x86")
    for given in (feed(2, 3), feed(0, 7, limit=-1.0, scale=0.5), feed(40, 9, limit=100.25, scale=3.0)):
        got, want = run_on_simulated_gpu(path, given, schedules=(0,)), on_cpu.run(given)
        for name, expected in want.items():
            assert got[name].shape == expected.shape, name
            np.testing.assert_array_equal(got[name], expected, err_msg=name)
    with pytest.raises(InputError, match="negative"):
        run_on_simulated_gpu(path, feed(-3, 2), schedules=(0,))
