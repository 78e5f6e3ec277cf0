"""DynamicQuantizeLSTM: exactly an LSTM of the dequantized weights, and about what ONNX Runtime computes with rounded data."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.driver.importing import import_onnx
from graphopt.errors import GraphOptError
from graphopt.ir.onnx_io import graph_to_onnx
from tests.ops.contrib.one_node import Array, model_of
from tests.support.ort import run_ort

STEPS, BATCH, FEATURES, HIDDEN = 7, 3, 10, 6
OUTPUTS = {"y": np.float32, "y_h": np.float32, "y_c": np.float32}


def operands_of(directions: int, dtype: Any, per_column: bool, *, everything: bool) -> dict[str, Array | None]:
    """Weights of all integers, each direction and gate with a scale of its own where there are several."""
    rng = np.random.default_rng(5)
    info = np.iinfo(dtype)

    def f32(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    def quantized(rows: int) -> tuple[Array, Array, Array]:
        shape = (directions, 4 * HIDDEN) if per_column else (directions,)
        # ONNX Runtime saturates sums of two products on AVX2, and wants one zero point for all columns
        least, most = (-63, 63) if dtype is np.int8 else (info.min, info.max)
        integers = rng.integers(least, most + 1, (directions, rows, 4 * HIDDEN)).astype(dtype)
        scale = rng.uniform(0.002, 0.01, shape).astype(np.float32)
        zero = np.zeros(shape, dtype) if dtype is np.int8 else np.full(shape, 119, dtype)
        return integers, scale, zero

    (w, sw, zw), (r, sr, zr) = quantized(FEATURES), quantized(HIDDEN)
    lengths = np.array([7, 4, 6], np.int32)
    return {
        "x": f32(STEPS, BATCH, FEATURES), "w": w, "r": r, "b": f32(directions, 8 * HIDDEN) * np.float32(0.3),
        "lengths": lengths if everything else None, "h": f32(directions, BATCH, HIDDEN) if everything else None,
        "c": f32(directions, BATCH, HIDDEN) if everything else None,
        "p": f32(directions, 3 * HIDDEN) if everything else None, "sw": sw, "zw": zw, "sr": sr, "zr": zr,
    }  # fmt: skip


def float_model(operands: dict[str, Array | None], **attributes: Any) -> onnx.ModelProto:
    """The LSTM of the numbers that the weights stand for."""

    def weight(name: str) -> Array:
        integers, scale, zero = operands[name], operands[f"s{name}"], operands[f"z{name}"]
        assert integers is not None
        assert scale is not None
        assert zero is not None
        shape = (len(scale), 1, -1)
        numbers = (integers.astype(np.float32) - zero.astype(np.float32).reshape(shape)) * scale.reshape(shape)
        return np.ascontiguousarray(numbers.transpose(0, 2, 1))

    plain = {**{k: v for k, v in operands.items() if k[0] not in "sz"}, "w": weight("w"), "r": weight("r")}
    fed = " ".join(name for name in ["x", "lengths", "h", "c"] if plain[name] is not None)
    return model_of("LSTM", plain, fed, OUTPUTS, domain="", **attributes)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("per_column", [False, True], ids=["per-tensor", "per-column"])
@pytest.mark.parametrize(("dtype", "everything"), [(np.int8, False), (np.uint8, True)], ids=["i8", "u8-all-operands"])
def test_results(direction: str, per_column: bool, dtype: Any, everything: bool) -> None:
    operands = operands_of(2 if direction == "bidirectional" else 1, dtype, per_column, everything=everything)
    fed = " ".join(name for name in ["x", "lengths", "h", "c"] if operands[name] is not None)
    attributes: dict[str, Any] = {"hidden_size": HIDDEN, "direction": direction}
    model = model_of("DynamicQuantizeLSTM", operands, fed, OUTPUTS, **attributes)
    feeds = {name: np.asarray(operands[name]) for name in fed.split()}
    graph = import_onnx(model)
    assert [n.op for n in graph.nodes] == ["DequantizeLinear", "DequantizeLinear", "LSTM"]
    assert {v.dtype.numpy for v in graph.constants() if v.data is not None and v.data.ndim == 3} >= {np.dtype(dtype)}
    got = run_ort(graph_to_onnx(graph), feeds)
    exact, rounded = run_ort(float_model(operands, **attributes), feeds), run_ort(model, feeds)
    for ours, true, theirs in zip(got, exact, rounded):
        assert true.std() > 0.1
        np.testing.assert_allclose(ours, true, rtol=1e-5, atol=1e-6)
        # data and states of 8 bits: half a step of a 255th of their range, grown by weights and steps
        assert np.abs(ours - theirs).max() < 0.1 * np.abs(true).max()
        assert np.sqrt(((ours - theirs) ** 2).mean()) < 0.02 * np.abs(true).max()


def test_attributes_and_missing_results() -> None:
    operands = operands_of(1, np.int8, True, everything=False)
    attributes = {"hidden_size": HIDDEN, "clip": 0.7, "input_forget": 1, "activations": ["Sigmoid", "Tanh", "Relu"]}
    model = model_of(
        "DynamicQuantizeLSTM", {**operands, "b": None}, "x", {" ": np.float32, "y_h": np.float32}, **attributes
    )
    graph = import_onnx(model)
    feeds = {"x": np.asarray(operands["x"])}
    exact = run_ort(float_model({**operands, "b": None}, **attributes), feeds)[1]
    np.testing.assert_allclose(run_ort(graph_to_onnx(graph), feeds)[0], exact, rtol=1e-5, atol=1e-6)


def test_shapes_that_contradict_one_another() -> None:
    operands = operands_of(1, np.int8, True, everything=False)
    with pytest.raises(GraphOptError, match="can't be applied") as error:
        import_onnx(model_of("DynamicQuantizeLSTM", {**operands, "sw": np.ones((1, 3), np.float32)}, "x", OUTPUTS))
    assert error.value.node == "it (com.microsoft::DynamicQuantizeLSTM)"
