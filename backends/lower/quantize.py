"""Quantisation, dequantisation, and products of quantised tensors with exact 32-bit sums."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from graphopt.backends.base import dialect
from graphopt.backends.base.element_type import element_type
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.linear import convolve, factor, product
from graphopt.backends.lower.packed_bytes import bounded, byte_steps, can_pack, low_byte, packed_byte
from graphopt.backends.lower.pointwise import cast
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.lower.scales import Quantization, known_zero_point, step_bounds
from graphopt.backends.tensors import exact
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.opaque import opaque
from graphopt.backends.tensors.tensor import Expr, Index, Tensor, let
from graphopt.ir.dtypes import DType
from graphopt.ops.conv import conv_window

_INTEGERS = {"int8": DType.i8, "uint8": DType.u8, "int16": DType.i16, "uint16": DType.u16}
"""Results of a quantization, by TVM's names."""


def saturated(value: Expr, zero_point: Expr, dtype: str) -> Expr:
    """A rounded float value plus the zero point, clamped to an integer dtype of at most 16 bits (NaN gives the lowest)."""
    work = m.dtype_of(value)
    low, high = step_bounds(_INTEGERS[dtype], 0)
    moved = let(value + cast(zero_point, work))
    # comparisons are written so that NaN fails the first
    kept = let(tirx.Select(moved > const(low, work), moved, const(low, work)))
    return tirx.Select(kept < const(high, work), kept, const(high, work)).astype("int32").astype(dtype)


def requantized(steps: Tensor, into: Quantization, zero_point: int, dtype: str, *, rectified: bool) -> Tensor:
    """Numbers in steps of a quantization as integers of at most 16 bits, rounded to the nearest, ties to even.

    The bounds are moved instead of the numbers, so that the result less its zero point is at hand without any conversion for
    whoever dequantizes it in the same kernel.

    Args:
        steps: float32, infinities too.
        into: the quantization.
        zero_point: its zero point.
        dtype: of the result.
        rectified: whether what is below 0 counts as 0.
    """
    low = const(0.0, "float32") if rectified else into.low_step  # a zero point is no less than the lowest integer
    inside = Tensor(steps.shape, "float32", lambda *i: _between(steps(*i), low, into.high_step))
    found = _rounded(inside, into.zero_point, zero_point, dtype, packs=False)
    if not can_pack(dtype) or dialect.current().slow_conversions:
        return found
    packed = partial(packed_byte, zero_point=into.zero_point, dtype=dtype, rectified=rectified)
    return Tensor(steps.shape, dtype, lambda *i: packed(bounded(steps(*i))), steps=found.steps)


def _between(value: Expr, low: Expr, high: Expr) -> Expr:
    """A number clamped to two bounds; NaN gives the low one."""
    if dialect.current().nan_minmax:
        above = tirx.call_llvm_pure_intrin("float32", "llvm.maxnum", value, low)
        return m.minimum(above, high)
    value = let(value)
    above = let(tirx.Select(value > low, value, low))
    return tirx.Select(above < high, above, high)


def _rounded(steps: Tensor, offset: Expr | None, zero_point: int, dtype: str, *, packs: bool) -> Tensor:
    """Numbers within the range of the result, in its steps, as integers.

    A large number is added: then the low bits are the integer, which are stored as they are, or it is taken away again, which
    leaves a positive zero of either one, as integers have it.

    Args:
        steps: the numbers.
        offset: the zero point as an expression, None if it is 0.
        zero_point: the zero point.
        dtype: of the result.
        packs: whether to use the instructions that saturate, where the target has some.
    """

    def moved(*i: Expr) -> Expr:
        return let(opaque(steps(*i) + const(m.ROUNDER, "float32")))

    def element(*i: Expr) -> Expr:
        if dialect.current().slow_conversions and can_pack(dtype):
            return low_byte(moved(*i), offset, dtype)
        if packs and can_pack(dtype):
            return packed_byte(steps(*i), offset, dtype)
        sum_ = moved(*i) if offset is None else opaque(moved(*i) + offset)
        return (tirx.reinterpret("int32", sum_) - const(m.ROUNDER_BITS, "int32")).astype(dtype)

    def exact(*i: Expr) -> Expr:
        return moved(*i) - const(m.ROUNDER, "float32")

    return Tensor(steps.shape, dtype, element, steps=(Tensor(steps.shape, "float32", exact), zero_point))


def _place(c: LowerContext, p: Tensor, rank: int) -> Callable[[Index], Index]:
    """How a scale or zero point is indexed for an element: per tensor, along an axis, or by blocks."""
    if p.rank == 0:
        return lambda i: ()
    if p.rank == 1 and isinstance(p.shape[0], int) and p.shape[0] == 1:
        return lambda i: (0,)
    axis = c.axis(int(c.attr("axis")), rank)
    block = int(c.attr("block_size") or 0)
    if p.rank == 1 and not block:
        return lambda i: (i[axis],)
    if p.rank != rank or not block:
        raise c.invalid(f"a scale of rank {p.rank} with block_size={block} does not fit data of rank {rank}")
    return lambda i: tuple(_blocked(v, block) if a == axis else v for a, v in enumerate(i))


