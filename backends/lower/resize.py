"""Resize: separable interpolation, one axis after the other.

With known extents positions and weights are tables made when compiling. Where an extent is symbolic they are formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.bounds import refuse_unless
from graphopt.backends.lower.movement import plain_walk
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers, measures
from graphopt.backends.lower.resize_coordinate import DOUBLE, Coordinate, Number, double
from graphopt.backends.lower.resize_tables import AxisForm, AxisTable, axis_table
from graphopt.backends.tensors.imperative import Code
from graphopt.backends.tensors.index import clamp, floordiv, i64, inside
from graphopt.backends.tensors.tensor import Expr, Tensor, as_number, scalar_loops
from graphopt.ir.dims import Dim

STAGED_TAPS = 3
"""From so many taps along an axis on, the axes before it are computed once into scratch memory."""


@dataclass(frozen=True)
class Axis:
    """One axis that changes: which positions an output position reads, with what weight, and whether it lies outside."""

    axis: int
    taps: int
    index: Callable[[Expr, int], Expr]
    weight: Callable[[Expr, int], Expr] | None
    outside: Callable[[Expr], Expr] | None = None
    repeat: int = 0


@lowers("Resize")
def _resize(c: LowerContext) -> Lowered:
    x, shape = c.x(0), c.out_shape()
    axes = _axes(c, _working_dtype(x.dtype))
    if all(a.weight is None for a in axes):
        return _nearest(c, x, axes)
    if c.attr("mode") == "nearest":
        raise c.unsupported("Resize with weights in nearest mode")
    working = _working_dtype(x.dtype)
    current = Tensor(x.shape, working, lambda *i: x(*i).astype(working))
    # the innermost axis first: its scattered loads are the slow ones, and there are fewest of them before the others grow
    for n, axis in enumerate(sorted(axes, key=lambda a: -a.axis)):
        if n and (axis.taps >= STAGED_TAPS or not _shrinks(x.shape[axis.axis], shape[axis.axis])):
            current = c.k.stage(current)
        current = _along(current, axis, shape[axis.axis], working)
    final = current
    return Tensor(shape, x.dtype, lambda *i: _extrapolated(c, axes, i, _rounded(final(*i), x.dtype), x.dtype))


def _shrinks(extent: Expr, out_extent: Expr) -> bool:
    """Whether most positions along an axis are not read at all."""
    return isinstance(extent, int) and isinstance(out_extent, int) and extent > 2 * out_extent


def _working_dtype(dtype: str) -> str:
    return dtype if dtype in ("float32", "float64") else DOUBLE


def _rounded(value: Expr, dtype: str) -> Expr:
    """A weighted sum as the element type; integers to the nearest (ties to even) and saturated, as in ONNX's reference."""
    if dtype.startswith("float"):
        return value.astype(dtype)
    scalar_loops()
    low, high = (const(float(v.value), DOUBLE) for v in (tirx.min_value(dtype), tirx.max_value(dtype)))
    return tirx.nearbyint(tirx.max(tirx.min(value, high), low)).astype(dtype)


def _along(x: Tensor, axis: Axis, extent: Expr, dtype: str) -> Tensor:
    a = axis.axis

    def element(*i: Expr) -> Expr:
        total: Expr = None
        for tap in range(axis.taps):
            value = x(*i[:a], axis.index(i[a], tap), *i[a + 1 :])
            if axis.weight is not None:
                value = value * axis.weight(i[a], tap)
            total = value if total is None else total + value
        return total

    return Tensor((*x.shape[:a], extent, *x.shape[a + 1 :]), dtype, element)


def _nearest(c: LowerContext, x: Tensor, axes: list[Axis]) -> Tensor:
    by_axis = {a.axis: a for a in axes}

    def element(*i: Expr) -> Expr:
        at = [by_axis[n].index(p, 0) if n in by_axis else p for n, p in enumerate(i)]
        return _extrapolated(c, axes, i, x(*at), x.dtype)

    walk = plain_walk(x)
    if walk is not None and all(a.repeat for a in axes):
        # every element repeated along each axis: a copy with twice as many dimensions
        repeats = [by_axis[n].repeat if n in by_axis else 1 for n in range(x.rank)]
        pairs = [((d, r), (s, 0)) for d, r, s in zip(walk.extents, repeats, walk.strides)]
        extents, strides = (tuple(v for pair in pairs for v in pair[k]) for k in (0, 1))
        walk = replace(walk, extents=extents, strides=strides)
    else:
        walk = None
    return Tensor(c.out_shape(), x.dtype, element, walk=walk)


