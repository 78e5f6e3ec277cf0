"""Conversions before an anchor run in its kernel, whatever they convert from, against ONNX's reference evaluator."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import graphopt
from tests.support.run_node import node

DATA = {"x": (1, 16, 13, 14), "image": (1, 3, 23, 23), "rows": (9, 40), "left": (2, 3, 9, 8), "right": (2, 3, 8, 9)}
DATA |= {"q": (1, 2, 9, 8), "k": (1, 2, 11, 8), "v": (1, 2, 11, 8), "long": (5, 72)}
ANCHORS = [
    node("Conv", "x w3 b24", "conv", pads=[1] * 4),
    node("Conv", "x w1", "pointwise"),
    node("Conv", "x w3", "strided", strides=[2, 1], pads=[0, 1, 2, 0]),
    node("Conv", "image first", "first_layer", strides=[2, 2], pads=[1] * 4),
    node("Conv", "x depth", "depthwise", group=16, pads=[1] * 4),
    node("Conv", "x grouped", "in_groups", group=2),
    node("ConvTranspose", "x up b6", "patches", strides=[2, 2]),
    node("ConvTranspose", "x overlap", "transposed", strides=[2, 2], pads=[1] * 4),
    node("MatMul", "rows m", "product"),
    node("Gemm", "rows turned b33", "gemm", transB=1),
    node("MatMul", "left right", "of_values"),
    node("MaxPool", "x", "greatest", kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
    node("AveragePool", "x", "mean", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
    node("Softmax", "long", "softmax"),
    node("LayerNormalization", "long s72 b72", "norm"),
    node("ReduceSum", "long last", "total", keepdims=0),
    node("Attention", "q k v", "attention"),
]
WEIGHTS = {
    "w3": (24, 16, 3, 3), "w1": (24, 16, 1, 1), "first": (16, 3, 3, 3), "depth": (16, 1, 3, 3), "grouped": (32, 8, 1, 1),
    "up": (16, 6, 2, 2), "overlap": (16, 6, 3, 3), "m": (40, 33), "turned": (33, 40),
}  # fmt: skip
OUT_AXIS = {"up": 1, "overlap": 1, "m": 1}
BIASES = {"b24": 24, "b6": 6, "b33": 33}

READINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "float16": (np.float16, {}),
    "bfloat16": (ml_dtypes.bfloat16, {}),
    "int8": (np.int8, {}),
    "uint16": (np.uint16, {}),
    "dequantized": (np.uint8, {"scale": 0.031, "zero": 131}),
    "symmetric": (np.int8, {"scale": 0.027}),
    "wide": (np.int16, {"scale": 1.7e-4, "zero": -3}),
}


def stored(shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Numbers that use the range of a type, its ends among them."""
    if np.dtype(dtype).kind in "iu":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        found = rng.integers(low, high, shape, endpoint=True).astype(dtype)
        found.reshape(-1)[:2] = low, high
        return found
    return rng.standard_normal(shape).astype(np.float32).astype(dtype)


def conversion(made: str, source: str, kind: dict[str, Any], constants: dict[str, Any], dtype: Any) -> onnx.NodeProto:
    """A Cast, or a DequantizeLinear where there is a scale."""
    if "scale" not in kind:
        return node("Cast", source, made, to=TensorProto.FLOAT)
    constants[f"{made}_scale"] = np.asarray(kind["scale"], np.float32)
    operands = f"{source} {made}_scale"
    if "zero" in kind:
        constants[f"{made}_zero"] = np.asarray(kind["zero"], dtype)
        operands += f" {made}_zero"
    return node("DequantizeLinear", operands, made, **({"axis": kind["axis"]} if "axis" in kind else {}))


def anchored(
    before: list[onnx.NodeProto], inputs: dict[str, tuple[Any, tuple[int, ...]]], constants: dict[str, Any]
) -> onnx.ModelProto:
    """All anchors behind ``before``."""
    results = [anchor.output[0] for anchor in ANCHORS]
    graph = helper.make_graph(
        [*before, *ANCHORS],
        "anchors",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.dtype(d)), s)
            for n, (d, s) in inputs.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    return onnx.shape_inference.infer_shapes(made)


def floats() -> dict[str, Any]:
    """The weights as float32."""
    rng = np.random.default_rng(0)
    found = {n: (rng.standard_normal(s) / np.prod(s[1:]) ** 0.5).astype(np.float32) for n, s in WEIGHTS.items()}
    found |= {n: rng.standard_normal(s).astype(np.float32) for n, s in (BIASES | {"b72": 72, "s72": 72}).items()}
    return found | {"last": np.array([-1])}


