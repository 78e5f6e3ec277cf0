"""Operators whose result follows from shapes and positions: ranges, masks, constants of a shape."""

from __future__ import annotations

import numpy as np

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.bounds import check_between, refuse_unless
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers, measures
from graphopt.backends.tensors.imperative import Code
from graphopt.backends.tensors.index import i64, product
from graphopt.backends.tensors.tensor import Expr, Tensor, as_number


@lowers("Shape")
def _shape(c: LowerContext) -> Lowered:
    from graphopt.ops.shape import shape_range

    start, end = shape_range(c)
    dims = c.dims(c.shape(0)[start:end])
    return Tensor(c.out_shape(), "int64", lambda i: _pick(dims, i))


def _pick(dims: tuple[Expr, ...], at: Expr) -> Expr:
    out = i64(dims[-1] if dims else 0)  # nothing is read of an empty tensor
    for n in range(len(dims) - 2, -1, -1):
        out = tirx.Select(tirx.EQ(i64(at), i64(n)), i64(dims[n]), out)
    return out


@lowers("Size")
def _size(c: LowerContext) -> Lowered:
    total = i64(product(c.dims(c.shape(0))))
    return Tensor((), "int64", lambda: total)


@lowers("ConstantOfShape")
def _constant_of_shape(c: LowerContext) -> Lowered:
    dtype = c.out_dtype()
    value = c.attr("value")
    fill = const(0 if value is None else np.asarray(value).reshape(-1)[0], dtype)
    return Tensor(c.out_shape(), dtype, lambda *_: fill)


@lowers("Range")
def _range(c: LowerContext) -> Lowered:
    dtype = c.out_dtype()
    start, delta = (c.x(i) for i in (0, 2))

    def element(i: Expr) -> Expr:
        a, step = start(*(0,) * start.rank), delta(*(0,) * delta.rank)
        if not dtype.startswith("float"):
            return a + i64(i).astype(dtype) * step
        return a + as_number(i, dtype) * step

    return Tensor(c.out_shape(), dtype, element)


@measures("Range")
def _range_count(c: LowerContext) -> Tensor:
    operands = [c.x(i) for i in range(3)]
    if not c.k.schedule.calls_back:  # nothing is refused, and what counts reads the operands where it needs them
        start, limit, delta = (t(*(0,) * t.rank).astype("float64") for t in operands)
        steps = tirx.max(tirx.ceil((limit - start) / delta), const(0.0, "float64"))
        return Tensor((1,), "int64", lambda _: steps.astype("int64"))
    code = Code(c.k)
    start, limit, delta = (code.read(t, *(0,) * t.rank).astype("float64") for t in operands)
    steps = code.let(tirx.ceil((limit - start) / delta))
    code.finish()
    given = [(c.value(i).name, v) for i, v in enumerate((start, limit, delta))]
    possible = tirx.all(steps < const(2.0**62, "float64"), steps > const(-(2.0**1000), "float64"))
    refuse_unless(c, possible, "no number of elements follows", given)
    at_least = tirx.max(steps, const(0.0, "float64"))
    return Tensor((1,), "int64", lambda _: at_least.astype("int64"))


@lowers("EyeLike")
def _eye_like(c: LowerContext) -> Lowered:
    dtype, k = c.out_dtype(), int(c.attr("k") or 0)
    return Tensor(
        c.out_shape(), dtype, lambda i, j: tirx.Select(tirx.EQ(i64(j), i64(i + k)), const(1, dtype), const(0, dtype))
    )


@lowers("Trilu")
def _trilu(c: LowerContext) -> Lowered:
    x = c.x(0)
    upper = bool(c.attr("upper"))
    k = c.x(1) if c.has(1) else None

    def element(*i: Expr) -> Expr:
        shift = i64(0) if k is None else i64(k(*(0,) * k.rank))
        ahead = i64(i[-1]) - i64(i[-2])
        keep = ahead >= shift if upper else ahead <= shift
        return tirx.Select(keep, x(*i), const(0, x.dtype))

    return Tensor(c.out_shape(), x.dtype, element)


@lowers("OneHot")
def _one_hot(c: LowerContext) -> Lowered:
    indices, values = c.x(0), c.x(2)
    axis = c.axis(int(c.attr("axis")), indices.rank, extent=1)
    shape = c.out_shape()
    depth = i64(shape[axis])

    def element(*i: Expr) -> Expr:
        raw = indices(*i[:axis], *i[axis + 1 :])
        wanted = raw.astype("int64")
        if indices.dtype.startswith("float"):
            # a class that is no integer matches nothing
            whole = tirx.EQ(wanted.astype(indices.dtype), raw)
        else:
            whole = tirx.const(True, "bool")
        wanted = tirx.Select(wanted < 0, wanted + depth, wanted)
        return tirx.Select(tirx.And(whole, tirx.EQ(wanted, i64(i[axis]))), values(1), values(0))

    return Tensor(shape, c.out_dtype(), element)


@lowers("ReverseSequence")
def _reverse_sequence(c: LowerContext) -> Lowered:
    x, lengths = c.x(0), c.x(1)
    time, batch = int(c.attr("time_axis")), int(c.attr("batch_axis"))
    check_between(c, 1, 0, c.shape(0)[time], "a sequence is longer than the data")

    def element(*i: Expr) -> Expr:
        length, at = i64(lengths(i[batch])), i64(i[time])
        last = tirx.min(length, i64(x.shape[time])) - 1
        source = tirx.Select(at <= last, last - at, at)
        return x(*i[:time], source, *i[time + 1 :])

    return Tensor(c.out_shape(), x.dtype, element)


@lowers("AffineGrid")
def _affine_grid(c: LowerContext) -> Lowered:
    """Coordinates run x, y(, z): the last extent of ``size`` first."""
    theta, dtype = c.x(0), c.out_dtype()
    shape = c.out_shape()
    spatial = shape[1:-1]
    align = bool(c.attr("align_corners"))

    def coordinate(p: Expr, extent: Expr) -> Expr:
        at, n = as_number(p, "float64"), i64(extent).astype("float64")
        one, two = const(1.0, "float64"), const(2.0, "float64")
        if not align:
            return (two * at + one) / n - one
        return tirx.Select(i64(extent) > 1, two * at / tirx.max(n - one, one), const(0.0, "float64")) - one

    def element(*i: Expr) -> Expr:
        points = [coordinate(p, d) for p, d in zip(i[1:-1], spatial)][::-1]
        total = theta(i[0], i[-1], len(points)).astype("float64")
        for axis, point in enumerate(points):
            total = total + theta(i[0], i[-1], axis).astype("float64") * point
        return total.astype(dtype)

    return Tensor(shape, dtype, element)
