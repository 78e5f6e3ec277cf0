"""Compiled for ARM and run under emulation, models give what they give on x86."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt.driver.accuracy import compare_all
from graphopt.runtime.model import CompiledModel
from tests.support import qemu
from tests.support.onnx_graphs import model_of, rand
from tests.support.ort import run_ort
from tests.support.run_node import node
from tests.support.zoo_models import Arrays, assert_outputs, zoo_model

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(qemu.why_unavailable() is not None, reason=str(qemu.why_unavailable())),
]


def _run(model: CompiledModel, feed: Arrays, like: Arrays, cpu: str) -> Arrays:
    """Run the library of a model compiled for ARM."""
    assert model.built is not None
    inputs = [feed[spec.name] for spec in model.inputs]
    outputs = [(like[spec.name].shape, like[spec.name].dtype) for spec in model.outputs]
    results = qemu.run_under_qemu(
        model.built.library_bytes(), inputs, outputs, cpu=cpu, constants=model.constants, timeout=500
    )
    return {spec.name: array for spec, array in zip(model.outputs, results, strict=True)}


@pytest.mark.parametrize(
    ("name", "target", "cpu"),
    [
        ("digits", "arm", "cortex-a53"),
        ("digits", "arm:cortex-a53", "cortex-a53"),
        ("digits", "arm:cortex-a72", "cortex-a72"),
        ("digits", "arm:neoverse-v1", "max"),
        pytest.param("ppocr_cls", "arm:cortex-a72", "cortex-a72", marks=pytest.mark.slow),
        pytest.param("ppocr_cls", "arm:cortex-a76", "cortex-a76", marks=pytest.mark.slow),
        pytest.param("opennsfw", "arm", "cortex-a53", marks=pytest.mark.slow),
    ],
)
@pytest.mark.few(2)
def test_models(name: str, target: str, cpu: str) -> None:
    model = zoo_model(name)
    feed = model.inputs(1)
    want = graphopt.compile(model.path(), "x86", shapes=model.shapes).run(feed)
    got = _run(graphopt.compile(model.path(), target, shapes=model.shapes, threads=1), feed, want, cpu)
    assert_outputs(name, got, want, f"{target} against x86")


@pytest.mark.parametrize(
    ("name", "target", "cpu", "precision"),
    [
        ("digits", "arm:cortex-a53", "cortex-a53", "bf16"),
        ("digits", "arm:cortex-a72", "cortex-a72", "fp16"),  # no fp16 arithmetic
        ("digits", "arm:cortex-a76", "cortex-a76", "fp16"),
        ("digits", "arm:cortex-a76", "cortex-a76", "bf16"),  # no bfloat16 products
        ("digits", "arm:neoverse-v1", "max", "bf16"),
        pytest.param("ppocr_cls", "arm:cortex-a76", "cortex-a76", "fp16", marks=pytest.mark.slow),
        pytest.param("ppocr_cls", "arm:neoverse-v1", "max", "bf16", marks=pytest.mark.slow),
    ],
)
@pytest.mark.few(3)
def test_models_in_16_bits(name: str, target: str, cpu: str, precision: str) -> None:
    """Against float32 on x86, by the error that ``graphopt check`` allows; not nought, which were no 16 bits."""
    model = zoo_model(name)
    feed = model.inputs(1)
    want = graphopt.compile(model.path(), "x86", shapes=model.shapes).run(feed)
    compiled = graphopt.compile(model.path(), target, shapes=model.shapes, threads=1, precision=precision)
    got = _run(compiled, feed, want, cpu)
    for output, array in want.items():
        assert np.isfinite(got[output]).all()
        assert 0 < np.linalg.norm(got[output] - array) / np.linalg.norm(array) < {"fp16": 0.01, "bf16": 0.1}[precision]


def test_one_library_for_all_shapes() -> None:
    model = zoo_model("digits")
    compiled = graphopt.compile(model.path(), "arm", threads=2)
    x86 = graphopt.compile(model.path(), "x86")
    for shapes in model.dynamic_shapes[:2]:
        feed = model.inputs(2, shapes)
        want = x86.run(feed)
        assert_outputs("digits", _run(compiled, feed, want, "cortex-a53"), want, str(shapes))


def _one_node(op: str, inputs: dict[str, list[int]], output: list[int], **attrs: Any) -> tuple[onnx.ModelProto, Arrays]:
    rng = np.random.default_rng(5)
    arrays: dict[str, npt.NDArray[Any]] = {k: rng.normal(size=s).astype(np.float32) for k, s in inputs.items()}
    declared = [helper.make_tensor_value_info(k, TensorProto.FLOAT, s) for k, s in inputs.items()]
    result = [helper.make_tensor_value_info("out", TensorProto.FLOAT, output)]
    node = helper.make_node(op, list(inputs), ["out"], **attrs)
    graph = helper.make_graph([node], "one", declared, result)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), arrays


@pytest.mark.parametrize(
    ("target", "cpu", "word", "dtype", "zero"),
    [
        ("arm:neoverse-v1", "max", "usdot", np.uint8, 117),
        ("arm:neoverse-v1", "max", "sdot", np.int8, -5),
        ("arm:neoverse-n1", "neoverse-n1", "sdot", np.uint8, 117),
    ],
)
def test_bytes_give_the_bits_of_x86(target: str, cpu: str, word: str, dtype: Any, zero: int) -> None:
    """Convolutions that are in integers from end to end: sums, one float32 product a result, rounding."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Any] = {"s": np.float32(0.02), "z": dtype(zero)}
    channels = 16
    for i, (outputs, kernel) in enumerate(((32, 1), (16, 3), (24, 1)), 1):
        constants |= {
            f"w{i}": rng.integers(-127, 128, (outputs, channels, kernel, kernel)).astype(np.int8),
            f"u{i}": rng.uniform(0.001, 0.003, outputs).astype(np.float32),
        }
        nodes += [
            node("DequantizeLinear", f"{'x' if i == 1 else f'q{i - 1}'} s z", f"d{i}"),
            node("DequantizeLinear", f"w{i} u{i}", f"e{i}", axis=0),
            node("Conv", f"d{i} e{i}", f"c{i}", pads=[kernel // 2] * 4),
            node("QuantizeLinear", f"c{i} s z", f"q{i}"),
        ]
        channels = outputs
    nodes[-1] = node("QuantizeLinear", "c3 s z", "y")
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), (2, 16, 9, 7))],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None)],
        [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )  # fmt: skip
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    )
    feed = {"x": rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, (2, 16, 9, 7)).astype(dtype)}
    want = graphopt.compile(model, "x86-64-v3", threads=1).run(feed)
    compiled = graphopt.compile(model, target, threads=1)
    assert compiled.program is not None
    assert sum(word in k.config for k in compiled.program.kernels) == 3
    got = _run(compiled, feed, want, cpu)
    assert want["y"].std() > 10
    np.testing.assert_array_equal(got["y"], want["y"])


