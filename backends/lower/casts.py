"""Conversions between element types."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.backends.base.element_type import ElementType
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors import exact
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.tensor import Expr, elementwise, let


def convert(x: Expr, dtype: str) -> Expr:
    """x as ``dtype``: floats truncate, out of range numbers wrap as numpy's do on x86, anything but 0 is true."""
    source = m.dtype_of(x)
    if source == dtype:
        return x
    number = exact.known(x)
    if number is not None:
        return const(_number(number, dtype), dtype)
    if source == "bool":
        return tirx.Select(x, const(1, dtype), const(0, dtype))
    if dtype == "bool":
        x = let(x)
        if m.is_float(source):
            # written so that NaN is true
            return tirx.Or(m.is_nan(x), tirx.NE(x, const(0.0, source)))
        return tirx.NE(exact.hidden(x), const(0, source))
    if m.is_float(source) and not m.is_float(dtype):
        return _truncate(let(x), dtype)
    if not m.is_float(dtype):
        # what doesn't fit wraps; TVM takes it for the nearest number that does
        return exact.hidden(x.astype(dtype))
    return x.astype(dtype)


def rounded(x: Expr, row: ElementType) -> Expr:
    """x as an element of a type that is stored narrower than it is computed with, rounded once."""
    source, number = m.dtype_of(x), exact.known(x)
    if number is not None:
        with np.errstate(over="ignore"):
            return row.stored(const(number.astype(row.dtype.numpy).astype(np.float32), row.compute))
    if source == "bool":
        return row.stored(tirx.Select(x, const(1, row.compute), const(0, row.compute)))
    single = _to_odd(let(x)) if source == "float64" else x if source == row.compute else x.astype(row.compute)
    return row.stored(let(single))


def _number(value: Any, dtype: str) -> Any:
    """``convert`` of a number: TVM fails on those that don't fit."""
    if dtype == "bool":
        return bool(value != 0)
    if m.is_float(dtype):
        with np.errstate(over="ignore"):
            return np.asarray(value).astype(dtype)[()]
    if value.dtype.kind != "f":
        return int(value)
    lowest = -(1 << 31 if int(dtype.removeprefix("u")[3:]) < 32 or dtype == "int32" else 1 << 63)
    beyond = 1 << 64 if dtype == "uint64" else -lowest
    return int(value) if np.isfinite(value) and lowest <= int(value) < beyond else lowest


def _truncate(x: Expr, dtype: str) -> Expr:
    bits = int(dtype.removeprefix("u")[3:])
    if bits < 32:
        # narrow conversions are undefined out of range; through int32 they wrap
        return x.astype("int32").astype(dtype)
    if dtype == "uint32":
        return x.astype("int64").astype(dtype)
    if dtype == "uint64":
        source = m.dtype_of(x)
        middle = const(2.0**63, source)
        high = (x - middle).astype("int64").astype(dtype) + const(2**63, dtype)
        return tirx.Select(x >= middle, high, x.astype("int64").astype(dtype))
    return x.astype(dtype)


def _to_odd(x: Expr) -> Expr:
    """float64 to float32, rounded to odd, so that rounding the result to a narrower type equals one rounding."""
    near = let(x.astype("float32"))
    bits = let(tirx.reinterpret("int32", near))
    unrounded = tirx.EQ(near.astype("float64"), x)
    one = tirx.const(1, "int32")
    # too far from zero: step back toward it before setting the sticky bit
    over = tirx.abs(near.astype("float64")) > tirx.abs(x)
    stepped = tirx.Select(over, bits - one, bits) | one
    keep = tirx.Or(unrounded, tirx.Or(m.is_nan(x), tirx.abs(near) > const(1e30, "float32")))
    return tirx.reinterpret("float32", tirx.Select(keep, bits, stepped))


@lowers("Cast", "CastLike")
def _cast(c: LowerContext) -> Lowered:
    row = c.out_type()
    change = (lambda x: rounded(x, row)) if row.is_narrow else (lambda x: convert(x, row.compute))
    return elementwise(change, row.storage, c.out_shape(), c.x(0))


@lowers("BitCast")
def _bit_cast(c: LowerContext) -> Lowered:
    dtype = c.out_type().storage
    source = c.stored(0)

    def bits(x: Expr) -> Expr:
        if dtype == source.dtype:
            return x
        if dtype == "bool":
            return tirx.NE(x, const(0, source.dtype))
        return m.reinterpret(dtype, x.astype("uint8") if source.dtype == "bool" else x)

    return elementwise(bits, dtype, c.out_shape(), source)
