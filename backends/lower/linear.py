"""Matrix products and convolutions by the generic schedule."""

from __future__ import annotations

import numpy as np

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.pointwise import cast
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors.tensor import Expr, Index, Tensor, as_expr, choose, elementwise, let
from graphopt.ir.layout import PLAIN
from graphopt.ops.conv import Window, conv_window, transposed_window


def converted(t: Tensor, dtype: str) -> Tensor:
    """``t`` with another element type, itself if it has it."""
    return t if t.dtype == dtype else elementwise(lambda v: cast(v, dtype), dtype, t.shape, t)


def product(c: LowerContext, a: Tensor, b: Tensor, shape: tuple[Expr, ...], dtype: str) -> Tensor:
    """numpy.matmul of two tensors of any rank from 1."""

    def body(i: Index, r: Index) -> Expr:
        lead, row, col = list(i), None, None
        if b.rank > 1:
            col = lead.pop()
        if a.rank > 1:
            row = lead.pop()
        left = a(*_batch(a, lead), row, r[0]) if a.rank > 1 else a(r[0])
        right = b(*_batch(b, lead), r[0], col) if b.rank > 1 else b(r[0])
        return cast(left, dtype) * cast(right, dtype)

    tile = -2 if b.rank > 1 and a.rank > 1 else None
    return converted(c.k.reduce(shape, dtype, (a.shape[-1],), body, tile_axis=tile), dtype)


def _batch(t: Tensor, lead: list[Expr]) -> list[Expr]:
    dims = t.shape[:-2]
    tail = lead[len(lead) - len(dims) :]
    return [0 if isinstance(d, int) and d == 1 else i for d, i in zip(dims, tail)]


@lowers("MatMul")
def _matmul(c: LowerContext) -> Lowered:
    return product(c, factor(c, 0, c.x(0)), factor(c, 1, c.x(1)), c.out_shape(), c.out_dtype())


def factor(c: LowerContext, i: int, x: Tensor) -> Tensor:
    """``x``, made of operand ``i`` of a matrix product, with leading dimensions broadcast where only run time tells whether."""
    own = c.shape(i)
    return c.spread(x, own, (*c.node.out.shape[: _leading(c)], *own[-2:]))


def _leading(c: LowerContext) -> int:
    """Number of leading dimensions of a matrix product's result; its other operands are vectors at most."""
    return max(max(c.rank(i) for i in range(len(c.node.inputs)) if c.has(i)) - 2, 0)


@lowers("Gemm")
def _gemm(c: LowerContext) -> Lowered:
    a, b = c.x(0), c.x(1)
    ta, tb = bool(c.attr("transA")), bool(c.attr("transB"))
    alpha, beta = float(c.attr("alpha")), float(c.attr("beta"))
    dtype = c.out_dtype()
    floats = dtype.startswith("float")
    if not floats and not (alpha.is_integer() and beta.is_integer()):
        raise c.unsupported(f"Gemm of {dtype} with fractional alpha or beta", "cast the operands to float32")

    def body(i: Index, r: Index) -> Expr:
        left, right = (a(r[0], i[0]) if ta else a(i[0], r[0])), (b(i[1], r[0]) if tb else b(r[0], i[1]))
        return cast(left, dtype) * cast(right, dtype)

    def scalar(value: float) -> Expr:
        return const(value if floats else int(value), dtype)

    def summand() -> Tensor:
        return c.broadcast_operand(2, c.node.out.shape)

    out = c.k.reduce(c.out_shape(), dtype, (a.shape[0 if ta else 1],), body, tile_axis=-2)
    if alpha != 1.0:
        out = elementwise(lambda v: v * scalar(alpha), dtype, c.out_shape(), out)
    if c.has(2) and beta == 1.0:
        out = elementwise(lambda v, w: v + cast(w, dtype), dtype, c.out_shape(), out, summand())
    elif c.has(2) and beta != 0.0:
        out = elementwise(lambda v, w: v + cast(w, dtype) * scalar(beta), dtype, c.out_shape(), out, summand())
    return converted(out, dtype)


@lowers("Conv")
def _conv(c: LowerContext) -> Lowered:
    dtype = c.out_dtype()
    out = convolve(c, c.x(0), _weights(c), conv_window(c), c.out_shape(), dtype)
    if c.has(2):
        bias = c.x(2)
        return Tensor(out.shape, dtype, lambda *i: cast(out(*i) + cast(bias(i[1]), dtype), dtype))
    return converted(out, dtype)


def _weights(c: LowerContext) -> Tensor:
    """Those of a depthwise convolution are packed with channels innermost: the lanes of a block are one vector load."""
    constant = c.const(1)
    if constant is None or constant.shape[1] != 1 or constant.shape[0] != c.attr("group"):
        return c.x(1)
    packed = c.pack(np.moveaxis(constant[:, 0], 0, -1))
    return Tensor(constant.shape, packed.dtype, lambda oc, _, *taps: packed(*taps, oc))


