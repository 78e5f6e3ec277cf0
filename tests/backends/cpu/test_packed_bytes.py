"""Sums that become bytes in a template's epilogue: rounded to even and saturated, for any zero point, however large they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from tests.support.run_node import node

STEPS = {"ties": 2.0, "beyond 16 bits": 2.0**-9, "beyond 32 bits": 2.0**-22}
ZEROS: dict[Any, tuple[int, ...]] = {np.uint8: (3, 255), np.int8: (-128, -1)}


@pytest.mark.parametrize("relu_first", [False, True])
def test_bytes(relu_first: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (1, 16, 5, 7)).astype(np.uint8)
    w = rng.integers(-128, 128, (16, 16, 1, 1)).astype(np.int8)
    w[:8] = 0
    w[np.arange(8), np.arange(8)] = rng.integers(-3, 4, (8, 1, 1))  # half of the channels stay around zero
    one = np.float32(1)
    constants: dict[str, Any] = {"w": w, "one": one, "zx": np.uint8(100)}
    nodes = [node("DequantizeLinear", "w one", "dw")]
    sums = np.einsum("nchw,oc->nohw", x.astype(np.int64) - 100, w[:, :, 0, 0].astype(np.int64))
    want = {}
    for i, step in enumerate(STEPS.values()):
        constants[f"step{i}"] = np.float32(step)
        for dtype, zeros in ZEROS.items():
            for zero in zeros:
                k = len(want)
                relu = (k % 2 == 0) == relu_first
                constants[f"z{k}"] = np.array(zero, dtype)
                nodes += [
                    node("DequantizeLinear", "x one zx", f"d{k}"),
                    node("Conv", f"d{k} dw", f"c{k}"),
                    *([node("Relu", f"c{k}", f"r{k}")] if relu else []),
                    node("QuantizeLinear", f"{'r' if relu else 'c'}{k} step{i} z{k}", f"y{k}"),
                ]
                info = np.iinfo(dtype)
                steps = np.maximum(sums, 0) / step if relu else sums / step
                want[f"y{k}"] = np.clip(np.rint(steps) + zero, info.min, info.max).astype(dtype)
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in want.items()],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    got = graphopt.compile(model, "x86-64-v3", threads=1).run({"x": x})
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
