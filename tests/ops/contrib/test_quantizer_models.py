"""A network as ONNX Runtime's quantizer writes it, with operators on integers, with pairs, and dynamically, compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

import graphopt
from graphopt.driver.importing import import_onnx
from graphopt.errors import UnsupportedOpError
from graphopt.ir.onnx_io import graph_to_onnx
from tests.support.ort import run_ort
from tests.support.run_node import node

Array = np.ndarray[Any, Any]
SHAPE = (1, 3, 12, 12)


class Data(CalibrationDataReader):  # type: ignore[misc]
    """A few images of noise."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.images = iter([{"x": rng.standard_normal(SHAPE).astype(np.float32)} for _ in range(3)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.images, None)


def network() -> onnx.ModelProto:
    """Convolutions, a residual, a gate, a concatenation, pools, products."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> Array:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    nodes = [
        node("Conv", "x w1 b1", "c1", pads=[1] * 4, name="first"), node("Relu", "c1", "r1"),
        node("Conv", "r1 w2 b2", "c2", pads=[1] * 4), node("Add", "c2 r1", "a"), node("LeakyRelu", "a", "l", alpha=0.1),
        node("Conv", "l w3", "c3", kernel_shape=[1, 1]), node("Sigmoid", "c3", "s"), node("Mul", "c3 s", "m"),
        node("Concat", "m l", "k", axis=1), node("AveragePool", "k", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", "p", "g"), node("Flatten", "g", "f"), node("Gemm", "f w4 b4", "h", transB=1),
        node("MatMul", "h w5", "t"), node("Softmax", "t", "y", axis=-1),
    ]  # fmt: skip
    weights = {
        "w1": weight(16, 3, 3, 3), "b1": weight(16), "w2": weight(16, 16, 3, 3), "b2": weight(16), "w3": weight(32, 16, 1, 1),
        "w4": weight(20, 48), "b4": weight(20), "w5": weight(20, 10) * 8,
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("form", ["QOperator", "QDQ", "dynamic", "float"])
@pytest.mark.parametrize("level", ["EXTENDED", "ALL"])
def test_models_that_onnx_runtime_has_optimised(level: str, form: str, tmp_path: Path) -> None:
    """At the highest level convolutions have channels last, or an order of blocks for one processor, which is refused."""
    source, made, saved = (str(tmp_path / f"{name}.onnx") for name in ("float", "quantized", "saved"))
    onnx.save(network(), source)
    if form == "dynamic":
        quantize_dynamic(source, made, weight_type=QuantType.QInt8)
    elif form == "float":
        made = source
    else:
        quantize_static(
            source, made, Data(), quant_format=QuantFormat[form], per_channel=True, reduce_range=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = saved
    options.log_severity_level = 4
    ort.InferenceSession(made, options, providers=["CPUExecutionProvider"])
    x = {"x": np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)}
    domains = {n.domain for n in onnx.load(saved).graph.node}
    if "com.microsoft.nchwc" in domains:
        with pytest.raises(UnsupportedOpError, match="nchwc") as error:
            import_onnx(saved)
        assert "extended" in str(error.value.hint)
        return
    assert "com.microsoft" in domains
    graph = import_onnx(saved)
    assert not any(n.domain for n in graph.walk())
    got, want = run_ort(graph_to_onnx(graph), x)[0], run_ort(onnx.load(saved), x)[0]
    assert want.std() > 0.05
    assert np.abs(got - want).max() < 0.02


@pytest.mark.parametrize("form", ["QOperator", "QDQ", "dynamic"])
def test_models_of_the_quantizer(form: str, tmp_path: Path) -> None:
    source, made = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
    onnx.save(network(), source)
    if form == "dynamic":
        quantize_dynamic(source, made, weight_type=QuantType.QInt8)
    else:
        quantize_static(
            source, made, Data(), quant_format=QuantFormat[form], per_channel=True, activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
    compiled = graphopt.compile(str(made), "x86-64-v3", threads=1)
    assert compiled.program is not None
    kernels = [f"{k.template}:{k.config}" for k in compiled.program.kernels]
    products = [k for k in kernels if k.startswith(("conv2d", "matmul"))]
    assert len(products) == 5, kernels
    assert sum("vpmaddwd" in k for k in products) >= 4, (
        products
    )  # a Concat reads the fifth one's operand, too, as floats
    x = {"x": np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)}
    got, want, true = compiled.run(x)["y"], run_ort(onnx.load(made), x)[0], run_ort(network(), x)[0]
    assert true.std() > 0.05
    assert np.abs(got - want).max() < 0.03  # a few steps of 8 bits on their way through the layers
    assert np.abs(got - true).max() < 0.1
