"""RotaryEmbedding with positions given and counted, heads side by side and apart."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ops.contrib.one_node import Array, check_close

BATCH, LENGTH, HEADS, SIZE = 2, 5, 3, 8
Y = {"out": np.float32}


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("counted", [False, True], ids=["given", "counted"])
def test_rotary_embedding(counted: bool, interleaved: int, symbolic: bool) -> None:
    rng = np.random.default_rng(3)
    angles = np.arange(20)[:, None] * np.exp(-np.arange(SIZE // 2))[None]
    at = np.array([3]) if counted else rng.integers(0, 20, (BATCH, LENGTH))
    x = rng.standard_normal((BATCH, LENGTH, HEADS * SIZE)).astype(np.float32)
    operands: dict[str, Array | None] = {
        "x": x, "at": at.astype(np.int64), "cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32),
    }  # fmt: skip
    options = {"symbolic": symbolic, "interleaved": interleaved, "version": 23}
    if not symbolic:
        check_close("RotaryEmbedding", operands, "x at", Y, **options)
    apart = {**operands, "x": np.ascontiguousarray(x.reshape(BATCH, LENGTH, HEADS, SIZE).transpose(0, 2, 1, 3))}
    check_close("RotaryEmbedding", apart, "x at", Y, **options)
    if counted:
        check_close("RotaryEmbedding", {**apart, "at": np.asarray(3)}, "x at", Y, **options)
    half = {**operands, **{name: np.ascontiguousarray(operands[name][:, : SIZE // 4]) for name in ("cos", "sin")}}
    check_close("RotaryEmbedding", half, "x at", Y, **options, num_heads=HEADS, rotary_embedding_dim=SIZE // 2)