def convolve(c: LowerContext, x: Tensor, w: Tensor, window: Window, shape: tuple[Expr, ...], dtype: str) -> Tensor:
    """The convolution of NC... data with OI... weights, summed in ``dtype``; padding is 0."""
    group = int(c.attr("group") or 1)
    channels = w.shape[1]
    outputs = w.shape[0]
    out_per_group = outputs // group if isinstance(outputs, int) else tirx.floordiv(outputs, group)
    begin = [c.k.dim(p) for p in window.pads_begin]
    padded = any(not (isinstance(p, int) and p == 0) for p in (*window.pads_begin, *window.pads_end))
    source = _pad_spatial(c, x, begin, [c.k.dim(p) for p in window.pads_end]) if padded else x

    depthwise = isinstance(channels, int) and channels == 1 and group > 1

    def body(i: Index, r: Index) -> Expr:
        n, oc, *pos = i
        ic, *taps = r
        at = [p * s + t * d for p, s, t, d in zip(pos, window.strides, taps, window.dilations)]
        if depthwise and isinstance(outputs, int) and outputs == group:
            channel = oc
        else:
            channel = ic if group == 1 else _quotient(oc, out_per_group) * channels + ic
        return cast(source(n, channel, *at), dtype) * cast(w(oc, ic, *taps), dtype)

    return c.k.reduce(shape, dtype, (channels, *window.kernel), body, tile_axis=len(shape) - 2 if depthwise else 1)


def _quotient(a: Expr, b: Expr) -> Expr:
    return a // b if isinstance(a, int) and isinstance(b, int) else tirx.floordiv(as_expr(a), as_expr(b))


def _pad_spatial(c: LowerContext, x: Tensor, begin: list[Expr], end: list[Expr]) -> Tensor:
    """A padded copy of ``x`` in scratch memory, so that the inner loops need no bounds checks."""
    shape = (*x.shape[:2], *(d + b + e for d, b, e in zip(x.shape[2:], begin, end)))

    def element(*i: Expr) -> Expr:
        inside: Expr = True
        source = list(i[:2])
        for p, d, b in zip(i[2:], x.shape[2:], begin):
            q = as_expr(p - b)
            source.append(q)
            here = tirx.all(q >= 0, q < d)
            inside = here if inside is True else tirx.all(inside, here)
        return choose(inside, lambda: x(*source), lambda: const(0, x.dtype))

    return c.k.stage(Tensor(shape, x.dtype, element), c.layout if c.layout.fits(shape) else PLAIN)


@lowers("ConvTranspose")
def _conv_transpose(c: LowerContext) -> Lowered:
    """Every output gathers the inputs that reach it: p takes input q through tap t where q s + t d - pad = p."""
    x, w = c.x(0), c.x(1)
    shape, dtype = c.out_shape(), c.out_dtype()
    window = transposed_window(c)
    group = int(c.attr("group") or 1)
    # a weight that is known decides where the image's channels are a symbol: inference has made them equal
    channels, out_per_group = w.shape[0], w.shape[1]
    if not isinstance(channels, int) or not isinstance(out_per_group, int):
        raise c.unsupported("ConvTranspose of an unknown number of channels", "fix the channels with --shape")
    in_per_group = channels // group
    begin = [c.k.dim(p) for p in window.pads_begin]

    def body(i: Index, r: Index) -> Expr:
        n, oc, *pos = i
        ic, *taps = r
        at: list[Expr] = []
        inside: list[Expr] = []
        for p, t, s, d, b, extent in zip(pos, taps, window.strides, window.dilations, begin, x.shape[2:]):
            reach = let(as_expr(p + b - t * d))
            q = reach if s == 1 else let(tirx.floordiv(reach, as_expr(s)))
            inside += [q >= 0, q < extent]
            if s != 1:
                inside.append(tirx.EQ(q * s, reach))
            at.append(tirx.max(tirx.min(q, extent - 1), 0))
        first = 0 if group == 1 else _quotient(oc, out_per_group) * in_per_group
        own = (
            oc
            if group == 1
            else oc % out_per_group
            if isinstance(oc, int)
            else tirx.floormod(oc, as_expr(out_per_group))
        )
        value = cast(x(n, first + ic, *at), dtype) * cast(w(first + ic, own, *taps), dtype)
        return tirx.Select(tirx.all(*inside), value, const(0, dtype))

    empty = any(isinstance(d, int) and d == 0 for d in x.shape)
    out = c.k.reduce(shape, dtype, (in_per_group, *window.kernel), body, tile_axis=1)
    if empty:
        out = Tensor(shape, dtype, lambda *_: const(0, dtype))
    if c.has(2):
        bias = c.x(2)
        return Tensor(shape, dtype, lambda *i: cast(out(*i) + cast(bias(i[1]), dtype), dtype))
    return converted(out, dtype)
