"""Quantisation, dequantisation, and products of quantised tensors with exact 32-bit sums."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.base.element_type import element_type
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.linear import convolve, factor, product
from graphopt.backends.lower.pointwise import cast
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors import exact
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.opaque import opaque
from graphopt.backends.tensors.tensor import Expr, Index, Tensor, let
from graphopt.ir.dtypes import DType
from graphopt.ops.conv import conv_window

RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535)}


def saturated(value: Expr, zero_point: Expr, dtype: str) -> Expr:
    """A rounded float value plus the zero point, clamped to an integer dtype of at most 16 bits (NaN gives the lowest)."""
    work = m.dtype_of(value)
    low, high = RANGES[dtype]
    moved = let(value + cast(zero_point, work))
    # comparisons are written so that NaN fails the first
    kept = let(tirx.Select(moved > const(low, work), moved, const(low, work)))
    return tirx.Select(kept < const(high, work), kept, const(high, work)).astype("int32").astype(dtype)


def saturated_steps(steps: Tensor, zero_point: int, dtype: str, least: int | None = None) -> Tensor:
    """Floats rounded to even plus a zero point as integers of at most 16 bits, as `saturated` makes them.

    The bounds are moved instead of the numbers, so that the result less its zero point is at hand without any conversion for
    whoever dequantizes it in the same kernel. They are whole numbers, so that rounding may follow: by an addition to float32, in
    whose lowest bits the integer then is. Processors without an instruction for it call the C library to round.

    Args:
        steps: any numbers in floating point.
        zero_point: a number of the result's type.
        dtype: of the result.
        least: lower bound of the steps, if it isn't that of the type: 0 for what a Relu would give.
    """
    low, high = (bound - zero_point for bound in RANGES[dtype])
    low = low if least is None else max(low, least)

    def kept(*i: Expr) -> Expr:
        value = let(steps(*i))
        # comparisons are written so that NaN fails the first
        above = let(tirx.Select(value > const(low, steps.dtype), value, const(low, steps.dtype)))
        return tirx.Select(above < const(high, steps.dtype), above, const(high, steps.dtype))

    def whole(*i: Expr) -> Expr:
        return tirx.round(kept(*i))

    inside = Tensor(steps.shape, steps.dtype, whole)

    def element(*i: Expr) -> Expr:
        if steps.dtype != "float32":
            return (whole(*i).astype("int32") + const(zero_point, "int32")).astype(dtype)
        value = kept(*i)
        bits = tirx.reinterpret("int32", opaque(value + m.like(m.ROUNDER, value)))
        return (bits + const(zero_point, "int32")).astype(dtype)

    # a negative zero isn't above a bound of 0, which takes its place
    exact = inside if low == 0 else _without_negative_zero(inside)
    return Tensor(steps.shape, dtype, element, steps=(exact, zero_point))


def _without_negative_zero(steps: Tensor) -> Tensor:
    """Whole numbers of at most 16 bits, of which integers would have one zero only.

    A number beyond them is added and subtracted again, which leaves a positive zero of either; hidden from TVM's simplifier.
    """

    def element(*i: Expr) -> Expr:
        value = steps(*i)
        return opaque(value + m.like(m.ROUNDER, value)) - m.like(m.ROUNDER, value)

    return Tensor(steps.shape, steps.dtype, element)


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
    if dtype not in RANGES:
        raise c.unsupported(f"{c.node.op} with {dtype}", "use 8 or 16 bit integers")


@lowers("QuantizeLinear")
def _quantize(c: LowerContext) -> Lowered:
    x, scale, dtype = c.x(0), c.x(1), c.out_dtype()
    _narrow(c, dtype)
    zero_point = c.x(2) if c.has(2) else None
    place = _place(c, scale, x.rank)
    code = int(c.attr("precision") or 0)
    divided = element_type(DType.from_onnx(code), c.node.label).compute if code else scale.dtype
    work = "float64" if divided == "float64" else "float32"

    def steps(*i: Expr) -> Expr:
        # divided in the precision the operator asks for, the rest in one that holds the integers
        return cast(exact.divide(cast(x(*i), divided), cast(scale(*place(i)), divided)), work)

    known = _known_zero_point(c)
    if known is not None:
        return saturated_steps(Tensor(c.out_shape(), work, steps), known, dtype)

    def element(*i: Expr) -> Expr:
        assert zero_point is not None
        return saturated(tirx.round(steps(*i)), zero_point(*place(i)).astype("int32"), dtype)

    return Tensor(c.out_shape(), dtype, element)


def _known_zero_point(c: LowerContext) -> int | None:
    """The zero point of a QuantizeLinear or DequantizeLinear if it is one known number."""
    if not c.has(2):
        return 0
    array = c.const(2)
    return int(array.reshape(-1)[0]) if array is not None and array.size and (array == array.flat[0]).all() else None


@lowers("DequantizeLinear")
def _dequantize(c: LowerContext) -> Lowered:
    x, scale, dtype = c.x(0), c.x(1), c.out_dtype()
    if m.is_float(x.dtype):
        raise c.unsupported(f"DequantizeLinear of {x.dtype}", "use integers")
    zero_point = c.x(2) if c.has(2) else None
    place = _place(c, scale, x.rank)
    added = dtype == "float32" and any(use.node.op in _ADDING for use in c.node.out.uses)
    keep = _unfused if added else lambda value: value
    if x.steps is not None and x.steps[1] == _known_zero_point(c) and x.steps[0].dtype == dtype:
        steps, _ = x.steps
        return Tensor(c.out_shape(), dtype, lambda *i: keep(steps(*i) * cast(scale(*place(i)), dtype)))

    def element(*i: Expr) -> Expr:
        at = place(i)
        value = cast(x(*i), "int32")
        if zero_point is not None:
            value = value - cast(zero_point(*at), "int32")
        work = "float64" if dtype == "float64" else "float32"
        return keep(cast(value.astype(work) * cast(scale(*at), work), dtype))

    return Tensor(c.out_shape(), dtype, element)


_ADDING = frozenset({"Add", "Sub", "Sum"})
_LARGEST = 3.4028234663852886e38
"""Of float32."""


def _unfused(product: Expr) -> Expr:
    """A product in float32 that no addition is fused with: processors without a fused multiply-add would round otherwise.

    The bound is one that every finite number keeps to, by an instruction that LLVM vectorises, and takes for one that matters.
    """
    value = let(product)
    return tirx.Select(value > const(-_LARGEST, "float32"), value, const(-_LARGEST, "float32"))


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
