"""Pooling between convolutions, where channels lie innermost on a GPU: products with 1 give the numbers of the pools alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from ml_dtypes import bfloat16
from onnx import helper, numpy_helper

pytest.importorskip("ziglang")

from graphopt.driver.compiling import to_program
from tests.support.cuda_on_cpu.gpu import run_on_simulated_gpu
from tests.support.many_nodes import Array

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "maxima that overlap": ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "large windows": ("MaxPool", {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2]}),
    "holes": ("MaxPool", {"kernel_shape": [2, 3], "dilations": [2, 3]}),
    "means without padding": ("AveragePool", {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]}),
    "means with padding": (
        "AveragePool",
        {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 0, 0], "count_include_pad": 1},
    ),
    "means, rounded up": ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
}


def _pooled(x: Array, op: str, form: dict[str, Any]) -> Array:
    """ONNX's definition, window by window."""
    kernel, strides, dilations = form["kernel_shape"], form.get("strides", [1, 1]), form.get("dilations", [1, 1])
    top, left, bottom, right = form.get("pads", [0, 0, 0, 0])
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    room = [x.shape[2] + top + bottom - spans[0], x.shape[3] + left + right - spans[1]]
    extents = [-(-r // s) + 1 if form.get("ceil_mode") else r // s + 1 for r, s in zip(room, strides)]
    out = np.zeros((*x.shape[:2], *extents))
    for i, j in np.ndindex(*extents):
        rows = [i * strides[0] + k * dilations[0] - top for k in range(kernel[0])]
        columns = [j * strides[1] + k * dilations[1] - left for k in range(kernel[1])]
        inside = [(r, c) for r in rows for c in columns if 0 <= r < x.shape[2] and 0 <= c < x.shape[3]]
        counted = [
            (r, c) for r in rows for c in columns if -top <= r < x.shape[2] + bottom and -left <= c < x.shape[3] + right
        ]
        values = np.stack([x[:, :, r, c] for r, c in inside])
        if op == "MaxPool":
            out[:, :, i, j] = values.max(0)
        else:
            out[:, :, i, j] = values.sum(0) / len(counted if form.get("count_include_pad") else inside)
    return out


def _model(channels: int, dtype: Any) -> tuple[bytes, list[str]]:
    ones = numpy_helper.from_array(np.eye(channels).reshape(channels, channels, 1, 1).astype(dtype), "w")
    nodes, outputs = [helper.make_node("Conv", ["x", "w"], ["a"])], []
    for number, (op, form) in enumerate(FORMS.values()):
        nodes.append(helper.make_node(op, ["a"], [f"p{number}"], **form))
        nodes.append(helper.make_node("Conv", [f"p{number}", "w"], [f"y{number}"]))
        outputs.append(f"y{number}")
    x = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [2, channels, 11, 9])
    graph = helper.make_graph(nodes, "pools", [x], [onnx.ValueInfoProto(name=n) for n in outputs], [ones])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return onnx.shape_inference.infer_shapes(proto).SerializeToString(), outputs


def _templates(model: bytes) -> Sequence[str]:
    _, _, program = to_program(model, "cuda:sm_80")
    return [getattr(step, "template", "") for step in program.steps]


@pytest.mark.parametrize(("dtype", "channels"), [(np.float32, 12), (np.float16, 24), (bfloat16, 8)])
def test_pools(dtype: Any, channels: int) -> None:
    """8 channels a thread, or the fewer that divide them."""
    model, outputs = _model(channels, dtype)
    assert _templates(model).count("pooling") == len(FORMS)
    x = np.random.default_rng(channels).normal(size=(2, channels, 11, 9)).astype(dtype)
    got = run_on_simulated_gpu(model, {"x": x}, exact=True)
    for name, (what, (op, form)) in zip(outputs, FORMS.items(), strict=True):
        want = _pooled(x.astype(np.float64), op, form)
        tolerance = 0.0 if op == "MaxPool" else {np.float32: 1e-6, np.float16: 1e-3}.get(dtype, 8e-3)
        np.testing.assert_allclose(got[name].astype(np.float64), want, rtol=tolerance, atol=tolerance, err_msg=what)
