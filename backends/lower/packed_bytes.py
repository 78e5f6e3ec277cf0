"""Numbers that become bytes, by the instructions that CPUs have for it: conversion with rounding, and packing with saturation."""

from __future__ import annotations

from graphopt.backends.base.dialect import current, has_functions
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.opaque import opaque
from graphopt.backends.tensors.tensor import Expr, let

BYTES = {"int8": (-128, 127), "uint8": (0, 255)}
"""The types of results, and their bounds."""
_BEYOND = 65536.0
"""More than 16 bits, which saturate, and few enough bits for a conversion to integers that is defined."""
_EVEN_STEPS, _EVEN_BITS = 2.0**23, 0x4B000000
"""The first number from which on floats are one apart, and its bits."""


def can_pack(dtype: str) -> bool:
    """Whether `packed_byte` makes results of this type on the target: GPUs have other instructions."""
    return dtype in BYTES and not has_functions()


def packed_byte(value: Expr, zero_point: Expr | None, dtype: str, rectified: bool = False) -> Expr:
    """A float32 that `bounded` may have made, rounded to even, plus a zero point, saturated.

    LLVM's intrinsics are what it makes of them: ``cvtps2dq``, ``packssdw``, ``paddsw``, ``packuswb`` on x86; ``frintn``,
    ``fcvtzs``, ``sqxtn``, ``sqadd``, ``sqxtun`` on ARM. Of comparisons and additions it makes shuffles, twice as many instructions:
    it moves the addition behind the bounds, which no instruction has then.

    Args:
        value: an expression; TVM vectorises what comes of it.
        zero_point: a number of the result's type, in float32; None for 0.
        dtype: of the result, ``int8`` or ``uint8``.
        rectified: whether what is below the zero point counts as that.
    """
    whole = let(_whole(value))
    short = let(_clamped(whole, -(2**15), 2**15 - 1, "int32").astype("int16"))
    if zero_point is not None:
        short = let(tirx.call_llvm_pure_intrin("int16", "llvm.sadd.sat", short, zero_point.astype("int16")))
    byte = _clamped(short, *BYTES[dtype], "int16").astype(dtype)
    if not rectified or (zero_point is None and dtype == "uint8"):
        return byte
    return tirx.max(byte, tirx.const(0, dtype) if zero_point is None else zero_point.astype("int16").astype(dtype))


def low_byte(moved: Expr, zero_point: Expr | None, dtype: str) -> Expr:
    """The byte of a number within its range, for processors whose conversions are slow: two instructions narrow four vectors.

    Args:
        moved: the number plus `ROUNDER`, whose low bits are the rounded number.
        zero_point: what is added, modulo 256, once the numbers are bytes; None for 0.
        dtype: of the result, ``int8`` or ``uint8``.
    """
    byte = tirx.reinterpret("uint32", moved).astype("uint8")
    if zero_point is not None:
        byte = byte + zero_point.astype("int32").astype("uint8")
    return byte if dtype == "uint8" else tirx.reinterpret(dtype, byte)


def byte_steps(byte: Expr, zero_point: Expr | None) -> Expr:
    """How far a byte is from its zero point, in float32, without a conversion.

    The byte becomes the low bits of 2**23, whose neighbours are one apart, and the difference is exact.

    Args:
        byte: an ``int8`` or ``uint8``.
        zero_point: in float32; None for 0.
    """
    unsigned, origin = byte, _EVEN_STEPS
    if str(byte.ty.dtype) == "int8":
        unsigned = tirx.bitwise_xor(tirx.reinterpret("uint8", byte), tirx.const(0x80, "uint8"))
        origin += 128
    bits = tirx.bitwise_or(unsigned.astype("uint32"), tirx.const(_EVEN_BITS, "uint32"))
    start = tirx.const(origin, "float32")
    return tirx.reinterpret("float32", bits) - (start if zero_point is None else opaque(start + zero_point))


def _whole(value: Expr) -> Expr:
    """Rounded to even, as int32."""
    if current().saturating_casts:
        # of `lrint`, LLVM makes a rounding in whatever way the thread is set to, and may take it that nothing is out of range
        return tirx.call_llvm_pure_intrin(
            "int32", "llvm.fptosi.sat", tirx.call_llvm_pure_intrin("float32", "llvm.roundeven", value)
        )
    return tirx.call_llvm_pure_intrin("int32", "llvm.lrint", value)


def bounded(value: Expr) -> Expr:
    """A float32 that isn't NaN, cut off so far out that it is saturated by `packed_byte`, which can convert it."""
    if current().saturating_casts:
        return let(value)
    return let(_clamped(let(value), -_BEYOND, _BEYOND, "float32"))


def _clamped(value: Expr, low: float, high: float, dtype: str) -> Expr:
    return tirx.max(tirx.min(value, tirx.const(high, dtype)), tirx.const(low, dtype))
