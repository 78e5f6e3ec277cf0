"""Executing a loaded model: inputs of any alignment and stride, outputs of their own, several threads at once."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.backends.base.element_type import ELEMENT_TYPES
from graphopt.backends.base.tvm_api import tvm
from graphopt.ir.dtypes import DType
from graphopt.runtime.constant_tensors import constant_tensor
from tests.support.onnx_graphs import model_of


@pytest.fixture(scope="module")
def model() -> Any:
    return softmax_product(17, 33)


def softmax_product(rows: int, columns: int) -> Any:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Softmax", ["a"], ["b"], axis=1),
        helper.make_node("Transpose", ["b"], ["c"], perm=[1, 0]),
        helper.make_node("MatMul", ["b", "c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, rows])],
    )  # fmt: skip
    return graphopt.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), "native")


def expected(x: np.ndarray) -> np.ndarray:
    a = np.maximum(x.astype(np.float64), 0)
    b = np.exp(a - a.max(1, keepdims=True))
    b /= b.sum(1, keepdims=True)
    return b @ b.T


def check(y: np.ndarray, x: np.ndarray) -> None:
    np.testing.assert_allclose(y, expected(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shift", [0, 1, 4, 16, 60, 64])
def test_inputs_may_start_anywhere(model: Any, shift: int) -> None:
    memory = np.zeros(17 * 33 * 4 + 256, np.uint8)
    start = -memory.ctypes.data % 64 + shift
    x = memory[start : start + 17 * 33 * 4].view(np.float32).reshape(17, 33)
    x[...] = np.random.default_rng(0).standard_normal((17, 33))
    before = x.copy()
    check(model.run({"x": x})["y"], x)
    np.testing.assert_array_equal(x, before)


def test_inputs_may_be_read_only_or_strided(model: Any) -> None:
    x = np.random.default_rng(1).standard_normal((33, 34)).astype(np.float32)[:, ::2].T
    check(model.run({"x": x})["y"], x)
    frozen = np.ascontiguousarray(x)
    frozen.flags.writeable = False
    check(model.run({"x": frozen})["y"], x)


def test_outputs_belong_to_the_caller(model: Any) -> None:
    rng = np.random.default_rng(2)
    feeds = [rng.standard_normal((17, 33)).astype(np.float32) for _ in range(3)]
    outputs = [model.run({"x": x})["y"] for x in feeds]
    for x, y in zip(feeds, outputs):
        assert y.flags.writeable
        check(y, x)
    outputs[0][...] = 0
    check(outputs[1], feeds[1])


def test_threads_may_share_a_model() -> None:
    """Runs long enough for the interpreter to let other threads in, on buffers that each run writes."""
    model = softmax_product(400, 300)
    rng = np.random.default_rng(3)
    feeds = [rng.standard_normal((400, 300)).astype(np.float32) for _ in range(4)]
    want = [model.run({"x": x})["y"] for x in feeds]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(50):
            if not np.array_equal(model.run({"x": feeds[i]})["y"], want[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(feeds))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@pytest.mark.parametrize("columns", [0, 1, 9, 2048, 2049, 5000])
def test_results_of_every_size_belong_to_the_caller(columns: int) -> None:
    """Small ones are copied out of the arena, large ones are handed over: the next run changes neither, nor each other."""
    body = "a = Neg(x)\nb = Reshape<allowzero=1>(a, s)\nc = Add(a, x)\nn = ReduceSum<keepdims=0>(a)"
    made = model_of({"x": f"float[1,{columns}]"}, body, "a b c n x2", s=np.array([columns, 1]))
    made.graph.node.append(helper.make_node("Identity", ["x"], ["x2"]))
    compiled = graphopt.compile(made, "native", threads=1)
    feeds = [np.full((1, columns), value, np.float32) for value in (1, 2, 3)]
    results = [compiled.run({"x": x}) for x in feeds]
    for x, got in zip(feeds, results):
        want = {"a": -x, "b": -x.reshape(-1, 1), "c": 0 * x, "n": -x.sum(), "x2": x}
        assert got.keys() == want.keys()
        for name, array in got.items():
            np.testing.assert_array_equal(array, want[name])
            assert array.flags.writeable
            array[...] = 7
    assert not any(np.any(x == 7) for x in feeds)


@pytest.mark.parametrize("columns", [3, 9000])
def test_results_have_the_models_types(columns: int) -> None:
    dtypes = [dtype for dtype in DType if dtype in ELEMENT_TYPES]
    nodes = [helper.make_node("Concat", [f"x{i}", f"x{i}"], [f"y{i}"], axis=0) for i in range(len(dtypes))]
    inputs = [helper.make_tensor_value_info(f"x{i}", d.onnx, [1, columns]) for i, d in enumerate(dtypes)]
    outputs = [helper.make_tensor_value_info(f"y{i}", d.onnx, [2, columns]) for i, d in enumerate(dtypes)]
    made = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 20)]
    )
    compiled = graphopt.compile(made, "native", threads=1)
    feed = {f"x{i}": np.resize(np.arange(7), (1, columns)).astype(d.numpy) for i, d in enumerate(dtypes)}
    for (name, array), got in zip(feed.items(), compiled.run(feed).values()):
        assert got.dtype == array.dtype, name
        np.testing.assert_array_equal(got, np.concatenate([array, array]))


@pytest.mark.parametrize("shape", [(2, 0), (0, 2), (2, 0, 3), (0, 0)])
def test_inputs_without_elements(shape: tuple[int, ...]) -> None:
    compiled = graphopt.compile(model_of({"x": f"float{list(shape)}"}, "y = Concat<axis=0>(x, x)"), "native", threads=1)
    for x in (np.zeros(shape, np.float32), np.zeros(shape[::-1], np.float32).T):
        assert compiled.run({"x": x})["y"].shape == (2 * shape[0], *shape[1:])


def test_large_inputs_are_not_kept() -> None:
    """Nor copied: an array that was passed goes when its owner drops it."""
    compiled = graphopt.compile(model_of({"x": "float[n]"}, "y = Neg(x)"), "native", threads=1)
    x = np.ones(100_000, np.float32)
    gone = weakref.ref(x)
    for _ in range(2):
        compiled.run({"x": x})
    del x
    gc.collect()
    assert gone() is None
    assert compiled.run({"x": np.ones(3, np.float32)})["y"].tolist() == [-1] * 3


def test_a_run_keeps_working_after_an_error(model: Any) -> None:
    with pytest.raises(graphopt.GraphOptError):
        model.run({"x": np.zeros((17, 32), np.float32)})
    x = np.ones((17, 33), np.float32)
    check(model.run({"x": x})["y"], x)


def test_mapped_constants_are_used_where_they_are(tmp_path: Path) -> None:
    """No copy of the weights: the kernels' operands are the mapped file."""
    weight = np.random.default_rng(3).random((33, 48), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 33])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 48])], [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    compiled = graphopt.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), "native")
    compiled.save(tmp_path / "m.gopt")
    loaded = graphopt.load(tmp_path / "m.gopt")
    executor = loaded._executor
    assert executor is not None
    assert loaded.constants
    for array, tensor in zip(loaded.constants, executor._fixed, strict=True):
        assert not array.flags.writeable
        assert np.from_dlpack(tensor).ctypes.data == array.ctypes.data
    x = np.random.default_rng(4).random((5, 33), np.float32)
    np.testing.assert_allclose(loaded(x)[0], x.astype(np.float64) @ weight, rtol=1e-5)
    constants = loaded.constants
    del loaded, executor
    assert constants[0].sum() > 0


def test_unaligned_constants_are_copied() -> None:
    memory = np.arange(65, dtype=np.float32)
    start = 1 if memory.ctypes.data % 64 == 0 else 0
    array = memory[start : start + 64]
    tensor = np.from_dlpack(constant_tensor(array, tvm.cpu()))
    assert tensor.ctypes.data % 64 == 0
    np.testing.assert_array_equal(tensor, array)