@pytest.mark.parametrize(
    ("op", "shapes"), [("Conv", ((2, 48, 9, 7), (40, 48, 3, 3))), ("MatMul", ((13, 318), (318, 21)))]
)
def test_products_of_bfloat16(op: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Pairs are multiplied exactly and added in float32, so that what is lost is what operands and results lose."""
    rng = np.random.default_rng(3)
    x, w = (rng.normal(size=s).astype(ml_dtypes.bfloat16) for s in shapes)
    attrs = {"pads": [1] * 4} if op == "Conv" else {}
    single = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    single[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes[0])
    weight = onnx.numpy_helper.from_array(w.astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], **attrs)], "g", [single[0]], [single[1]], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    feed = {"x": x.astype(np.float32)}
    want = {"y": np.asarray(onnx.reference.ReferenceEvaluator(model).run(None, feed)[0])}
    compiled = graphopt.compile(model, "arm:neoverse-v1", threads=1, precision="bf16")
    assert compiled.program is not None
    assert any("bfdot" in k.config for k in compiled.program.kernels)
    got = _run(compiled, feed, want, "max")
    size = float(np.sqrt(np.mean(want["y"] ** 2)))
    assert np.abs(got["y"] - want["y"]).max() < 2**-7 * size


ONE_NODE: dict[str, Any] = {
    "gemm": ("Gemm", {"a": [5, 33], "b": [33, 17], "c": [17]}, [5, 17]),
    "depthwise": ("Conv", {"x": [1, 16, 9, 11], "w": [16, 1, 3, 3]}, [1, 16, 9, 11], {"group": 16, "pads": [1] * 4}),
    "strided convolution": ("Conv", {"x": [2, 6, 9, 11], "w": [10, 6, 3, 3]}, [2, 10, 4, 5], {"strides": [2, 2]}),
    "softmax": ("Softmax", {"x": [3, 37]}, [3, 37]),
    "pool": ("MaxPool", {"x": [1, 5, 9, 9]}, [1, 5, 4, 4], {"kernel_shape": [3, 3], "strides": [2, 2]}),
    "erf": ("Erf", {"x": [3, 37]}, [3, 37]),
    "transpose": ("Transpose", {"x": [5, 6, 7]}, [7, 5, 6], {"perm": [2, 0, 1]}),
    "mean": ("ReduceMean", {"x": [5, 6, 7]}, [1, 1, 1]),
}


@pytest.mark.parametrize("case", ONE_NODE)
def test_one_node(case: str) -> None:
    op, inputs, output, *rest = ONE_NODE[case]
    proto, feed = _one_node(op, inputs, output, **(rest[0] if rest else {}))
    want = graphopt.compile(proto.SerializeToString(), "x86").run(feed)
    got = _run(graphopt.compile(proto.SerializeToString(), "arm", threads=1), feed, want, "cortex-a53")
    wrong = [c for c in compare_all(got, want, reduction=210) if not c.ok]
    assert not wrong


@pytest.mark.parametrize(
    ("target", "cpu", "precision"),
    [
        ("arm:cortex-a53", "cortex-a53", None),
        ("arm:cortex-a72", "cortex-a72", None),
        ("arm:cortex-a76", "cortex-a76", "fp16"),
    ],
)
@pytest.mark.few(2)
def test_products_by_strassen(target: str, cpu: str, precision: str | None) -> None:
    """Convolutions and a matrix product that are large enough for it, with padding, residuals and activations behind them."""
    model = model_of(
        {"x": "float[1,128,31,27]"},
        "a = Conv<kernel_shape=[1,1]>(x, p, b)\nr = Relu(a)\nc = Conv<kernel_shape=[3,3],strides=[2,2],pads=[1,1,1,1]>(r, q)\n"
        "d = Conv<kernel_shape=[1,1],strides=[2,2]>(x, s)\ne = Add(c, d)\ng = Relu(e)\n"
        "f = Reshape(g, shape)\nt = Transpose<perm=[0,2,1]>(f)\nh = MatMul(t, w)\ny = Gelu(h)",
        opset=22, p=rand(128, 128, 1, 1) / 8, b=rand(128), q=rand(256, 128, 3, 3) / 32, s=rand(256, 128, 1, 1) / 8,
        w=rand(256, 512) / 8, shape=np.array([1, 256, -1]),
    )  # fmt: skip
    feed = {"x": rand(1, 128, 31, 27)}
    want = dict(zip("y", run_ort(model, feed)))
    compiled = graphopt.compile(model, target, threads=1, precision=precision)
    assert compiled.program is not None
    found = {kernel.template for kernel in compiled.program.kernels}
    assert {"conv2d-strassen", *(() if precision else ("matmul-strassen",))} <= found
    got = _run(compiled, feed, want, cpu)
    error = np.linalg.norm(got["y"] - want["y"]) / np.linalg.norm(want["y"])
    assert 0 < error < (2e-6 if precision is None else 0.01)


def test_products_by_strassen_that_become_float32() -> None:
    """What follows is computed in float32, which the epilogue converts to: operands are float16 all the same."""
    model = model_of(
        {"x": "float[1,128,640]"}, "h = MatMul(x, w)\nb = Add(h, c)\ny = LayerNormalization(b, s)", opset=22,
        w=rand(640, 384) / 16, c=rand(384), s=rand(384),
    )  # fmt: skip
    feed = {"x": rand(1, 128, 640)}
    want = dict(zip("y", run_ort(model, feed)))
    compiled = graphopt.compile(model, "arm:cortex-a76", threads=1, precision="fp16")
    assert compiled.program is not None
    assert "matmul-strassen" in {kernel.template for kernel in compiled.program.kernels}
    got = _run(compiled, feed, want, "cortex-a76")
    assert 0 < np.linalg.norm(got["y"] - want["y"]) / np.linalg.norm(want["y"]) < 0.01
