"""Pooling."""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.pointwise import cast
from graphopt.backends.lower.reduce import Axes
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.reducers import identity_of
from graphopt.backends.tensors.tensor import Expr, Index, Tensor, as_expr, elementwise, let
from graphopt.ops.conv import Window
from graphopt.ops.pool import pool_window


@lowers("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global_pool(c: LowerContext) -> Lowered:
    x, dtype, op = c.x(0), c.out_dtype(), c.node.op
    axes = Axes(x, tuple(range(2, x.rank)))
    if op == "GlobalMaxPool":
        return axes.reduce(c, lambda i: x(*i), dtype, "max")
    if op == "GlobalAveragePool":
        count = axes.count(dtype)
        total = axes.reduce(c, lambda i: cast(x(*i), dtype), dtype)
        return elementwise(lambda v: cast(v / count, dtype), dtype, axes.kept, total)
    p = int(c.attr("p"))
    total = axes.reduce(c, lambda i: _raised(cast(x(*i), dtype), p), dtype)
    return elementwise(lambda v: cast(_root(v, p), dtype), dtype, axes.kept, total)


def _raised(x: Expr, p: int) -> Expr:
    x = let(x)
    if p == 1:
        return tirx.abs(x)
    return x * x if p == 2 else m.power(tirx.abs(x), const(float(p), m.dtype_of(x)))


def _root(x: Expr, p: int) -> Expr:
    if p == 1:
        return x
    return tirx.sqrt(x) if p == 2 else m.power(x, const(1.0 / p, m.dtype_of(x)))


class Taps:
    """Positions that a window covers, and whether they lie on the data."""

    def __init__(self, c: LowerContext, window: Window, x: Tensor) -> None:
        self.window, self.x = window, x
        self.begin = [c.k.dim(p) for p in window.pads_begin]
        self.end = [c.k.dim(p) for p in window.pads_end]

    def positions(self, i: Index, r: Index) -> list[Expr]:
        """Spatial positions on the unpadded data."""
        w = self.window
        return [p * s + t * d - b for p, s, t, d, b in zip(i[2:], w.strides, r, w.dilations, self.begin)]

    def inside(self, at: list[Expr]) -> Expr:
        """Whether they lie on the data."""
        return tirx.all(*(as_expr(q) >= 0 for q in at), *(as_expr(q) < d for q, d in zip(at, self.x.shape[2:])))

    def load(self, i: Index, r: Index, fill: Expr) -> Expr:
        """The element, or ``fill`` outside. A clamped load and a select vectorise; a branch would not."""
        at = [let(as_expr(q)) for q in self.positions(i, r)]
        clamped = [tirx.max(tirx.min(q, d - 1), 0) for q, d in zip(at, self.x.shape[2:])]
        return tirx.Select(self.inside(at), self.x(i[0], i[1], *clamped), fill)


@lowers("MaxPool")
def _max_pool(c: LowerContext) -> Lowered:
    x, shape = c.x(0), c.out_shape()
    window = pool_window(c)
    taps = Taps(c, window, x)
    least = identity_of("max", x.dtype)
    best = c.k.reduce(shape, x.dtype, window.kernel, lambda i, r: taps.load(i, r, least), "max")
    if c.node.output(1) is None:
        return best
    found = c.k.stage(best)
    by_column = bool(c.attr("storage_order"))

    def flat(i: Index, at: list[Expr]) -> Expr:
        total = i[0] * x.shape[1] + i[1]
        order = list(range(len(at)))
        for d in x.shape[2:]:
            total = total * d
        scale: Expr = 1
        for a in order if by_column else reversed(order):
            total = total + at[a] * scale
            scale = scale * x.shape[2 + a]
        return as_expr(total)

    def body(i: Index, r: Index) -> Expr:
        at = [let(as_expr(q)) for q in taps.positions(i, r)]
        v = let(taps.load(i, r, least))
        hit = tirx.EQ(v, found(*i))
        if m.is_float(x.dtype):
            hit = tirx.Or(hit, m.is_nan(v))
        number: Expr = 0
        for t, k in zip(r, window.kernel):
            number = number * k + t
        return tirx.Select(tirx.And(taps.inside(at), hit), as_expr(number), tirx.max_value("int64"))

    # the first tap in row-major order wins a tie
    tap = c.k.stage(c.k.reduce(shape, "int64", window.kernel, body, "min"))

    def index(*i: Expr) -> Expr:
        rest = tap(*i)
        digits: list[Expr] = []
        for k in reversed(window.kernel):
            digits.append(tirx.truncmod(rest, as_expr(k)))
            rest = tirx.truncdiv(rest, as_expr(k))
        return flat(i, taps.positions(i, tuple(reversed(digits))))

    return [found, Tensor(shape, "int64", index)]


@lowers("AveragePool", "LpPool")
def _sum_pool(c: LowerContext) -> Lowered:
    x, shape, dtype = c.x(0), c.out_shape(), c.out_dtype()
    window = pool_window(c)
    taps = Taps(c, window, x)
    nothing = const(0, dtype)
    if c.node.op == "LpPool":
        p = int(c.attr("p"))
        total = c.k.reduce(shape, dtype, window.kernel, lambda i, r: _raised(cast(taps.load(i, r, nothing), dtype), p))
        return elementwise(lambda v: cast(_root(v, p), dtype), dtype, shape, total)
    total = c.k.reduce(shape, dtype, window.kernel, lambda i, r: cast(taps.load(i, r, nothing), dtype))
    include = bool(c.attr("count_include_pad"))

    def mean(*i: Expr) -> Expr:
        count: Expr = const(1, "int64")
        for a, p in enumerate(i[2:]):
            d = window.dilations[a]
            first = p * window.strides[a] - taps.begin[a]
            low = -taps.begin[a] if include else const(0, "int64")
            high = x.shape[2 + a] + taps.end[a] if include else x.shape[2 + a]
            skipped = tirx.floordiv(tirx.max(low - first, 0) + d - 1, as_expr(d))
            stop = tirx.min(const(window.kernel[a], "int64"), tirx.floordiv(high - first + d - 1, as_expr(d)))
            count = count * tirx.max(stop - skipped, 1)
        return cast(total(*i) / count.astype(dtype), dtype)

    return Tensor(shape, dtype, mean)
