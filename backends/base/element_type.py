"""The element types that kernels know, one row a type: how an element is stored, and what arithmetic on it is done in.

A type that is stored narrower than it is computed with (float16, bfloat16) is widened when an element is read into a register
and narrowed when one is written; nothing else in a kernel knows of it. A new type is a row here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from graphopt.backends.base import dialect
from graphopt.backends.base.tvm_api import tirx
from graphopt.errors import InternalError, UnsupportedOpError
from graphopt.ir.dtypes import DType

Expr: TypeAlias = Any
"""A TVM expression, a scalar or a vector of lanes."""


@dataclass(frozen=True)
class GivenZeroPoint:
    """A zero point that a kernel is given by whoever calls it; not 0.

    Attributes:
        variable: of the kernel, an int32.
    """

    variable: Any = field(compare=False)


@dataclass(frozen=True)
class Conversion:
    """``(x - zero_point) * scale`` as an element of another type: what Cast and DequantizeLinear do to an element.

    Attributes:
        dtype: the type of the result.
        zero_point: 0 unless the elements are integers.
        scale: a finite number.
    """

    dtype: DType
    zero_point: int | GivenZeroPoint = 0
    scale: float = 1.0


@dataclass(frozen=True)
class ElementType:
    """One row of the table.

    Attributes:
        dtype: the type in the model.
        storage: TVM's name of an element in memory.
        compute: TVM's name of what arithmetic on an element is done in.
        accumulator: TVM's name of what sums of elements are kept in.
        widen: a stored element as one to compute with; left out where they are the same.
        narrow: the reverse, rounded to the nearest, to even in the middle; what is too large becomes infinite. Without ``widen``,
            of results that were computed in a wider type.
        widening: vector instructions that widening takes beside the load.
        conversion: what widening makes of the numbers besides, for an operand that is converted while it is read.
    """

    dtype: DType
    storage: str
    compute: str
    accumulator: str
    widen: Callable[[Expr], Expr] | None = field(default=None, compare=False)
    narrow: Callable[[Expr], Expr] | None = field(default=None, compare=False)
    widening: int = field(default=0, compare=False)
    conversion: Conversion | None = None

    @property
    def bytes(self) -> int:
        """Bytes of a stored element."""
        return self.dtype.numpy.itemsize

    @property
    def is_narrow(self) -> bool:
        """Whether elements are stored in another type than they are computed with."""
        return self.widen is not None

    def computed(self, x: Expr) -> Expr:
        """``x`` as an element to compute with, whichever of the two it is."""
        if self.widen is None:
            return self.stored(x)
        return self.widen(x) if scalar_dtype(x) == self.storage else x

    def stored(self, x: Expr) -> Expr:
        """``x`` as an element to store, whichever of the two it is."""
        return self.narrow(x) if self.narrow is not None and scalar_dtype(x) != self.storage else x


def scalar_dtype(x: Expr) -> str:
    """TVM's name of an expression's type, its lanes left out."""
    return str(x.ty.dtype).partition("x")[0]


def _with_lanes(dtype: str, x: Expr) -> str:
    _, _, lanes = str(x.ty.dtype).partition("x")
    return f"{dtype}x{lanes}" if lanes else dtype


def _constant(value: float, dtype: str, like: Expr) -> Expr:
    """``value`` in as many lanes as ``like`` has."""
    return _as_many(tirx.const(value, dtype), like)


def _as_many(scalar: Expr, like: Expr) -> Expr:
    """A scalar in as many lanes as ``like`` has."""
    _, _, lanes = str(like.ty.dtype).partition("x")
    return tirx.Broadcast(scalar, int(lanes)) if lanes else scalar


def _cast(dtype: str) -> Callable[[Expr], Expr]:
    def convert(x: Expr) -> Expr:
        if isinstance(x, tirx.FloatImm):
            return tirx.const(float(x.value), dtype)
        return x.astype(_with_lanes(dtype, x))

    return convert


def _widen_bfloat16(x: Expr) -> Expr:
    """A bfloat16 is the upper half of a float32.

    TVM 0.27 sees its bits as an integer: its own conversion turns some NaN into zeros, and fails on some vectors and variables.
    """
    if dialect.has_functions():
        return dialect.call("float32", "gopt_from_bfloat16", x)
    bits = x.astype(_with_lanes("uint32", x))
    return tirx.reinterpret(_with_lanes("float32", x), tirx.shift_left(bits, _constant(16, "uint32", x)))


def _narrow_bfloat16(x: Expr) -> Expr:
    """To the nearest, to even in the middle, by an addition that carries; a NaN becomes the one of all ones, which is quiet.

    ORing a mask onto the sum takes one instruction beside the comparison, choosing between two values takes several. AVX512-BF16
    has an instruction for all of it, which turns subnormal numbers into zeros: results would depend on the processor.
    """
    if isinstance(x, tirx.FloatImm):
        known = int(np.float32(x.value).astype(DType.bf16.numpy).view(np.uint16))
        return tirx.const(known, "uint16")
    if dialect.has_functions():
        return dialect.call("uint16", "gopt_bfloat16", x)
    unsigned = _with_lanes("uint32", x)
    bits = tirx.reinterpret(unsigned, x)

    def const(value: int) -> Expr:
        return _constant(value, "uint32", x)

    odd = tirx.bitwise_and(tirx.shift_right(bits, const(16)), const(1))
    # x == x but for NaN: the simplifier, which takes all numbers for equal to themselves, doesn't see that these are the same
    same = tirx.EQ(x, tirx.reinterpret(_with_lanes("float32", x), bits))
    sums = tirx.bitwise_or(bits + (const(0x7FFF) + odd), tirx.Select(same, const(0), const(0xFFFFFFFF)))
    _, _, lanes = unsigned.partition("x")
    if lanes and int(lanes) >= _SHUFFLED_LANES:
        halves = tirx.reinterpret(f"uint16x{2 * int(lanes)}", sums)
        return tirx.Shuffle([halves], [tirx.const(2 * i + 1, "int32") for i in range(int(lanes))])
    return tirx.shift_right(sums, const(16)).astype(_with_lanes("uint16", x))


def _integer(dtype: DType, name: str, accumulator: str = "") -> ElementType:
    return ElementType(dtype, name, name, accumulator or name)


_SHUFFLED_LANES = 16
"""Lanes of vectors whose upper halves a shuffle takes: that saves AVX-512 one instruction of ten, and costs AVX2 one at eight."""

FLOAT32 = ElementType(DType.f32, "float32", "float32", "float32")

HALF = ElementType(DType.f16, "float16", "float16", "float16", narrow=_cast("float16"))
"""float16 where a processor computes with it: not in the table, as kernels have to limit how many products they add up in it."""

ELEMENT_TYPES: dict[DType, ElementType] = {
    row.dtype: row
    for row in (
        FLOAT32,
        ElementType(DType.f64, "float64", "float64", "float64"),
        ElementType(DType.f16, "float16", "float32", "float32", _cast("float32"), _cast("float16"), 1),
        ElementType(DType.bf16, "uint16", "float32", "float32", _widen_bfloat16, _narrow_bfloat16, 2),
        _integer(DType.i8, "int8", "int32"),
        _integer(DType.u8, "uint8", "int32"),
        _integer(DType.i16, "int16", "int32"),
        _integer(DType.u16, "uint16", "int32"),
        _integer(DType.i32, "int32"),
        _integer(DType.u32, "uint32"),
        _integer(DType.i64, "int64"),
        _integer(DType.u64, "uint64"),
        ElementType(DType.bool_, "bool", "bool", "bool"),
    )
}


_COMPUTED = {row.storage: row for row in (*ELEMENT_TYPES.values(), HALF) if row.widen is None}

SINGLE_TYPES = frozenset(row.dtype for row in ELEMENT_TYPES.values() if row.compute == FLOAT32.storage)
"""Types that are computed with in float32."""


def computed_type(name: str) -> ElementType:
    """The row of a type that is stored as it is computed with, by TVM's name."""
    return _COMPUTED[name]


