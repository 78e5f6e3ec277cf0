"""Deformable convolution: every tap reads the data at a learnt offset, interpolated linearly along each axis."""

from __future__ import annotations

import itertools

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.linear import converted
from graphopt.backends.lower.pointwise import cast
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors.tensor import Expr, Index, Tensor, as_expr, let
from graphopt.ops.conv import kernel_extents, window_of


@lowers("DeformConv")
def _deform_conv(c: LowerContext) -> Lowered:
    x, w, offset = c.x(0), c.x(1), c.x(2)
    shape, dtype = c.out_shape(), c.out_dtype()
    window = window_of(c, kernel_extents(c, c.shape(1)), c.shape(0)[2:])
    group, offset_group = int(c.attr("group") or 1), int(c.attr("offset_group") or 1)
    channels, per_group, outputs = x.shape[1], w.shape[1], w.shape[0]
    if not (isinstance(channels, int) and isinstance(per_group, int) and isinstance(outputs, int)):
        raise c.unsupported("DeformConv of an unknown number of channels", "fix the channels with --shape")
    per_offset, out_per_group = channels // offset_group, outputs // group
    begin = [c.k.dim(p) for p in window.pads_begin]
    rank = len(begin)
    taps_in_all = 1
    for extent in window.kernel:
        taps_in_all *= extent
    mask = c.x(4) if c.has(4) else None

    def body(i: Index, r: Index) -> Expr:
        n, oc, *pos = i
        ic, *taps = r
        channel = let(as_expr(oc) // out_per_group * per_group + ic) if group > 1 else as_expr(ic)
        tap: Expr = 0
        for t, extent in zip(taps, window.kernel):
            tap = tap * extent + t
        plane = channel // per_offset * taps_in_all + tap
        low: list[Expr] = []
        share: list[Expr] = []
        for a in range(rank):
            place = pos[a] * window.strides[a] - begin[a] + taps[a] * window.dilations[a]
            at = let(cast(as_expr(place), dtype) + cast(offset(n, plane * rank + a, *pos), dtype))
            floor = let(tirx.floor(at))
            # far outside everything is 0; the bound keeps the conversion defined
            edge = cast(as_expr(x.shape[2 + a]), dtype) + const(1, dtype)
            held = tirx.Select(floor > const(-2, dtype), floor, const(-2, dtype))
            low.append(let(tirx.Select(held < edge, held, edge).astype("int64")))
            share.append(let(at - floor))
        total: Expr = const(0, dtype)
        for corner in itertools.product((0, 1), repeat=rank):
            part: Expr = const(1, dtype)
            inside: list[Expr] = []
            where: list[Expr] = []
            for a, up in enumerate(corner):
                q = low[a] + up
                inside += [q >= 0, q < x.shape[2 + a]]
                where.append(tirx.max(tirx.min(q, x.shape[2 + a] - 1), 0))
                part = part * (share[a] if up else const(1, dtype) - share[a])
            value = cast(x(n, channel, *where), dtype) * part
            total = total + tirx.Select(tirx.all(*inside), value, const(0, dtype))
        if mask is not None:
            total = total * cast(mask(n, plane, *pos), dtype)
        return total * cast(w(oc, ic, *taps), dtype)

    out = c.k.reduce(shape, dtype, (per_group, *window.kernel), body)
    if c.has(3):
        bias = c.x(3)
        return Tensor(shape, dtype, lambda *i: cast(out(*i) + cast(bias(i[1]), dtype), dtype))
    return converted(out, dtype)
