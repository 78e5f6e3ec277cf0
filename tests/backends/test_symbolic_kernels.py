"""Kernels of symbolic sizes: right at every size, and in a form that TVM's simplifier is quick with."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt.driver.compiling import to_program
from tests.support.chosen import templates
from tests.support.ort import run_ort
from tests.support.tolerance import assert_close

pytest.importorskip("onnxruntime")

Shape = list[int | str]


def _model(op: str, inputs: dict[str, Shape], consts: dict[str, Any], outputs: list[str], **attrs: Any) -> Any:
    node = helper.make_node(op, [*inputs, *consts], outputs, **attrs)
    declared = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    fixed = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in consts.items()]
    results = [onnx.ValueInfoProto(name=name) for name in outputs if name]
    graph = helper.make_graph([node], "one", declared, results, fixed)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


def _noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _depthwise(channels: int) -> Any:
    """Of 12 channels, which no block divides, and windows too large for the plain kernel: a loop nest."""
    attrs = {"group": channels, "strides": [2, 1], "pads": [7, 7, 7, 7]}
    return _model("Conv", {"x": ["n", channels, "h", "w"]}, {"weight": _noise(channels, 1, 15, 15)}, ["y"], **attrs)


@pytest.mark.parametrize("shape", [(1, 12, 48, 40), (2, 12, 7, 1), (3, 16, 1, 33)])
def test_depthwise_convolution(shape: tuple[int, ...]) -> None:
    model, feed = _depthwise(shape[1]), {"x": _noise(*shape, seed=1)}
    (got,) = graphopt.compile(model, "x86", threads=2).run(feed).values()
    assert_close(got, run_ort(model, feed)[0], reduction=225)


def test_computed_dimensions_are_variables_and_positions_go_through_memory() -> None:
    """TVM needs half a minute for this kernel when every index spells out the sizes, and 0.3 s for this form."""
    _, _, program = to_program(_depthwise(12), "x86", threads=1)
    (function,) = [f for name, f in program.functions.items() if name.startswith("conv")]
    body = function.script(show_meta=False).split("func_attr")[1]
    assert "s_h + T.int64(1)" not in body, "output rows are a variable, which the shape of a parameter defines"
    stores = [line for line in body.splitlines() if re.search(r"(out0|work\d+|acc)\[.*\] = ", line)]
    assert stores
    assert not [line for line in stores if re.search(r"\bf (//|%)", line)]


@pytest.mark.parametrize("wanted", [["y", "h", "c"], ["", "h"], ["y"]])
def test_recurrent_layer_of_symbolic_batch(wanted: list[str]) -> None:
    """Scratch that steps fill at positions read from memory keeps its size."""
    consts = {"w": _noise(1, 32, 5) / 4, "r": _noise(1, 32, 8, seed=1) / 4}
    model = _model("LSTM", {"x": ["t", "b", 5]}, consts, wanted, hidden_size=8)
    compiled = graphopt.compile(model, "x86", threads=1)
    for shape in ((1, 3, 5), (6, 2, 5)):
        feed = {"x": _noise(*shape, seed=2)}
        for got, want in zip(compiled.run(feed).values(), run_ort(model, feed), strict=True):
            assert_close(got, want, reduction=13, depth=6)


def test_channels_that_run_time_tells_are_those_of_the_weights() -> None:
    """A detector pads its images by values, so that nothing of their shape is known; other channels are refused by name."""
    made = [
        helper.make_node("Slice", ["x", "zero", "k", "one"], ["s"]),
        helper.make_node("Conv", ["s", "w"], ["y"], name="stem", strides=[2, 2], pads=[3, 3, 3, 3]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, "h", "w"]),
        helper.make_tensor_value_info("k", TensorProto.INT64, [1]),
    ]
    consts = {"w": _noise(16, 3, 7, 7), "zero": np.array([0]), "one": np.array([1])}
    fixed = [onnx.numpy_helper.from_array(value, name) for name, value in consts.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16, None, None])
    graph = helper.make_graph(made, "channels", inputs, [output], fixed)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert "conv2d-direct" in templates(model)
    compiled = graphopt.compile(model, "x86", threads=1)
    feed = {"x": _noise(1, 8, 13, 10, seed=1), "k": np.array([3])}
    (got,) = compiled.run(feed).values()
    assert_close(got, run_ort(model, feed)[0], reduction=147)
    for channels in (0, 2, 4, 8):
        with pytest.raises(graphopt.GraphOptError, match=r"stem.*input channels"):
            compiled.run({**feed, "k": np.array([channels])})
