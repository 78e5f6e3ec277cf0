"""Sampling at computed positions: GridSample, RoiAlign, MaxRoiPool."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.bounds import check_between
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors.imperative import Code, result
from graphopt.backends.tensors.index import clamp, every, i64, inside
from graphopt.backends.tensors.tensor import Expr, Tensor, scalar_loops


@lowers("GridSample")
def _grid_sample(c: LowerContext) -> Lowered:
    x, grid = c.x(0), c.x(1)
    dims = x.rank - 2
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(c.attr("mode"), c.attr("mode") or "linear")
    padding = c.attr("padding_mode") or "zeros"
    align = bool(c.attr("align_corners"))
    dtype = "float64" if "float64" in (x.dtype, grid.dtype) else "float32"
    taps = {"nearest": [0], "linear": [0, 1], "cubic": [-1, 0, 1, 2]}.get(mode)
    if taps is None or padding not in ("zeros", "border", "reflection"):
        raise c.unsupported(f"GridSample with mode {mode} and padding_mode {padding}")
    # weights of taps are the same for every channel: computed once per point
    shape = c.out_shape()
    points = (shape[0], *shape[2:])

    def position(axis: int, point: Sequence[Expr]) -> Expr:
        """Coordinate along spatial ``axis`` (grids name the last one first)."""
        n = grid(*point, dims - 1 - axis).astype(dtype)
        length = i64(x.shape[2 + axis]).astype(dtype)
        one, two = const(1.0, dtype), const(2.0, dtype)
        at = (n + one) / two * (length - one) if align else ((n + one) * length - one) / two
        if mode == "nearest":
            scalar_loops()
            at = tirx.nearbyint(at)
        if padding == "zeros":
            return at
        low, high = _borders(length, align, dtype)
        within = tirx.And(at >= low, at <= high)
        other = (
            tirx.max(tirx.min(at, length - one), const(0.0, dtype))
            if padding == "border"
            else _reflect(at, low, high, dtype)
        )
        return tirx.Select(within, at, other)

    where = [c.k.stage(Tensor(points, dtype, lambda *p, a=a: position(a, p))) for a in range(dims)]

    def element(n: Expr, channel: Expr, *p: Expr) -> Expr:
        at = [w(n, *p) for w in where]
        # what is no number or far away must not overflow the integer
        bounded = [tirx.max(tirx.min(a, const(1e9, dtype)), const(-1e9, dtype)) for a in at]
        floors = [(v if mode == "nearest" else tirx.floor(v)) for v in bounded]
        ratios = [v - f for v, f in zip(bounded, floors)]
        total: Expr = None
        for offsets in product(taps, repeat=dims):
            index, valid = [], []
            for a, offset in enumerate(offsets):
                q = floors[a].astype("int64") + offset
                extent = x.shape[2 + a]
                if padding == "reflection":
                    q = _reflected_pixel(q, extent, align, dtype)
                valid.append(inside(q, extent) if padding == "zeros" else True)
                index.append(clamp(q, extent))
            value = x(n, channel, *index).astype(dtype)
            if padding == "zeros":
                value = tirx.Select(every(valid), value, const(0.0, dtype))
            for a, offset in enumerate(offsets):
                if mode != "nearest":
                    value = value * _weight(mode, ratios[a], offset, dtype)
            total = value if total is None else total + value
        return total.astype(x.dtype)

    return Tensor(shape, x.dtype, element)


def _borders(length: Expr, align: bool, dtype: str) -> tuple[Expr, Expr]:
    if align:
        return const(0.0, dtype), length - const(1.0, dtype)
    return const(-0.5, dtype), length - const(0.5, dtype)


def _reflect(at: Expr, low: Expr, high: Expr, dtype: str) -> Expr:
    """Mirrored at the borders until between them."""
    span = high - low
    span = tirx.Select(span > const(0.0, dtype), span, const(1.0, dtype))
    distance = tirx.Select(at < low, low - at, at - high)
    times = tirx.floor(distance / span)
    rest = distance - times * span
    even = tirx.EQ(times - const(2.0, dtype) * tirx.floor(times / const(2.0, dtype)), const(0.0, dtype))
    from_low = tirx.Select(at < low, even, tirx.Not(even))
    mirrored = tirx.Select(from_low, low + rest, high - rest)
    return tirx.Select(tirx.And(at >= low, at <= high), at, mirrored)


def _reflected_pixel(q: Expr, extent: Expr, align: bool, dtype: str) -> Expr:
    low, high = _borders(i64(extent).astype(dtype), align, dtype)
    return tirx.trunc(_reflect(q.astype(dtype), low, high, dtype)).astype("int64")


def _weight(mode: str, ratio: Expr, offset: int, dtype: str) -> Expr:
    d = tirx.abs(const(float(offset), dtype) - ratio)
    if mode == "linear":
        return const(1.0, dtype) - d
    a = -0.75
    if offset in (0, 1):
        return (const(a + 2, dtype) * d - const(a + 3, dtype)) * d * d + const(1.0, dtype)
    return ((const(a, dtype) * d - const(5 * a, dtype)) * d + const(8 * a, dtype)) * d - const(4 * a, dtype)


@lowers("RoiAlign")
def _roi_align(c: LowerContext) -> Lowered:
    x, rois, batches = c.x(0), c.x(1), c.x(2)
    mode = c.attr("mode") or "avg"
    if mode not in ("avg", "max"):
        raise c.unsupported(f"RoiAlign with mode {mode}")
    check_between(c, 2, 0, c.shape(0)[0] - 1, "batch index out of range")
    half = (c.attr("coordinate_transformation_mode") or "half_pixel") == "half_pixel"
    scale, ratio = float(c.attr("spatial_scale")), int(c.attr("sampling_ratio") or 0)
    shape = c.out_shape()
    dtype = "float64" if x.dtype == "float64" else "float32"
    height, width = x.shape[2:]
    code = Code(c.k)
    out = code.scratch(shape, x.dtype)

    def f(value: float) -> Expr:
        return const(float(value), dtype)

    with code.nest(shape) as (n, channel, ph, pw):
        corner = [code.let(rois(n, k).astype(dtype) * f(scale) - f(0.5 if half else 0.0)) for k in range(4)]
        image = code.let(clamp(i64(batches(n)), x.shape[0]))
        bins, grids = [], []
        for axis, count in ((0, shape[3]), (1, shape[2])):
            size = corner[axis + 2] - corner[axis]
            size = code.let(size if half else tirx.max(size, f(1.0)))
            bins.append(code.let(size / i64(count).astype(dtype)))
            grids.append(code.let(i64(ratio) if ratio > 0 else tirx.max(tirx.ceil(bins[axis]).astype("int64"), i64(0))))
        total = code.cell(dtype, f(0.0))
        fresh = code.cell("bool", tirx.const(True, "bool"))
        with code.nest((grids[1], grids[0])) as (iy, ix):
            taps = []
            gone = []
            for axis, (p, i, extent) in enumerate(((pw, ix, width), (ph, iy, height))):
                steps = grids[axis].astype(dtype)
                at = corner[axis] + i64(p).astype(dtype) * bins[axis] + (i.astype(dtype) + f(0.5)) * bins[axis] / steps
                at = code.let(at)
                limit = i64(extent).astype(dtype)
                gone.append(tirx.Or(at < f(-1.0), at > limit))
                inner = code.let(tirx.min(tirx.max(at, f(0.0)), limit - f(1.0)))
                low = code.let(clamp(tirx.floor(inner).astype("int64"), extent))
                part = code.let(inner - low.astype(dtype))
                taps.append(((low, f(1.0) - part), (clamp(low + 1, extent), part)))
            away = code.let(tirx.Or(*gone))
            values = []
            for (y, wy), (q, wx) in product(taps[1], taps[0]):
                value = x(image, channel, y, q).astype(dtype) * (wy * wx)
                # a position far outside counts as the first pixel with weight 0
                values.append(tirx.Select(away, x(image, channel, 0, 0).astype(dtype) * f(0.0), value))
            if mode == "avg":
                total.set(total.get() + (values[0] + values[1] + values[2] + values[3]))
            else:
                best = code.let(tirx.max(tirx.max(values[0], values[1]), tirx.max(values[2], values[3])))
                total.set(tirx.Select(fresh.get(), best, tirx.max(total.get(), best)))
                fresh.set(tirx.const(False, "bool"))
        value = total.get()
        if mode == "avg":
            value = value / tirx.max(grids[0] * grids[1], i64(1)).astype(dtype)
        code.store(out, value.astype(x.dtype), n, channel, ph, pw)
    code.finish()
    return result(out, shape, x.dtype)


@lowers("MaxRoiPool")
def _max_roi_pool(c: LowerContext) -> Lowered:
    """Regions are rounded to pixels; every bin takes the maximum of the pixels that it touches, 0 if none."""
    x, rois = c.x(0), c.x(1)
    scale = float(c.attr("spatial_scale") or 1.0)
    shape = c.out_shape()
    code = Code(c.k)
    out = code.scratch(shape, x.dtype)

    def rounded(value: Expr) -> Expr:
        # half away from zero, as C's round
        return tirx.Select(
            value < 0, tirx.ceil(value - const(0.5, "float32")), tirx.floor(value + const(0.5, "float32"))
        )

    with code.nest(shape) as (n, channel, ph, pw):
        image = code.let(clamp(rois(n, 0).astype("int64"), x.shape[0]))
        spans = []
        for k, p, bins, extent in ((1, pw, shape[3], x.shape[3]), (2, ph, shape[2], x.shape[2])):
            begin = code.let(rounded(rois(n, k).astype("float32") * const(scale, "float32")).astype("int64"))
            end = code.let(rounded(rois(n, k + 2).astype("float32") * const(scale, "float32")).astype("int64"))
            length = tirx.max(end - begin + 1, i64(1)).astype("float32")
            step = code.let(length / i64(bins).astype("float32"))
            first = tirx.floor(i64(p).astype("float32") * step).astype("int64") + begin
            last = tirx.ceil((i64(p) + 1).astype("float32") * step).astype("int64") + begin
            bounded = [code.let(tirx.min(tirx.max(v, i64(0)), i64(extent))) for v in (first, last)]
            spans.append(bounded)
        (left, right), (top, bottom) = spans
        empty = code.let(tirx.Or(right <= left, bottom <= top))
        best = code.cell(x.dtype, tirx.Select(empty, const(0, x.dtype), tirx.min_value(x.dtype)))
        with code.loop(tirx.max(bottom - top, i64(0))) as dy, code.loop(tirx.max(right - left, i64(0))) as dx:
            best.set(tirx.max(best.get(), x(image, channel, top + dy, left + dx)))
        code.store(out, best.get(), n, channel, ph, pw)
    code.finish()
    return result(out, shape, x.dtype)