def _extrapolated(c: LowerContext, axes: list[Axis], i: tuple[Expr, ...], value: Expr, dtype: str) -> Expr:
    for axis in axes:
        if axis.outside is not None:
            value = tirx.Select(axis.outside(i[axis.axis]), const(_fill(c, dtype), dtype), value)
    return value


def _fill(c: LowerContext, dtype: str) -> float | int:
    value = float(c.attr("extrapolation_value") or 0.0)
    return value if dtype.startswith("float") else int(value)


def _axes(c: LowerContext, working: str) -> list[Axis]:
    """The axes that change."""
    x, out = c.shape(0), c.node.out.shape
    chosen = [c.axis(int(a), len(x)) for a in c.attr("axes") or range(len(x))]
    transform = c.attr("coordinate_transformation_mode") or "half_pixel"
    form = AxisForm(
        mode=c.attr("mode") or "nearest", transform=transform, nearest=c.attr("nearest_mode") or "round_prefer_floor",
        antialias=bool(c.attr("antialias")), exclude_outside=bool(c.attr("exclude_outside")),
        cubic_a=float(c.attr("cubic_coeff_a")),
    )  # fmt: skip
    if form.mode not in ("nearest", "linear", "cubic"):
        raise c.unsupported(f"Resize with mode {form.mode}")
    if form.antialias and form.mode == "nearest":
        raise c.invalid("Resize with antialias in nearest mode")
    scales, regions = _scales(c, chosen), _regions(c, chosen, transform)
    found = []
    for n, a in enumerate(chosen):
        scale, region = scales[n], regions[n]
        same = scale is None or (isinstance(scale, float) and abs(scale - 1.0) < 1e-9)
        whole = all(isinstance(r, float) and r == e for r, e in zip(region, (0.0, 1.0)))
        if not (same and x[a] == out[a] and whole):
            found.append(_axis(c, a, form, scale, region, working))
    return found


def _regions(c: LowerContext, axes: list[int], transform: str) -> list[tuple[Number, Number]]:
    """Begin and end of the region of interest along each axis."""
    if transform != "tf_crop_and_resize":
        return [(0.0, 1.0)] * len(axes)
    if not c.has(1):
        raise c.invalid("tf_crop_and_resize without roi")
    found, count = c.const(1), len(axes)
    if found is not None:
        flat = found.reshape(-1)
        return [(float(flat[n]), float(flat[n + count])) for n in range(count)]
    roi = c.x(1)
    return [(roi(n).astype(DOUBLE), roi(n + count).astype(DOUBLE)) for n in range(count)]


def _scales(c: LowerContext, axes: list[int]) -> list[Number | None]:
    """Scale of each axis as the node gives it; None for the quotient of the extents."""
    if not c.has(3):
        found = c.const(2)
        if found is not None:
            return [float(s) for s in found.reshape(-1)]
        scales = c.x(2)
        return [scales(n).astype(DOUBLE) for n in range(len(axes))]
    policy = c.attr("keep_aspect_ratio_policy") or "stretch"
    if policy == "stretch":
        return [None] * len(axes)
    sizes, x = list(c.content(3).reshape(-1)), [c.shape(0)[a] for a in axes]
    fixed = [s / d for s, d in zip(sizes, x) if isinstance(s, int) and isinstance(d, int)]
    if len(fixed) == len(axes):
        return [float(min(fixed) if policy == "not_larger" else max(fixed))] * len(axes)
    quotients = [as_number(s, DOUBLE) / as_number(d, DOUBLE) for s, d in zip(c.dims(sizes), c.dims(x))]
    common = quotients[0]
    for q in quotients[1:]:
        common = tirx.min(common, q) if policy == "not_larger" else tirx.max(common, q)
    return [common] * len(axes)