def agree(model: onnx.ModelProto, feed: dict[str, Any], target: str = "x86-64-v3") -> None:
    """Every anchor runs by a template, with no kernel beside it, and gives what the reference gives."""
    compiled = graphopt.compile(model, target, threads=1)
    copies = {"layout-copy"}
    kernels = [k for k in compiled.program.kernels if k.template not in copies]
    assert [k.label for k in kernels if k.template == "generic"] == []
    assert len(kernels) == len(ANCHORS)
    got = compiled.run(feed)
    for name, want in zip(got, ReferenceEvaluator(model).run(None, feed)):
        assert np.isfinite(want).all(), name
        np.testing.assert_allclose(got[name], want, rtol=2e-5, atol=2e-5 * np.abs(want).max(), err_msg=name)


LIKE_OTHERS = ("bfloat16", "uint16", "symmetric")
"""Read as float16, int8 and dequantized data are, with another instruction or one less."""


@pytest.mark.parametrize(
    "reading", [pytest.param(r, marks=pytest.mark.slow if r in LIKE_OTHERS else ()) for r in READINGS]
)
@pytest.mark.few(2)
def test_data_are_converted_while_they_are_read(reading: str) -> None:
    dtype, kind = READINGS[reading]
    constants = floats()
    before = [conversion(name, f"{name}_stored", kind, constants, dtype) for name in DATA]
    model = anchored(before, {f"{name}_stored": (dtype, shape) for name, shape in DATA.items()}, constants)
    rng = np.random.default_rng(1)
    feed = {f"{name}_stored": stored(shape, dtype, rng) for name, shape in DATA.items()}
    if reading in ("int8", "uint16"):  # scores of attention stay where exp tells them apart
        feed |= {f"{n}_stored": (feed[f"{n}_stored"] % 3).astype(dtype) for n in ("q", "k", "long")}
    agree(model, feed)


WEIGHT_READINGS: dict[str, tuple[Any, str]] = {
    "float16": (np.float16, "cast"),
    "per_channel": (np.int8, "channels"),
    "per_tensor": (np.uint8, "tensor"),
    "int16": (np.int16, "channels"),
}


@pytest.mark.parametrize(
    "reading",
    ["float16", "per_channel", *(pytest.param(r, marks=pytest.mark.slow) for r in ("per_tensor", "int16"))],
)
def test_weights_stay_as_they_are_stored(reading: str) -> None:
    dtype, how = WEIGHT_READINGS[reading]
    rng = np.random.default_rng(2)
    constants = floats()
    before = []
    for name, shape in WEIGHTS.items():
        del constants[name]
        axis = OUT_AXIS.get(name, 0)
        most = float(np.iinfo(dtype).max) if np.dtype(dtype).kind in "iu" else 1.0
        kind: dict[str, Any] = {}
        if how == "channels":
            kind = {"scale": rng.uniform(0.5, 2, shape[axis]) / most, "axis": axis}
        elif how == "tensor":
            kind = {"scale": 1 / most, "zero": 117}
        constants[f"{name}_stored"] = stored(shape, dtype, rng)
        before.append(conversion(name, f"{name}_stored", kind, constants, dtype))
    for name, extent in BIASES.items():
        del constants[name]
        constants[f"{name}_stored"] = rng.integers(-(2**20), 2**20, extent).astype(np.int32)
        kind = {"scale": rng.uniform(0.5, 2, extent) / 2**20, "axis": 0}
        before.append(conversion(name, f"{name}_stored", kind, constants, np.int32))
    model = anchored(before, {name: (np.float32, shape) for name, shape in DATA.items()}, constants)
    agree(model, {name: rng.standard_normal(shape).astype(np.float32) for name, shape in DATA.items()})


