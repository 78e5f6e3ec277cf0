"""Weights that don't fit in the cache are read from several panels at once by products of a few rows."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.backends.cpu.kernels.matmul_packed import default_config
from graphopt.backends.specs.matmul import MatmulSpec
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.templates import packed_array
from tests.support.run_node import node

TYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "int8": np.int8}


def _product(x: np.ndarray[Any, Any], w: np.ndarray[Any, Any], turned: bool) -> tuple[np.ndarray[Any, Any], str]:
    """What the compiled model gives in float32, and the configuration of its product."""
    constants = {"w": w.T.copy() if turned else w}
    nodes, weight = [], "w"
    if w.dtype == np.int8:
        constants["s"] = np.asarray(0.02, np.float32)
        nodes, weight = [node("DequantizeLinear", "w s", "d")], "d"
    if turned:
        nodes.append(node("Gemm", f"x {weight}", "a", transB=1))
    else:
        nodes.append(node("MatMul", f"x {weight}", "a"))
    nodes.append(node("Cast", "a", "y", to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    compiled = graphopt.compile(onnx.shape_inference.infer_shapes(model), "x86-64-v3", threads=2)
    assert compiled.program is not None
    config = next(str(k.config) for k in compiled.program.kernels if "MatmulConfig" in str(k.config))
    return compiled.run({"x": x})["y"], config


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize(
    ("rows", "depth", "columns", "streams"),
    [(1, 4098, 333, 4), (1, 4099, 70, 4), (2, 4097, 257, 4), (3, 5002, 250, 3), (5, 5003, 264, 2), (9, 4100, 250, 1)],
    ids=str,
)
def test_products(rows: int, depth: int, columns: int, streams: int, name: str) -> None:
    """Odd depths and columns that fill neither vectors nor tiles; what lies beyond the last column is never stored."""
    rng = np.random.default_rng(0)
    columns *= 4 // np.dtype(TYPES[name]).itemsize  # as many bytes of each type
    x = rng.standard_normal((rows, depth)).astype(np.float32 if name == "int8" else TYPES[name])
    w = rng.standard_normal((depth, columns)).astype(np.float32)
    stored = np.clip(np.round(w / 0.02), -128, 127).astype(np.int8) if name == "int8" else w.astype(TYPES[name])
    got, config = _product(x, stored, turned=depth % 2 == 1)
    assert f"streams={streams}" in config
    assert ("pairs=True" in config) == (name == "bf16" and depth % 2 == 0 and streams > 1)
    factor = float(np.float32(0.02)) if name == "int8" else 1.0
    want = x.astype(np.float64) @ (stored.astype(np.float64) * factor)
    assert got.shape == want.shape
    rounding = {"f16": 2.0**-11, "bf16": 2.0**-8}.get(name, 0.0)
    assert np.abs(got - want).max() <= (2e-5 + rounding) * np.abs(want).max()


def test_weights_in_the_cache_are_one_stream() -> None:
    caps = parse_target("x86-64-v3", 1).caps
    assert default_config(MatmulSpec(1, 128, caps.l2_bytes // 4 // 128), caps).streams == 1
    assert default_config(MatmulSpec(1, 128, caps.l2_bytes // 4 // 128 + 1), caps).streams == 4


def test_packing_pairs_of_steps_takes_a_task_a_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task for each pair of steps took minutes for weights of 200 MB."""
    counts: list[int] = []
    plain = packed_array.for_each

    def counted(work: Any, count: int, nbytes: int) -> None:
        counts.append(count)
        plain(work, count, nbytes)

    monkeypatch.setattr(packed_array, "for_each", counted)
    weights = np.arange(64 * 10 * 4, dtype=np.int16).reshape(64, 10, 4)
    packed = packed_array.interleaved(weights, 2)
    assert counts == [64]
    np.testing.assert_array_equal(packed.view(np.int16).reshape(64, 5, 4, 2)[3, 2, 1], weights[3, 4:6, 1])