def _blocked(index: Expr, block: int) -> Expr:
    return index // block if isinstance(index, int) else tirx.floordiv(index, tirx.const(block, "int64"))


def _narrow(c: LowerContext, dtype: str) -> None:
    if dtype not in _INTEGERS:
        raise c.unsupported(f"{c.node.op} with {dtype}", "use 8 or 16 bit integers")


@lowers("QuantizeLinear")
def _quantize(c: LowerContext) -> Lowered:
    x, dtype = c.x(0), c.out_dtype()
    _narrow(c, dtype)
    into = c.quantization()
    if into is not None:
        return _rounded(_divided(c, x, into), into.zero_point, known_zero_point(c.node) or 0, dtype, packs=True)
    scale, zero_point = c.x(1), c.x(2) if c.has(2) else None
    place = _place(c, scale, x.rank)
    code = int(c.attr("precision") or 0)
    divided = element_type(DType.from_onnx(code), c.node.label).compute if code else scale.dtype
    work = "float64" if divided == "float64" else "float32"

    def element(*i: Expr) -> Expr:
        # divided in the precision the operator asks for, the rest in one that holds the integers
        quotient = cast(exact.divide(cast(x(*i), divided), cast(scale(*place(i)), divided)), work)
        zero = const(0, "int32") if zero_point is None else zero_point(*place(i)).astype("int32")
        return saturated(tirx.round(quotient), zero, dtype)

    return Tensor(c.out_shape(), dtype, element)


def _divided(c: LowerContext, x: Tensor, into: Quantization) -> Tensor:
    """Numbers over the scale of a quantization, clamped to its range first, so that no quotient is anything special.

    Where there are fused multiply-adds, by the product with the inverse and the remainder of that, which correct the quotient to
    the nearest number: Brisebarre, Muller and Raina, "Accelerating Correctly Rounded Floating-Point Division when the Divisor Is
    Known in Advance" (2004), section 3. Three instructions of one slot each, where a division takes five or more.
    """

    def element(*i: Expr) -> Expr:
        value = let(_between(cast(x(*i), "float32"), into.low, into.high))
        if not c.k.caps.fma:
            return exact.divide(value, into.scale)
        quotient = let(value * into.inverse)
        rest = let(m.fma(m.like(-1.0, value) * quotient, into.scale, value))
        return m.fma(rest, into.inverse, quotient)

    return Tensor(x.shape, "float32", element)


@lowers("DequantizeLinear")
def _dequantize(c: LowerContext) -> Lowered:
    x, dtype = c.x(0), c.out_dtype()
    if m.is_float(x.dtype):
        raise c.unsupported(f"DequantizeLinear of {x.dtype}", "use integers")
    of = c.quantization()
    added = dtype == "float32" and any(use.node.op in _ADDING for use in c.node.out.uses)
    keep = _unfused if added else lambda value: value
    if x.steps is not None and x.steps[1] == known_zero_point(c.node) and x.steps[0].dtype == dtype:
        steps = x.steps[0]
        if of is not None:
            return Tensor(c.out_shape(), dtype, lambda *i: keep(steps(*i) * of.scale))
        one = c.x(1)
        along = _place(c, one, x.rank)
        return Tensor(c.out_shape(), dtype, lambda *i: steps(*i) * cast(one(*along(i)), dtype))
    if of is not None:
        return Tensor(c.out_shape(), dtype, lambda *i: keep(cast(_distance(x(*i), of) * of.scale, dtype)))
    scale, zero_point = c.x(1), c.x(2) if c.has(2) else None
    place = _place(c, scale, x.rank)

    def element(*i: Expr) -> Expr:
        at = place(i)
        value = cast(x(*i), "int32")
        if zero_point is not None:
            value = value - cast(zero_point(*at), "int32")
        work = "float64" if dtype == "float64" else "float32"
        return cast(value.astype(work) * cast(scale(*at), work), dtype)

    return Tensor(c.out_shape(), dtype, element)


_ADDING = frozenset({"Add", "Sub", "Sum"})
_LARGEST = 3.4028234663852886e38
"""Of float32."""


def _unfused(product: Expr) -> Expr:
    """A product in float32 that no addition is fused with: processors without a fused multiply-add would round otherwise.

    The bound is one that every finite number keeps to, by an instruction that LLVM vectorises, and takes for one that matters. For
    products with plain scales, which are finite.
    """
    if dialect.current().nan_minmax:  # the bound takes two instructions, as it isn't to give NaN
        return tirx.call_llvm_pure_intrin("float32", "llvm.arithmetic.fence", product)
    value = let(product)
    return tirx.Select(value > const(-_LARGEST, "float32"), value, const(-_LARGEST, "float32"))