@pytest.mark.parametrize(("dtype", "zero"), [(np.int8, 0), (np.int8, -5), (np.uint8, 117), (np.uint16, 0)])
def test_transformed_weights_lose_their_zero_point_before(dtype: Any, zero: int) -> None:
    """Winograd's kernels pack a transformation of the weights, in which a zero point can't be subtracted any more."""
    rng = np.random.default_rng(4)
    constants: dict[str, Any] = {
        "w": stored((128, 128, 3, 3), dtype, rng),
        "s": np.float32(3e-6 if dtype is np.uint16 else 1e-3),
    }
    constants |= {"z": dtype(zero), "xs": np.float32(0.05), "xz": np.uint8(120)}
    nodes = [
        node("DequantizeLinear", "x xs xz", "wide"),
        node("DequantizeLinear", "w s z", "weight"),
        node("Conv", "wide weight", "y", pads=[1] * 4),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.UINT8, (1, 128, 28, 28))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )  # fmt: skip
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    )
    compiled = graphopt.compile(model, "x86-64-v3", threads=1)
    assert "conv2d-winograd" in {k.template for k in compiled.program.kernels}
    feed = {"x": stored((1, 128, 28, 28), np.uint8, rng)}
    (want,) = ReferenceEvaluator(model).run(None, feed)
    np.testing.assert_allclose(compiled.run(feed)["y"], want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("narrow", ["scale", "bias", "both"])
def test_factors_of_a_normalisation_are_converted_before(narrow: str) -> None:
    """A row kernel reads scale and bias in one type; here they come at run time in two."""
    nodes, inputs = [], {"x": (np.float32, (5, 72)), "x16": (np.float16, (5, 72))}
    for name in ("scale", "bias"):
        converted = narrow in (name, "both")
        inputs[f"{name}_in"] = (np.float16 if converted else np.float32, (72,))
        nodes.append(node("Cast" if converted else "Identity", f"{name}_in", name, **({"to": 1} if converted else {})))
    nodes.append(node("LayerNormalization", "x scale bias", "y"))
    nodes += [node("Cast", "x16", "wide", to=1), node("LayerNormalization", "wide scale bias", "z")]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.dtype(d)), s) for n, (d, s) in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, (5, 72)) for n in ("y", "z")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    rng = np.random.default_rng(5)
    feed = {n: rng.standard_normal(s).astype(d) for n, (d, s) in inputs.items()}
    got = graphopt.compile(model, "x86-64-v3", threads=1).run(feed)
    for name, want in zip(("y", "z"), ReferenceEvaluator(model).run(None, feed)):
        np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-5)


def chain(blocks: int) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Quantized convolutions with residuals: conversions are read by convolutions, by sums and by a node without template."""
    rng = np.random.default_rng(3)
    constants: dict[str, Any] = {"s": np.float32(0.04), "z": np.uint8(110), "half": np.float32(0.5)}
    nodes, value = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d")], "d"
    for i in range(blocks):
        weight = rng.integers(-127, 128, (16, 16, 3, 3)).astype(np.int8)
        constants |= {f"w{i}": weight, f"ws{i}": (rng.uniform(0.5, 2, 16) / 127 / 12).astype(np.float32)}
        nodes += [
            node("DequantizeLinear", f"w{i} ws{i}", f"wd{i}", axis=0),
            node("Conv", f"{value} wd{i}", f"c{i}", pads=[1] * 4),
            node("Add", f"c{i} {value}", f"a{i}"),
            node("QuantizeLinear", f"a{i} s z", f"q{i}"),
            node("DequantizeLinear", f"q{i} s z", f"d{i}"),
        ]
        value = f"d{i}"
    nodes.append(node("CumSum", f"{value} axis", "running"))
    constants["axis"] = np.int64(3)
    nodes.append(node("Mul", f"{value} half", "halved"))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 16, 15, 17))],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in (f"q{blocks - 1}", "running", "halved")
        ],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )
    graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    feed = {"x": rng.standard_normal((1, 16, 15, 17)).astype(np.float32)}
    return onnx.shape_inference.infer_shapes(made), feed


@pytest.mark.parametrize("threads", [1, 2])
def test_conversions_with_several_readers(threads: int) -> None:
    model, feed = chain(3)
    compiled = graphopt.compile(model, "x86-64-v3", threads=threads)
    convolutions = [k for k in compiled.program.kernels if "conv" in k.function]
    assert len(convolutions) == 3
    assert all(k.template != "generic" for k in convolutions)
    for got, want in zip(compiled.run(feed).values(), ReferenceEvaluator(model).run(None, feed)):
        # a sum in another order may be quantized to the next step, which spreads in the convolutions behind
        step = 1 if got.dtype == np.uint8 else 0.04
        assert (np.abs(got.astype(np.float64) - want.astype(np.float64)) <= step * 1.01).mean() > 0.99
        assert (got == want).mean() > 0.9


def test_what_a_prologue_converts_is_shown() -> None:
    model, _ = chain(1)
    text = graphopt.compile(model, "x86-64-v3", threads=1)
    (kernel,) = [k for k in text.program.kernels if "conv" in k.function]
    assert "dequantizelinear" in kernel.function