@measures("Resize")
def _measure(c: LowerContext) -> Tensor:
    """Extents that scales or a kept aspect ratio give at run time."""
    rank = c.rank(0)
    axes = [c.axis(int(a), rank) for a in c.attr("axes") or range(rank)]
    scale_of = dict(zip(axes, _scales(c, axes)))
    extents = []
    code = Code(c.k)
    for a in sorted(axes):
        scale = scale_of[a]
        assert scale is not None
        size = as_number(c.k.dim(c.shape(0)[a]), DOUBLE)
        scaled = size * double(scale)
        # scales that are given count in single precision, as in the extents of fixed shapes
        rounded = scaled + double(0.5) if c.has(3) else scaled.astype("float32").astype(DOUBLE)
        # where kernels refuse nothing, each counts for itself: a launch has no variables of another
        extents.append(code.let(tirx.floor(rounded)) if c.k.schedule.calls_back else tirx.floor(rounded))
    code.finish()
    for a, extent in zip(sorted(axes), extents):
        scale = double(scale_of[a])
        possible = tirx.all(scale > double(0.0), extent >= double(0.0), extent < double(2.0**62))
        why = f"the scale of axis {a} is not positive and finite, or gives no extent"
        refuse_unless(c, possible, why, [("scale", scale)])
    extents = [e.astype("int64") for e in extents]
    return Tensor((len(axes),), "int64", lambda i: _by_tap(i, len(extents), lambda n: extents[n]))


def _axis(
    c: LowerContext, a: int, form: AxisForm, scale: Number | None, roi: tuple[Number, Number], working: str
) -> Axis:
    extent, out = c.shape(0)[a], c.node.out.shape[a]
    fixed = (scale is None or isinstance(scale, float)) and all(isinstance(r, float) for r in roi)
    if isinstance(extent, int) and isinstance(out, int) and fixed:
        if extent == 0 and out > 0:
            raise c.invalid("Resize of an empty axis")
        if scale is None:
            form = replace(form, scale=out / max(extent, 1), length=out, roi=roi)
        else:
            form = replace(form, scale=scale, length=scale * extent, roi=roi)
        return _static_axis(c, a, axis_table(form, extent, out), form, extent, working)
    if form.antialias:
        raise c.unsupported("Resize with antialias of a symbolic dimension", "fix the input shapes with --shape")
    return _symbolic_axis(c, a, form, scale, roi, extent, out, working)


def _static_axis(c: LowerContext, a: int, table: AxisTable, form: AxisForm, extent: int, working: str) -> Axis:
    outside = None
    if table.outside.any():
        flags = c.pack(table.outside.astype(np.int8))
        outside = lambda o: tirx.NE(flags(o), const(0, "int8"))  # noqa: E731
    used = [k for k in range(table.weight.shape[1]) if table.weight[:, k].any()] or [0]
    indices = [_position(c, table.index[:, k]) for k in used]
    weight = None
    if form.mode != "nearest":
        packed = c.pack(np.ascontiguousarray(table.weight[:, used].T.astype(working)))
        weight = lambda o, k: packed(k, o)  # noqa: E731
    repeat = _repeats(table.index[:, 0])
    # a copy with repeats reads the whole axis; where it shrinks to what is 0, 1, ... all the same, a part is read
    whole = len(table.index) == repeat * extent
    return Axis(a, len(used), lambda o, k: indices[k](o), weight, outside, repeat if whole else 0)


