"""Matrix products and convolutions by the generic schedule."""

from __future__ import annotations

import numpy as np

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.common.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.common.tensor import Expr, Index, Tensor, choose, elementwise
from graphopt.ops.conv import conv_window


@lowers("MatMul")
def _matmul(c: LowerContext) -> Lowered:
    a, b = c.x(0), c.x(1)
    shape = c.out_shape()
    dtype = c.out_dtype()

    def body(i: Index, r: Index) -> Expr:
        lead, row, col = list(i), None, None
        if b.rank > 1:
            col = lead.pop()
        if a.rank > 1:
            row = lead.pop()
        left = a(*_batch(a, lead), row, r[0]) if a.rank > 1 else a(r[0])
        right = b(*_batch(b, lead), r[0], col) if b.rank > 1 else b(r[0])
        return left * right

    return c.k.reduce(shape, dtype, (a.shape[-1],), body, tile_axis=-2 if b.rank > 1 and a.rank > 1 else None)


def _batch(t: Tensor, lead: list[Expr]) -> list[Expr]:
    dims = t.shape[:-2]
    tail = lead[len(lead) - len(dims) :]
    return [0 if isinstance(d, int) and d == 1 else i for d, i in zip(dims, tail)]


@lowers("Gemm")
def _gemm(c: LowerContext) -> Lowered:
    a, b = c.x(0), c.x(1)
    ta, tb = bool(c.attr("transA")), bool(c.attr("transB"))
    alpha, beta = float(c.attr("alpha")), float(c.attr("beta"))
    dtype = c.out_dtype()

    def body(i: Index, r: Index) -> Expr:
        return (a(r[0], i[0]) if ta else a(i[0], r[0])) * (b(i[1], r[0]) if tb else b(r[0], i[1]))

    out = c.k.reduce(c.out_shape(), dtype, (a.shape[0 if ta else 1],), body, tile_axis=-2)
    if alpha != 1.0:
        out = elementwise(lambda v: v * const(alpha, dtype), dtype, c.out_shape(), out)
    if c.has(2) and beta != 0.0:
        out = elementwise(lambda v, w: v + w * const(beta, dtype), dtype, c.out_shape(), out, c.x(2))
    return out


@lowers("Conv")
def _conv(c: LowerContext) -> Lowered:
    window = conv_window(c)
    x = c.x(0)
    shape, dtype = c.out_shape(), c.out_dtype()
    group = int(c.attr("group") or 1)
    channels, outputs = c.shape(1)[1], c.shape(1)[0]
    begin = [c.k.dim(p) for p in window.pads_begin]
    padded = any(not (isinstance(p, int) and p == 0) for p in (*window.pads_begin, *window.pads_end))
    source = _pad_spatial(c, x, begin, [c.k.dim(p) for p in window.pads_end]) if padded else x
    weight = c.const(1)
    depthwise = channels == 1 and group > 1 and outputs == group
    if depthwise and weight is not None:
        # channels innermost: the lanes of a block are one vector load
        taps = c.pack(np.moveaxis(weight[:, 0], 0, -1))

        def tap(oc: Expr, r: Index) -> Expr:
            return taps(*r[1:], oc)

    else:
        w = c.x(1)

        def tap(oc: Expr, r: Index) -> Expr:
            return w(oc, *r)

    def body(i: Index, r: Index) -> Expr:
        n, oc, *pos = i
        at = [p * s + t * d for p, s, t, d in zip(pos, window.strides, r[1:], window.dilations)]
        channel = r[0]
        if depthwise:
            channel = oc
        elif group > 1:
            channel = tirx.floordiv(oc, c.k.dim(outputs // group)) * c.k.dim(channels) + r[0]
        return source(n, channel, *at) * tap(oc, r)

    extents = (c.k.dim(channels), *window.kernel)
    out = c.k.reduce(shape, dtype, extents, body, tile_axis=-2 if depthwise and len(shape) > 3 else 1)
    if c.has(2):
        bias = c.x(2)
        return Tensor(shape, dtype, lambda *i: out(*i) + bias(i[1]))
    return out


def _pad_spatial(c: LowerContext, x: Tensor, begin: list[Expr], end: list[Expr], fill: float = 0.0) -> Tensor:
    """A padded copy of ``x`` in scratch memory, so that the inner loops need no bounds checks."""
    shape = (*x.shape[:2], *(d + b + e for d, b, e in zip(x.shape[2:], begin, end)))
    block = c.block if c.block and isinstance(x.shape[1], int) and x.shape[1] % c.block == 0 else 0

    def element(*i: Expr) -> Expr:
        inside: Expr = True
        source = list(i[:2])
        for p, d, b in zip(i[2:], x.shape[2:], begin):
            q = p - b
            source.append(q)
            inside = _and(inside, tirx.all(q >= 0, q < d))
        return choose(inside, lambda: x(*source), lambda: const(fill, x.dtype))

    return c.k.stage(Tensor(shape, x.dtype, element), block)


def _and(a: Expr, b: Expr) -> Expr:
    return b if a is True else tirx.all(a, b)
