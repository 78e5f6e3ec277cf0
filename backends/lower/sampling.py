"""Pooling of regions at computed positions: RoiAlign, MaxRoiPool."""

from __future__ import annotations

from itertools import product

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.bounds import check_between
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors.imperative import Code, result
from graphopt.backends.tensors.index import clamp, i64
from graphopt.backends.tensors.tensor import Expr


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