def _repeats(index: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    """How often every position is repeated, 0 if not evenly."""
    n = int((index == 0).sum())
    return n if n and len(index) % n == 0 and np.array_equal(index, np.arange(len(index)) // n) else 0


def _position(c: LowerContext, index: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Callable[[Expr], Expr]:
    """Where output positions read: a formula if there is a simple one, else a table."""
    n = _repeats(index)
    if n:
        return lambda o: floordiv(o, n)
    if len(index) > 1:
        step, first = int(index[1] - index[0]), int(index[0])
        if np.array_equal(index, np.arange(len(index)) * step + first):
            return lambda o: o * step + first
    table = c.pack(np.ascontiguousarray(index))
    return lambda o: table(o)


def _symbolic_axis(
    c: LowerContext,
    a: int,
    form: AxisForm,
    scale: Number | None,
    roi: tuple[Number, Number],
    extent: Dim,
    out: Dim,
    working: str,
) -> Axis:
    """An axis of symbolic extent, by formulas: as in ``axis_table``, in float32 where they decide between elements."""
    size, out_size = c.k.dim(extent), c.k.dim(out)
    whole = isinstance(scale, float) and scale >= 1 and scale.is_integer()
    upscaled = form.transform == "asymmetric" and form.nearest == "floor"
    upscaled |= form.transform in ("half_pixel", "half_pixel_symmetric") and form.nearest.startswith("round")
    if form.mode == "nearest" and whole and upscaled:
        assert isinstance(scale, float)
        factor = int(scale)
        return Axis(a, 1, lambda o, _: floordiv(o, factor), None, None, factor)

    def staged(dtype: str) -> Tensor:
        return c.k.stage(Tensor((out_size,), DOUBLE, Coordinate(form, scale, roi, i64(size), i64(out_size), dtype)))

    outside = None
    if form.transform == "tf_crop_and_resize" or form.mode == "nearest":
        deciding = staged("float32")
    if form.transform == "tf_crop_and_resize":

        def outside(o: Expr) -> Expr:
            at = deciding(o)
            return tirx.Or(at < double(0), at > as_number(i64(size), DOUBLE) - double(1))

    if form.mode == "nearest":
        rounding = {
            "floor": tirx.floor, "ceil": tirx.ceil, "round_prefer_ceil": lambda v: tirx.floor(v + double(0.5)),
            "round_prefer_floor": lambda v: tirx.ceil(v - double(0.5)),
        }[form.nearest]  # fmt: skip
        return Axis(a, 1, lambda o, _: clamp(rounding(deciding(o)).astype("int64"), size), None, outside)
    coordinate = staged(DOUBLE)
    first = 0 if form.mode == "linear" else -1
    taps = 2 if form.mode == "linear" else 4

    def raw(o: Expr, tap: int) -> Expr:
        return tirx.floor(coordinate(o)).astype("int64") + (first + tap)

    def plain(o: Expr, tap: int) -> Expr:
        at = coordinate(o)
        value = _kernel(form, tirx.abs(double(first + tap) - (at - tirx.floor(at))))
        return tirx.Select(inside(raw(o, tap), size), value, double(0)) if form.exclude_outside else value

    # staged one by one: nested selections make TVM's simplifier slow
    kept = c.k.stage(Tensor((taps, out_size), DOUBLE, lambda k, o: _by_tap(k, taps, lambda t: plain(o, t))))

    def weight(k: Expr, o: Expr) -> Expr:
        if not form.exclude_outside:
            return kept(k, o).astype(working)
        total = kept(0, o)
        for t in range(1, taps):
            total = total + kept(t, o)
        return (kept(k, o) / tirx.Select(tirx.EQ(total, double(0)), double(1), total)).astype(working)

    weights = c.k.stage(Tensor((taps, out_size), working, weight))
    places = c.k.stage(
        Tensor((taps, out_size), "int64", lambda k, o: _by_tap(k, taps, lambda t: clamp(raw(o, t), size)))
    )
    return Axis(a, taps, lambda o, k: places(k, o), lambda o, k: weights(k, o), outside)


def _by_tap(k: Expr, taps: int, of: Callable[[int], Expr]) -> Expr:
    out = of(taps - 1)
    for t in range(taps - 2, -1, -1):
        out = tirx.Select(tirx.EQ(i64(k), i64(t)), of(t), out)
    return out


def _kernel(form: AxisForm, d: Expr) -> Expr:
    if form.mode == "linear":
        return tirx.max(double(1) - d, double(0))
    a = form.cubic_a
    near = (double(a + 2) * d - double(a + 3)) * d * d + double(1)
    far = ((double(a) * d - double(5 * a)) * d + double(8 * a)) * d - double(4 * a)
    return tirx.Select(d <= double(1), near, tirx.Select(d < double(2), far, double(0)))
