"""Compiled for CUDA: real machine code for every architecture, and kernels whose index arithmetic is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt.backends.cuda.nvrtc import available_compilers
from graphopt.backends.cuda.pack import require_machine_code
from graphopt.backends.targets.cuda.caps import detect_sm
from graphopt.driver.accuracy import compare_all
from graphopt.errors import DeviceError
from tests.support.cuda_on_cpu.gpu import compiled_for_simulator, run_on_simulated_gpu
from tests.support.zoo_models import Arrays, assert_outputs, reference, zoo_model

needs_compiler = pytest.mark.skipif(not available_compilers(), reason="neither NVRTC nor nvcc")
heavy = pytest.mark.slow


@needs_compiler
@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("digits", "sm_75"), ("digits", "sm_80"), ("digits", "sm_90"),
        *(pytest.param(name, "sm_75,sm_80,sm_90", marks=heavy) for name in ("opennsfw", "ppocr_cls", "resnet50")),
    ],
)  # fmt: skip
def test_artefact_holds_machine_code(name: str, arch: str, tmp_path: Path) -> None:
    model = zoo_model(name)
    compiled = graphopt.compile(model.path(), f"cuda:{arch}", shapes=model.shapes or None)
    assert compiled.built is not None
    require_machine_code(compiled.built.library_bytes())
    path = tmp_path / "model.gopt"
    compiled.save(path)
    content = path.read_bytes()
    assert b"__global__ void" not in content
    if detect_sm() is None:
        with pytest.raises(DeviceError, match="no CUDA driver or GPU"):
            graphopt.load(path)
        with pytest.raises(DeviceError, match="no CUDA driver or GPU"):
            compiled.run(model.inputs())


@pytest.mark.parametrize(
    "name", ["digits", pytest.param("ppocr_cls", marks=heavy), pytest.param("opennsfw", marks=heavy)]
)
def test_models_on_a_simulated_gpu(name: str) -> None:
    """Whole artefacts against ONNX Runtime; float32 is multiplied as it is, so that its tolerance is that of CPUs."""
    model = zoo_model(name)
    feed = model.inputs(1)
    small = name == "digits"
    got = run_on_simulated_gpu(
        model.path(), feed, shapes=model.shapes, exact=True, checked=small, schedules=(0, 1, 2) if small else (0,)
    )
    assert_outputs(name, got, reference(model, feed), "on a simulated GPU")


def test_one_program_for_all_shapes(tmp_path: Path) -> None:
    model = zoo_model("digits")
    path = compiled_for_simulator(model.path(), tmp_path / "digits.gopt", exact=True)
    for shapes in model.dynamic_shapes[:2]:
        feed = model.inputs(2, shapes)
        got = run_on_simulated_gpu(path, feed, schedules=(1,))
        assert_outputs("digits", got, reference(model, feed), str(shapes))


ONE_NODE: dict[str, Any] = {
    "softmax": ("Softmax", {"x": [3, 5, 7]}, {"axis": 1}),
    "determinants": ("Det", {"x": [4, 5, 5]}, {}),
    "log softmax of rows": ("LogSoftmax", {"x": [4, 300]}, {}),
    "max pool": ("MaxPool", {"x": [1, 5, 9, 9]}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    "average pool": ("AveragePool", {"x": [2, 3, 8, 9]}, {"kernel_shape": [3, 2], "pads": [1, 1, 1, 0]}),
    "global pool": ("GlobalAveragePool", {"x": [2, 3, 8, 9]}, {}),
    "grouped convolution": ("Conv", {"x": [2, 4, 9, 8], "w": [6, 2, 3, 3]}, {"group": 2, "pads": [1, 2, 1, 0]}),
    "depthwise convolution": ("Conv", {"x": [1, 4, 9, 8], "w": [4, 1, 3, 3]}, {"group": 4, "pads": [1] * 4}),
    "matmul": ("MatMul", {"a": [3, 5, 9], "b": [9, 4]}, {}),
    "transpose": ("Transpose", {"x": [5, 6, 7]}, {"perm": [2, 0, 1]}),
    "layer norm": ("LayerNormalization", {"x": [4, 6, 10], "s": [10]}, {}),
    "mean of all": ("ReduceMean", {"x": [5, 6, 7]}, {"keepdims": 0}),
    "concat": ("Concat", {"a": [2, 3], "b": [2, 5]}, {"axis": 1}),
    "cumulative sum": ("CumSum", {"x": [3, 9], "#axis": [1]}, {"reverse": 1}),
    "top k": ("TopK", {"x": [3, 9], "#k": [4]}, {}),
    "scatter": ("ScatterElements", {"x": [3, 5], "#i": [[0, 2], [1, 1], [4, 3]], "u": [3, 2]}, {"axis": 1}),
    "non-zero": ("NonZero", {"x": [3, 5]}, {}),
    "lstm": ("LSTM", {"x": [4, 2, 3], "w": [1, 20, 3], "r": [1, 20, 5]}, {"hidden_size": 5}),
}
"""Operand names that start with ``#`` are int64 constants given by value."""


def _one_node(case: str) -> tuple[bytes, Arrays]:
    op, operands, attrs = ONE_NODE[case]
    rng = np.random.default_rng(5)
    feed = {k: rng.normal(size=s).astype(np.float32) for k, s in operands.items() if k[0] != "#"}
    fixed = [onnx.numpy_helper.from_array(np.array(v, np.int64), k) for k, v in operands.items() if k[0] == "#"]
    declared = [helper.make_tensor_value_info(k, TensorProto.FLOAT, a.shape) for k, a in feed.items()]
    outputs = ["y", "y1"] if op == "TopK" else ["y"]
    node = helper.make_node(op, list(operands), outputs, **attrs)
    graph = helper.make_graph([node], "one", declared, [onnx.ValueInfoProto(name=name) for name in outputs], fixed)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(proto).SerializeToString(), feed


@pytest.mark.parametrize("case", ONE_NODE)
@pytest.mark.few(9)
def test_one_node(case: str) -> None:
    """Every kind of kernel: several stages, padding, serial code in one thread, loops on the host."""
    content, feed = _one_node(case)
    want = graphopt.compile(content, "x86", level=0).run(feed)
    got = run_on_simulated_gpu(content, feed, exact=True)
    assert not [c for c in compare_all(got, want, reduction=300, depth=4) if not c.ok]


@needs_compiler
@pytest.mark.parametrize("case", ["softmax", "cumulative sum", "top k", "scatter", "non-zero", "lstm"])
def test_kernels_of_several_stages_become_machine_code(case: str) -> None:
    compiled = graphopt.compile(_one_node(case)[0], "cuda:sm_80")
    assert compiled.built is not None
    require_machine_code(compiled.built.library_bytes())


@pytest.mark.gpu
@pytest.mark.skipif(detect_sm() is None, reason="no GPU")
@pytest.mark.parametrize("name", ["digits", "opennsfw", pytest.param("resnet50", marks=heavy)])
def test_models_on_the_gpu(name: str, tmp_path: Path) -> None:
    model = zoo_model(name)
    compiled = graphopt.compile(model.path(), "cuda", shapes=model.shapes or None)
    path = tmp_path / "model.gopt"
    compiled.save(path)
    for seed, runnable in ((0, compiled), (1, graphopt.load(path))):
        feed = model.inputs(seed)
        assert_outputs(name, runnable.run(feed), reference(model, feed), f"seed {seed}")
