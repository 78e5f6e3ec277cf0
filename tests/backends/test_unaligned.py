"""Every kind of kernel reads a caller's array that starts between cache lines, and one that starts between vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.unaligned import accept_unaligned

RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


CASES: dict[str, tuple[str, tuple[int, ...], dict[str, np.ndarray], dict[str, Any]]] = {
    "first conv": ("Conv", (1, 3, 13, 17), {"w": weight(16, 3, 3, 3)}, {"pads": [1, 1, 1, 1]}),
    "conv": ("Conv", (1, 32, 12, 12), {"w": weight(32, 32, 3, 3)}, {"pads": [1, 1, 1, 1]}),
    "pointwise conv": ("Conv", (1, 64, 7, 9), {"w": weight(32, 64, 1, 1)}, {}),
    "grouped conv": ("Conv", (1, 32, 7, 9), {"w": weight(32, 8, 1, 1)}, {"group": 4}),
    "depthwise conv": ("Conv", (1, 32, 14, 15), {"w": weight(32, 1, 3, 3)}, {"group": 32, "pads": [1, 1, 1, 1]}),
    "conv along one axis": ("Conv", (1, 16, 40), {"w": weight(32, 16, 3)}, {}),
    "transposed conv": ("ConvTranspose", (1, 16, 8, 8), {"w": weight(16, 16, 2, 2)}, {"strides": [2, 2]}),
    "max pool": ("MaxPool", (1, 16, 13, 14), {}, {"kernel_shape": [3, 3], "strides": [2, 2]}),
    "average pool": ("AveragePool", (1, 16, 13, 14), {}, {"kernel_shape": [2, 2]}),
    "global pool": ("GlobalAveragePool", (1, 32, 7, 9), {}, {}),
    "matmul": ("MatMul", (5, 33), {"w": weight(33, 40)}, {}),
    "vector by matrix": ("Gemm", (1, 64), {"w": weight(64, 48)}, {}),
    "softmax": ("Softmax", (6, 77), {}, {"axis": -1}),
    "softmax of channels": ("Softmax", (1, 16, 33), {}, {"axis": 1}),
    "layer norm": ("LayerNormalization", (5, 70), {"w": weight(70), "b": weight(70)}, {"axis": -1}),
    "sum": ("ReduceSum", (6, 77), {"a": np.array([1])}, {}),
    "transpose": ("Transpose", (24, 40), {}, {"perm": [1, 0]}),
    "element-wise": ("Sigmoid", (7, 65), {}, {}),
    "reshape": ("Reshape", (8, 10), {"s": np.array([16, 5])}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_reads_from_anywhere(case: str) -> None:
    op, shape, consts, attrs = CASES[case]
    nodes = [helper.make_node(op, ["x", *consts], ["r"], **attrs), helper.make_node("Neg", ["r"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in consts.items()],
    )  # fmt: skip
    model = shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    count = int(np.prod(shape)) * 4
    memory = np.zeros(count + 192, np.uint8)
    start = -memory.ctypes.data % 64 + 20
    x = memory[start : start + count].view(np.float32).reshape(shape)
    x[...] = RNG.standard_normal(shape)
    want = ReferenceEvaluator(model).run(None, {"x": x})[0]
    got = graphopt.compile(model, "native", threads=2).run({"x": x})["y"]
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


def test_buffers_over_a_parameter_lose_their_alignment_too() -> None:
    x, y, z = (
        tirx.decl_buffer([tirx.const(n, "int64")], "float32", name) for n, name in ((8, "x"), (8, "y"), (8, "z"))
    )
    flat = tirx.decl_buffer([tirx.const(2, "int64"), tirx.const(4, "int64")], "float32", "flat", data=x.data)
    again = tirx.decl_buffer([tirx.const(8, "int64")], "float32", "again", data=flat.data)
    at = tirx.const(0, "int64")
    body = tirx.SeqStmt([
        tirx.DeclBuffer(flat, data=x.data), tirx.DeclBuffer(again, data=flat.data),
        tirx.BufferStore(z, tirx.BufferLoad(again, [at]) + tirx.BufferLoad(y, [at]), [at]),
    ])  # fmt: skip
    func = accept_unaligned(tirx.PrimFunc([x, y, z], body), [0])
    assert [p.data_alignment for p in func.params] == [4, 64, 64]
    declared = [s.buffer.data_alignment for s in func.body.seq[:2]]
    assert declared == [4, 4]
