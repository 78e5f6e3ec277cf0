"""Attention in ONNX Runtime's forms: masks, past states, causality, biases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ops.contrib.one_node import Array, check_close

RNG = np.random.default_rng(3)
BATCH, LENGTH, PAST, HEADS, SIZE = 2, 5, 3, 4, 6
HIDDEN = HEADS * SIZE
SYMBOLIC = pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])


def f32(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def masks(keys: int) -> dict[str, Array]:
    ends, starts = np.array([3, keys], np.int32), np.array([1, 2], np.int32)
    return {
        "none": np.zeros(0), "lengths": ends, "both-ends": np.concatenate([ends, starts]),
        "keys": (np.arange(keys) < ends[:, None]).astype(np.int32),
        "pairs": (RNG.random((BATCH, LENGTH, keys)) < 0.7).astype(np.int32),
    }  # fmt: skip


@SYMBOLIC
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("form", ["none", "lengths", "both-ends", "keys", "pairs"])
def test_attention(form: str, causal: int, symbolic: bool) -> None:
    if form == "both-ends" and symbolic:
        pytest.skip("the batch tells what such a mask is")
    mask = masks(LENGTH)[form]
    operands: dict[str, Array | None] = {
        "x": f32(BATCH, LENGTH, 10), "w": f32(10, 3 * HIDDEN) * np.float32(0.5), "b": f32(3 * HIDDEN),
        "mask": mask if mask.size else None,
    }  # fmt: skip
    fed = "x mask" if mask.size else "x"
    check_close(
        "Attention", operands, fed, {"out": np.float32}, num_heads=HEADS, unidirectional=causal, symbolic=symbolic
    )


@SYMBOLIC
@pytest.mark.parametrize("causal", [0, 1])
def test_attention_with_states(causal: int, symbolic: bool) -> None:
    operands: dict[str, Array | None] = {
        "x": f32(BATCH, LENGTH, 10), "w": f32(10, 3 * HIDDEN) * np.float32(0.5), "b": f32(3 * HIDDEN),
        "mask": masks(PAST + LENGTH)["keys"], "past": f32(2, BATCH, HEADS, PAST, SIZE),
    }  # fmt: skip
    attributes: dict[str, Any] = {"num_heads": HEADS, "unidirectional": causal, "scale": 0.3, "symbolic": symbolic}
    results = {"out": np.float32, "present": np.float32}
    check_close("Attention", operands, "x past", results, **attributes)
    added = {**operands, "mask": None, "past": None, "bias": f32(1, HEADS, LENGTH, LENGTH)}
    check_close("Attention", added, "x bias", {"out": np.float32}, **attributes)


def test_values_of_another_size() -> None:
    sizes = [HIDDEN, HIDDEN, 2 * HEADS]
    operands: dict[str, Array | None] = {"x": f32(BATCH, LENGTH, 10), "w": f32(10, sum(sizes)), "b": f32(sum(sizes))}
    check_close("Attention", operands, "x", {"out": np.float32}, num_heads=HEADS, qkv_hidden_sizes=sizes)


@SYMBOLIC
@pytest.mark.parametrize("per_column", [False, True])
def test_quantized_attention(per_column: bool, symbolic: bool) -> None:
    columns = 3 * HIDDEN
    scale = RNG.uniform(0.005, 0.02, columns if per_column else ()).astype(np.float32)
    operands: dict[str, Array | None] = {
        "x": RNG.integers(0, 256, (BATCH, LENGTH, 10)).astype(np.uint8),
        "w": RNG.integers(-63, 64, (10, columns)).astype(np.int8), "b": f32(columns), "sx": np.float32(0.02),
        "sw": scale, "mask": None, "zx": np.uint8(117), "zw": np.zeros(scale.shape, np.int8),
        "past": f32(2, BATCH, HEADS, PAST, SIZE),
    }  # fmt: skip
    attributes: dict[str, Any] = {"num_heads": HEADS, "unidirectional": 1, "symbolic": symbolic}
    check_close("QAttention", operands, "x past sx zx", {"out": np.float32, "present": np.float32}, **attributes)
    lengths = {**operands, "mask": masks(LENGTH)["lengths"], "past": None}
    check_close("QAttention", lengths, "x", {"out": np.float32}, num_heads=HEADS)


@SYMBOLIC
@pytest.mark.parametrize("causal", [0, 1])
def test_multi_head_attention(causal: int, symbolic: bool) -> None:
    keys = LENGTH if causal else 7
    operands: dict[str, Array | None] = {
        "q": f32(BATCH, LENGTH, HIDDEN), "k": f32(BATCH, keys, HIDDEN), "v": f32(BATCH, keys, HIDDEN),
        "b": None if symbolic else f32(3 * HIDDEN), "mask": masks(keys)["keys"], "bias": f32(1, HEADS, LENGTH, keys),
    }  # fmt: skip
    attributes: dict[str, Any] = {"num_heads": HEADS, "unidirectional": causal}
    if symbolic:
        attributes |= {"scale": 0.4, "symbolic": True}
    check_close("MultiHeadAttention", operands, "q k v mask", {"out": np.float32}, **attributes)
    apart = {
        **operands,
        "b": None,
        "k": f32(BATCH, HEADS, keys, SIZE),
        "v": f32(BATCH, HEADS, keys, SIZE),
        "mask": None,
    }
    check_close("MultiHeadAttention", apart, "q k v", {"out": np.float32}, **attributes)


def test_multi_head_attention_with_states() -> None:
    operands: dict[str, Array | None] = {
        "q": f32(BATCH, LENGTH, HIDDEN), "k": f32(BATCH, LENGTH, HIDDEN), "v": f32(BATCH, LENGTH, HIDDEN), "b": f32(3 * HIDDEN),
        "mask": None, "bias": None, "pk": f32(BATCH, HEADS, PAST, SIZE), "pv": f32(BATCH, HEADS, PAST, SIZE),
    }  # fmt: skip
    results = {"out": np.float32, "present_k": np.float32, "present_v": np.float32}
    check_close("MultiHeadAttention", operands, "q k v pk pv", results, num_heads=HEADS)
