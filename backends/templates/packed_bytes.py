"""Numbers that become bytes, by the instructions that CPUs have for it: conversion with rounding, and packing with saturation."""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.quantize import RANGES
from graphopt.backends.tensors.tensor import Expr, let

_BEYOND = 65536.0
"""More than 16 bits, which saturate, and few enough bits for a conversion to integers that is defined."""


def packed_byte(value: Expr, zero_point: int, dtype: str, least: int | None = None) -> Expr:
    """A finite float32 rounded to even, plus a zero point, saturated.

    LLVM's intrinsics are what it makes of them: ``cvtps2dq``, ``packssdw``, ``paddsw``, ``packuswb`` on x86; ``sqxtn``, ``sqadd``,
    ``sqxtun`` on ARM. Of comparisons and additions it makes shuffles, twice as many instructions: it moves the addition behind the
    bounds, which no instruction has then.

    Args:
        value: an expression; TVM vectorises what comes of it.
        zero_point: a number of the result's type.
        dtype: of the result, ``int8`` or ``uint8``.
        least: lower bound of the rounded value, if it isn't that of the type.
    """
    low, high = RANGES[dtype]
    inside = let(_clamped(let(value), -_BEYOND, _BEYOND, "float32"))
    whole = let(tirx.call_llvm_pure_intrin("int32", "llvm.lrint", inside))
    short = let(_clamped(whole, -(2**15), 2**15 - 1, "int32").astype("int16"))
    moved = let(tirx.call_llvm_pure_intrin("int16", "llvm.sadd.sat", short, tirx.const(zero_point, "int16")))
    byte = _clamped(moved, low, high, "int16").astype(dtype)
    return byte if least is None else tirx.max(byte, tirx.const(least + zero_point, dtype))


def _clamped(value: Expr, low: float, high: float, dtype: str) -> Expr:
    return tirx.max(tirx.min(value, tirx.const(high, dtype)), tirx.const(low, dtype))