def _distance(x: Expr, of: Quantization) -> Expr:
    """How far an integer of at most 16 bits is from its zero point, in float32."""
    if dialect.current().slow_conversions and can_pack(str(x.ty.dtype)):
        return byte_steps(x, of.zero_point)
    value = cast(x, "int32").astype("float32")
    return value if of.zero_point is None else value - of.zero_point


def _shifted(c: LowerContext, data: int, zero_point: int, at: Callable[[Tensor, Index], Index]) -> Tensor:
    """int32 values of operand ``data`` minus its zero point, ``at(zero point, index)`` telling which applies."""
    x = c.x(data)
    _narrow(c, x.dtype)
    zero = c.x(zero_point) if c.has(zero_point) else None

    def element(*i: Expr) -> Expr:
        value = x(*i).astype("int32")
        return value if zero is None else value - zero(*at(zero, i)).astype("int32")

    return Tensor(x.shape, "int32", element)


def _single(p: Tensor) -> bool:
    return all(isinstance(d, int) and d == 1 for d in p.shape)


def _along(axis: int) -> Callable[[Tensor, Index], Index]:
    """A parameter that is one number, or a vector along an axis of the data, or of the data's rank with ones."""

    def at(p: Tensor, i: Index) -> Index:
        if _single(p):
            return (0,) * p.rank
        if p.rank == 1:
            return (i[axis],)
        tail = i[len(i) - p.rank :]
        return tuple(0 if isinstance(d, int) and d == 1 else v for d, v in zip(p.shape, tail))

    return at


@lowers("MatMulInteger")
def _matmul_integer(c: LowerContext) -> Lowered:
    row = -2 if c.rank(0) > 1 else -1
    a, b = factor(c, 0, _shifted(c, 0, 2, _along(row))), factor(c, 1, _shifted(c, 1, 3, _along(-1)))
    return product(c, a, b, c.out_shape(), "int32")


@lowers("ConvInteger")
def _conv_integer(c: LowerContext) -> Lowered:
    x, w = _shifted(c, 0, 2, _along(1)), _shifted(c, 1, 3, _along(0))
    return convolve(c, x, w, conv_window(c), c.out_shape(), "int32")


@lowers("QLinearMatMul")
def _qlinear_matmul(c: LowerContext) -> Lowered:
    dtype, shape = c.out_dtype(), c.out_shape()
    _narrow(c, dtype)
    row = -2 if c.rank(0) > 1 else -1
    a, b = factor(c, 0, _shifted(c, 0, 2, _along(row))), factor(c, 3, _shifted(c, 3, 5, _along(-1)))
    total = product(c, a, b, shape, "int32")
    scales = [(c.x(1), _along(_output_axis(len(shape), c, row))), (c.x(4), _along(-1))]
    return _requantized(c, total, scales, c.x(6), c.x(7), dtype, _along(_output_axis(len(shape), c, row)))


def _output_axis(rank: int, c: LowerContext, row: int) -> int:
    """The output axis of the left operand's rows."""
    return rank - 1 if c.rank(3) == 1 or row == -1 else rank - 2


def _requantized(
    c: LowerContext, total: Tensor, scales: list[tuple[Tensor, Callable[[Tensor, Index], Index]]], out_scale: Tensor,
    out_zero: Tensor, dtype: str, out_at: Callable[[Tensor, Index], Index], bias: Callable[[Index], Expr] | None = None,
) -> Tensor:  # fmt: skip
    def element(*i: Expr) -> Expr:
        value = total(*i) if bias is None else total(*i) + bias(i)
        factor: Expr = const(1.0, "float32")
        for scale, at in scales:
            factor = factor * cast(scale(*at(scale, i)), "float32")
        factor = exact.divide(factor, cast(out_scale(*out_at(out_scale, i)), "float32"))
        zero = out_zero(*out_at(out_zero, i)).astype("int32")
        return saturated(tirx.round(value.astype("float32") * factor), zero, dtype)

    return Tensor(total.shape, dtype, element)


@lowers("QLinearConv")
def _qlinear_conv(c: LowerContext) -> Lowered:
    dtype = c.out_dtype()
    _narrow(c, dtype)
    x, w = _shifted(c, 0, 2, _along(1)), _shifted(c, 3, 5, _along(0))
    total = convolve(c, x, w, conv_window(c, 0, 3), c.out_shape(), "int32")
    bias = c.x(8) if c.has(8) else None
    return _requantized(
        c, total, [(c.x(1), _along(1)), (c.x(4), _along(1))], c.x(6), c.x(7), dtype, _along(1),
        None if bias is None else lambda i: bias(i[1]),
    )  # fmt: skip
