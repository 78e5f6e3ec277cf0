"""Operators on floats compute, as plain operators, what ONNX Runtime computes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from graphopt.driver.importing import import_onnx
from graphopt.errors import ModelError
from graphopt.ir.onnx_io import graph_to_onnx
from graphopt.rewrite.remarks import Remarks
from tests.ops.contrib.one_node import Array, check_close, model_of
from tests.support.ort import run_ort

RNG = np.random.default_rng(3)
Y = {"out": np.float32}


def f32(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_activations(symbolic: bool) -> None:
    x = (3 * f32(4, 5, 16)).astype(np.float32)
    check_close("Gelu", {"x": x}, "x", Y, symbolic=symbolic)
    check_close("FastGelu", {"x": x}, "x", Y, symbolic=symbolic)
    check_close("FastGelu", {"x": x, "b": f32(16)}, "x", Y, symbolic=symbolic)
    check_close("BiasGelu", {"x": x, "b": f32(16)}, "x", Y, symbolic=symbolic)
    check_close("QuickGelu", {"x": x}, "x", Y, symbolic=symbolic)
    check_close("QuickGelu", {"x": x}, "x", Y, symbolic=symbolic, alpha=0.5)


@pytest.mark.parametrize("turns", list(itertools.product((0, 1), repeat=4)), ids=str)
def test_fused_matmul(turns: tuple[int, int, int, int]) -> None:
    a, b = f32(2, 3, 4, 5), f32(2, 3, 5, 6)
    trans_a, trans_b, batch_a, batch_b = turns

    def stored(x: Array, turned: int, batch: int) -> Array:
        x = x.swapaxes(-1, -2) if turned else x
        return np.ascontiguousarray(x.transpose(2, 0, 1, 3) if batch else x)

    operands = {"a": stored(a, trans_a, batch_a), "b": stored(b, trans_b, batch_b)}
    attributes = {"transA": trans_a, "transB": trans_b, "transBatchA": batch_a, "transBatchB": batch_b}
    check_close("FusedMatMul", operands, "a b", Y, alpha=0.3, **attributes)
    check_close("FusedMatMul", operands, "a", Y, **attributes)


def test_fused_matmul_of_vectors_and_batches() -> None:
    check_close("FusedMatMul", {"a": f32(5), "b": f32(2, 5, 6)}, "a b", Y, transA=1)
    check_close("FusedMatMul", {"a": f32(2, 4, 5), "b": f32(5)}, "a b", Y, transB=1)
    check_close("FusedMatMul", {"a": f32(2, 4, 5), "b": f32(6, 5)}, "a", Y, transB=1, alpha=2.0)


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [("Relu", []), ("Tanh", []), ("Sigmoid", []), ("LeakyRelu", [0.3]), ("Clip", [-0.5, 1.5]), ("HardSigmoid", [0.3, 0.6])],
)  # fmt: skip
def test_fused_convolution(activation: str, parameters: list[float]) -> None:
    operands: dict[str, Array | None] = {"x": f32(2, 4, 7, 6), "w": f32(6, 2, 3, 3), "b": f32(6), "z": f32(2, 6, 4, 3)}
    window: dict[str, Any] = {"pads": [1, 1, 1, 1], "strides": [2, 2], "group": 2, "activation": activation}
    if parameters:
        window["activation_params"] = parameters
    check_close("FusedConv", operands, "x z", Y, **window)
    check_close("FusedConv", {**operands, "b": None}, "x z", Y, **window)
    check_close("FusedConv", {**operands, "z": None}, "x", Y, **window)


def test_fused_gemm() -> None:
    operands = {"a": f32(5, 4), "b": f32(6, 5), "c": f32(6)}
    turns = {"transA": 1, "transB": 1, "alpha": 0.7, "beta": 0.4}
    check_close("FusedGemm", operands, "a", Y, activation="Relu", **turns)
    check_close("FusedGemm", operands, "a", Y, activation="LeakyRelu", activation_alpha=0.2, **turns)


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_skip_layer_norm(symbolic: bool) -> None:
    operands: dict[str, Array | None] = {
        "x": f32(2, 5, 8), "skip": f32(2, 5, 8), "gamma": f32(8), "beta": f32(8), "bias": f32(8),
    }  # fmt: skip
    results = {"out": np.float32, " ": np.float32, "  ": np.float32, "sum": np.float32}
    check_close("SkipLayerNormalization", operands, "x skip", results, symbolic=symbolic, epsilon=1e-2)
    check_close("SkipLayerNormalization", {**operands, "beta": None}, "x skip", Y, symbolic=symbolic)
    few = {k: v for k, v in operands.items() if k not in ("beta", "bias")}
    check_close("SkipLayerNormalization", {**few, "skip": f32(5, 8)}, "x skip", Y)
    check_close("SkipSimplifiedLayerNormalization", few, "x skip", results, symbolic=symbolic, version=23)
    check_close(
        "SkipSimplifiedLayerNormalization", {**few, "bias": operands["bias"]}, "x skip", Y, epsilon=0.1, version=23
    )


@pytest.mark.parametrize("op", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_operators_that_onnx_runtime_writes_under_ai_onnx(op: str) -> None:
    """Opset 14 has neither; the model's own imports may lack the domain that they are taken for."""
    operands: dict[str, Array | None] = {"x": f32(2, 5, 8), "gamma": f32(8), "beta": f32(8)}
    if op.startswith("Simplified"):
        del operands["beta"]
    model = model_of(op, operands, "x", Y, domain="", version=14, axis=-1, epsilon=1e-2)
    del model.opset_import[1:]
    remarks = Remarks()
    graph = import_onnx(model, remarks=remarks)
    assert "import/runtime-operator" in {f"{r.pass_name}/{r.rule}" for r in remarks}
    (got,), (want,) = run_ort(graph_to_onnx(graph), {"x": operands["x"]}), run_ort(model, {"x": operands["x"]})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError):
        import_onnx(model, strict=True)


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_embed_layer_norm(symbolic: bool) -> None:
    ids, segments = (RNG.integers(0, n, (2, 5)).astype(np.int32) for n in (11, 2))
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], np.int32)
    operands: dict[str, Array | None] = {
        "ids": ids, "segments": segments, "words": f32(11, 8), "positions": f32(9, 8), "kinds": f32(2, 8),
        "gamma": f32(8), "beta": f32(8), "mask": mask, "at": np.array([[0, 1, 2, 3, 4], [3, 4, 5, 6, 8]], np.int32),
    }  # fmt: skip
    results = {"out": np.float32, "count": np.int32, "sum": np.float32}
    check_close(
        "EmbedLayerNormalization", operands, "ids segments mask at", results, symbolic=symbolic, mask_index_type=1
    )
    bare = {**operands, "segments": None, "kinds": None, "mask": None, "at": None}
    check_close(
        "EmbedLayerNormalization", bare, "ids", {"out": np.float32, " ": np.int32}, symbolic=symbolic, epsilon=0.1
    )
