"""Forms of opset 6, which ONNX Runtime no longer runs: the upgraded graph against numpy, after the text of the old schemas."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from graphopt.driver.importing import import_onnx
from graphopt.errors import UnsupportedOpError
from graphopt.ir.onnx_io import graph_to_onnx

RNG = np.random.default_rng(3)
X = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)


def model(op: str, arrays: list[np.ndarray], constant: bool, **attrs: Any) -> onnx.ModelProto:
    names = [f"x{i}" for i in range(len(arrays))]
    first = 1 if constant else len(arrays)
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in zip(names[:first], arrays)]
    init = [onnx.numpy_helper.from_array(a, n) for n, a in zip(names[first:], arrays[first:])]
    inputs += [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in zip(names[first:], arrays[first:])
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", "c", "d"][: arrays[0].ndim])
    graph = helper.make_graph([helper.make_node(op, names, ["y"], name="old", **attrs)], "g", inputs, [out], init)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)], ir_version=3)


def run(proto: onnx.ModelProto, arrays: list[np.ndarray]) -> np.ndarray:
    graph = import_onnx(proto)
    feeds = {v.name: arrays[int(v.name[1:])] for v in graph.inputs}
    return np.asarray(ReferenceEvaluator(graph_to_onnx(graph)).run(None, feeds)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(
    ("shape", "attrs", "aligned"),
    [
        ((3, 4), {"broadcast": 1, "axis": 1}, (3, 4, 1)),
        ((2,), {"broadcast": 1, "axis": 0}, (2, 1, 1, 1)),
        ((4, 5), {"broadcast": 1}, (4, 5)),
        ((4, 5), {"broadcast": 1, "axis": -2}, (4, 5)),
        ((2, 3, 4, 5), {}, (2, 3, 4, 5)),
    ],
)
def test_second_operand_lies_along_the_axis(
    shape: tuple[int, ...], attrs: dict[str, int], aligned: tuple[int, ...], constant: bool
) -> None:
    y = RNG.standard_normal(shape).astype(np.float32)
    got = run(model("Sub", [X, y], constant, **attrs), [X, y])
    np.testing.assert_array_equal(got, X - y.reshape(aligned))


def test_shapes_that_differ_without_broadcast_are_refused() -> None:
    y = RNG.standard_normal((5,)).astype(np.float32)
    with pytest.raises(UnsupportedOpError, match="broadcast"):
        import_onnx(model("Add", [X, y], False))


@pytest.mark.parametrize("constant", [False, True])
def test_prelu_slope_is_per_channel(constant: bool) -> None:
    slope = RNG.standard_normal(3).astype(np.float32)
    want = np.where(X < 0, X * slope[:, None, None], X)
    np.testing.assert_allclose(run(model("PRelu", [X, slope], constant), [X, slope]), want, rtol=1e-6)


def test_training_is_refused_and_inference_is_not() -> None:
    arrays = [X, *(np.abs(RNG.standard_normal(3)).astype(np.float32) for _ in range(4))]
    with pytest.raises(UnsupportedOpError, match="training"):
        import_onnx(model("BatchNormalization", arrays, True))
    scale, shift, mean, var = (a[:, None, None] for a in arrays[1:])
    want = (X - mean) / np.sqrt(var + 1e-5) * scale + shift
    got = run(model("BatchNormalization", arrays, True, is_test=1), arrays)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
