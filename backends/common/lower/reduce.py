"""Reductions, pooling, softmax."""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.common.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.common.tensor import Expr, Index, Tensor, elementwise
from graphopt.ops.pool import pool_window


@lowers("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(c: LowerContext) -> Lowered:
    x = c.x(0)
    mean = c.node.op == "GlobalAveragePool"
    total = c.k.reduce(
        c.out_shape(), x.dtype, x.shape[2:], lambda i, r: x(i[0], i[1], *r), "sum" if mean else "max"
    )
    if not mean:
        return total
    count: Expr = 1
    for d in x.shape[2:]:
        count = count * d
    divisor = const(count, x.dtype) if isinstance(count, int) else count.astype(x.dtype)
    return elementwise(lambda v: v / divisor, x.dtype, c.out_shape(), total)


@lowers("MaxPool", "AveragePool")
def _pool(c: LowerContext) -> Lowered:
    if c.node.output(1) is not None:
        raise c.unsupported("MaxPool with indices")
    window = pool_window(c)
    x = c.x(0)
    is_max = c.node.op == "MaxPool"
    begin = [c.k.dim(p) for p in window.pads_begin]
    fill = tirx.min_value(x.dtype) if is_max else const(0, x.dtype)
    if is_max and x.dtype.startswith("float"):
        fill = const(float("-inf"), x.dtype)

    def positions(i: Index, r: Index) -> list[Expr]:
        return [p * s + t * d - b for p, s, t, d, b in zip(i[2:], window.strides, r, window.dilations, begin)]

    def body(i: Index, r: Index) -> Expr:
        at = positions(i, r)
        inside = tirx.all(*(q >= 0 for q in at), *(q < d for q, d in zip(at, x.shape[2:])))
        # a clamped load and a select vectorise; a branch would not
        clamped = [tirx.max(tirx.min(q, d - 1), 0) for q, d in zip(at, x.shape[2:])]
        return tirx.Select(inside, x(i[0], i[1], *clamped), fill)

    total = c.k.reduce(c.out_shape(), x.dtype, window.kernel, body, "max" if is_max else "sum")
    if is_max:
        return total
    end = [c.k.dim(p) for p in window.pads_end]
    include = bool(c.attr("count_include_pad"))

    def mean(*i: Expr) -> Expr:
        count: Expr = const(1, "int64")
        for a, p in enumerate(i[2:]):
            first = p * window.strides[a] - begin[a]
            low = -begin[a] if include else const(0, "int64")
            high = x.shape[2 + a] + end[a] if include else x.shape[2 + a]
            d = window.dilations[a]
            skipped = tirx.floordiv(tirx.max(low - first, 0) + d - 1, d)
            stop = tirx.min(const(window.kernel[a], "int64"), tirx.floordiv(high - first + d - 1, d))
            count = count * tirx.max(stop - skipped, 1)
        return total(*i) / count.astype(x.dtype)

    return Tensor(c.out_shape(), x.dtype, mean)


@lowers("Softmax", "LogSoftmax")
def _softmax(c: LowerContext) -> Lowered:
    x = c.x(0)
    axis = c.axis(int(c.attr("axis")), x.rank)
    extent = x.shape[axis]
    kept = (*x.shape[:axis], 1, *x.shape[axis + 1 :])

    def at(i: Index, r: Expr) -> Index:
        return (*i[:axis], r, *i[axis + 1 :])

    top = c.k.reduce(kept, x.dtype, (extent,), lambda i, r: x(*at(i, r[0])), "max")
    top = c.k.stage(top)
    shifted = elementwise(lambda v, m: v - m, x.dtype, x.shape, x, top)
    if c.node.op == "LogSoftmax":
        total = c.k.stage(c.k.reduce(kept, x.dtype, (extent,), lambda i, r: tirx.exp(shifted(*at(i, r[0])))))
        return elementwise(lambda v, s: v - tirx.log(s), x.dtype, x.shape, shifted, total)
    power = c.k.stage(elementwise(tirx.exp, x.dtype, x.shape, shifted))
    total = c.k.stage(c.k.reduce(kept, x.dtype, (extent,), lambda i, r: power(*at(i, r[0]))))
    return elementwise(lambda v, s: v / s, x.dtype, x.shape, power, total)