def element_type(dtype: DType, node: str | None = None) -> ElementType:
    """The row of an element type.

    Args:
        dtype: the type in the model.
        node: label of the node that asks, for the message.

    Raises:
        UnsupportedOpError: no kernels are generated for the type.
    """
    found = ELEMENT_TYPES.get(dtype)
    if found is None:
        raise UnsupportedOpError(
            f"no kernels for element type {dtype}", code="unsupported-dtype", node=node,
            hint="convert the model to float32, float16, bfloat16 or an 8 to 64 bit integer type",
        )  # fmt: skip
    return found


def with_turned_sign(row: ElementType) -> ElementType:
    """The row of bytes that are read as bytes of the other kind, 128 more or less, by turning their highest bit."""
    to = ELEMENT_TYPES[DType.i8 if row.dtype is DType.u8 else DType.u8]
    bit = 128 if row.dtype is DType.u8 else -128

    def widen(x: Expr) -> Expr:
        return tirx.reinterpret(_with_lanes(to.storage, x), tirx.bitwise_xor(x, _constant(bit, row.storage, x)))

    return ElementType(
        row.dtype, row.storage, to.storage, to.accumulator, widen, widening=1, conversion=Conversion(to.dtype, bit)
    )  # fmt: skip


def converted_while_read(row: ElementType, conversion: Conversion) -> ElementType:
    """The row of an operand that is stored as ``row`` says and computed with after a conversion, which widens it.

    Elements of narrow types are rounded to them, as if the result of the conversion had been stored.

    Raises:
        InternalError: the elements aren't stored narrower than the result is computed with.
    """
    to = element_type(conversion.dtype)
    if row.bytes >= np.dtype(to.compute).itemsize:
        raise InternalError(f"a conversion from {row.dtype} to {conversion.dtype} while reading")

    def widen(x: Expr) -> Expr:
        value = row.computed(x)
        if not row.is_narrow and row.dtype is not DType.bool_:
            value = value.astype(_with_lanes("int32", value))
            zero_point = conversion.zero_point
            if isinstance(zero_point, GivenZeroPoint):
                value = value - _as_many(zero_point.variable, value)
            elif zero_point:
                value = value - _constant(zero_point, "int32", value)
        value = value.astype(_with_lanes(to.compute, value))
        if conversion.scale != 1.0:
            value = value * _constant(conversion.scale, to.compute, value)
        return to.computed(to.stored(value)) if to.is_narrow else value

    return ElementType(
        row.dtype, row.storage, to.compute, to.accumulator, widen,
        widening=row.widening if row.is_narrow else 2,
        conversion=conversion,
    )  # fmt: skip
