"""GridSample: which pixels each point reads along each axis, and with what weights, is found once for all channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.radix import workers_for
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors.imperative import Code, result
from graphopt.backends.tensors.index import clamp, i64, inside, unflatten
from graphopt.backends.tensors.index import product as product_of
from graphopt.backends.tensors.tensor import Expr, Tensor, let, scalar_loops

_CHANNELS = 4
"""Channels that a point is computed for at once: more planes would not stay in L2."""
_TASK = 1024
"""Most points of a task: each is done for a few channels after the other, and its pixels and weights stay in L1."""
_LEAST_TASK = 64
_TAPS = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}


@dataclass(frozen=True)
class _Taps:
    """The pixels of every point along one axis.

    Attributes:
        pixels: positions, negative where there is no pixel and 0 is read.
        weights: of the pixels; None where there is only one.
    """

    pixels: Sequence[Tensor]
    weights: Sequence[Tensor] | None


@dataclass(frozen=True)
class _Sampling:
    """What the node says.

    Attributes:
        mode, padding: as in the operator's newest form.
        align: whether the ends of the grid are the centres of the outermost pixels.
        dtype: of positions and weights.
    """

    mode: str
    padding: str
    align: bool
    dtype: str


@lowers("GridSample")
def _grid_sample(c: LowerContext) -> Lowered:
    x, grid = c.x(0), c.x(1)
    dims = x.rank - 2
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(c.attr("mode"), c.attr("mode") or "linear")
    padding = c.attr("padding_mode") or "zeros"
    if mode not in _TAPS or padding not in ("zeros", "border", "reflection"):
        raise c.unsupported(f"GridSample with mode {mode} and padding_mode {padding}")
    dtype = "float64" if "float64" in (x.dtype, grid.dtype) else "float32"
    sampling = _Sampling(mode, padding, bool(c.attr("align_corners")), dtype)
    # grids name the last axis first
    axes = [_taps(c, sampling, x.shape[2 + a], grid, dims - 1 - a) for a in range(dims)]
    if c.k.schedule.spreads_work:
        return _each_element(c, sampling, axes)
    return _by_points(c, sampling, axes)


def _taps(c: LowerContext, sampling: _Sampling, extent: Expr, grid: Tensor, column: int) -> _Taps:
    """The pixels along an axis."""
    mode, padding, dtype = sampling.mode, sampling.padding, sampling.dtype
    points = grid.shape[:-1]

    def at(*point: Expr) -> Expr:
        """The position, bounded: what is no number or far away must not overflow the integer."""
        position = let(_position(sampling, grid(*point, column).astype(dtype), extent))
        return let(tirx.max(tirx.min(position, const(1e9, dtype)), const(-1e9, dtype)))

    where = c.k.stage(Tensor(points, dtype, at))

    def pixel(offset: int, *point: Expr) -> Expr:
        value = where(*point)
        q = let((value if mode == "nearest" else tirx.floor(value)).astype("int64") + offset)
        if padding == "zeros":
            return tirx.Select(inside(q, extent), q, i64(-1)).astype("int32")
        if padding == "reflection":
            q = _reflected_pixel(q, extent, sampling.align, dtype)
        return clamp(q, extent).astype("int32")

    def weight(offset: int, *point: Expr) -> Expr:
        value = where(*point)
        return _weight(mode, let(value - tirx.floor(value)), offset, dtype)

    taps = _TAPS[mode]
    pixels = [c.k.stage(Tensor(points, "int32", lambda *p, o=o: pixel(o, *p))) for o in taps]
    if mode == "nearest":
        return _Taps(pixels, None)
    return _Taps(pixels, [c.k.stage(Tensor(points, dtype, lambda *p, o=o: weight(o, *p))) for o in taps])


def _position(sampling: _Sampling, n: Expr, extent: Expr) -> Expr:
    """The coordinate that a number of the grid means."""
    dtype, length = sampling.dtype, i64(extent).astype(sampling.dtype)
    one, two = const(1.0, dtype), const(2.0, dtype)
    at = (n + one) / two * (length - one) if sampling.align else ((n + one) * length - one) / two
    if sampling.mode == "nearest":
        scalar_loops()
        at = tirx.nearbyint(at)
    if sampling.padding == "zeros":
        return at
    low, high = _borders(length, sampling.align, dtype)
    within = tirx.And(at >= low, at <= high)
    if sampling.padding == "border":
        return tirx.Select(within, at, tirx.max(tirx.min(at, length - one), const(0.0, dtype)))
    return tirx.Select(within, at, _reflect(at, low, high, dtype))


def _each_element(c: LowerContext, sampling: _Sampling, axes: Sequence[_Taps]) -> Tensor:
    """An element at a time."""
    x, dtype = c.x(0), sampling.dtype

    def element(n: Expr, channel: Expr, *p: Expr) -> Expr:
        total: Expr = None
        for chosen in product(*(range(len(axis.pixels)) for axis in axes)):
            pixels = [let(axis.pixels[k](n, *p)) for axis, k in zip(axes, chosen)]
            index = [tirx.max(q, const(0, "int32")).astype("int64") for q in pixels]
            value = x(n, channel, *index).astype(dtype)
            if sampling.padding == "zeros":
                value = tirx.Select(_any_negative(pixels), const(0.0, dtype), value)
            for axis, k in zip(axes, chosen):
                if axis.weights is not None:
                    value = value * axis.weights[k](n, *p)
            total = value if total is None else total + value
        return total.astype(x.dtype)

    return Tensor(c.out_shape(), x.dtype, element)


def _by_points(c: LowerContext, sampling: _Sampling, axes: Sequence[_Taps]) -> Tensor:
    """A point for several channels at once, so that its pixels and weights stay in registers."""
    x, shape, code = c.x(0), c.out_shape(), Code(c.k)
    points, channels = shape[2:], x.shape[1]
    out = code.scratch(shape, x.dtype)
    count = product_of(points)
    workers = workers_for(code, product_of(shape))
    task_points = _TASK
    if isinstance(count, int) and isinstance(shape[0], int):  # each thread has some to do
        task_points = min(_TASK, max(_LEAST_TASK, -(-count * shape[0] // (2 * workers))))
    tasks = tirx.floordiv(i64(count) + (task_points - 1), i64(task_points))
    together = min(_CHANNELS, channels) if isinstance(channels, int) else 1
    blocks = [(0, channels // together, together)] if isinstance(channels, int) and together else [(0, channels, 1)]
    if isinstance(channels, int) and together and channels % together:
        blocks.append((channels // together * together, 1, channels % together))
    for first, number, width in blocks:
        with code.loop(i64(shape[0]) * tasks, parallel=workers > 1) as task:
            n, start = code.let(tirx.floordiv(task, tasks)), code.let(tirx.floormod(task, tasks) * task_points)
            with code.loop(number) as block, code.loop(tirx.min(i64(count) - start, i64(task_points))) as i:
                at = [code.let(p) for p in unflatten(start + i, points)]
                _point(code, x, sampling, axes, n, at, [first + block * width + b for b in range(width)], out)
    code.finish()
    return result(out, shape, x.dtype)


def _point(
    code: Code, x: Tensor, sampling: _Sampling, axes: Sequence[_Taps], n: Expr, at: Sequence[Expr],
    channels: Sequence[Expr], out: object,
) -> None:  # fmt: skip
    """Emits one point of a few channels."""
    dtype = sampling.dtype
    pixels = [[code.read(tensor, n, *at) for tensor in axis.pixels] for axis in axes]
    weights = [[code.read(tensor, n, *at) for tensor in axis.weights or ()] for axis in axes]
    taps = list(product(*(range(len(axis.pixels)) for axis in axes)))
    factors: list[Expr] = []
    for chosen in taps:
        factor: Expr = None
        for own, k in zip(weights, chosen):
            if own:
                factor = own[k] if factor is None else code.let(factor * own[k])
        factors.append(factor)

    def store(complete: bool) -> None:
        for channel in channels:
            total: Expr = None
            for chosen, factor in zip(taps, factors):
                picked = [own[k] for own, k in zip(pixels, chosen)]
                index = [(q if complete else tirx.max(q, const(0, "int32"))).astype("int64") for q in picked]
                value = code.read(x, n, channel, *index).astype(dtype)
                if not complete:
                    value = code.let(tirx.Select(_any_negative(picked), const(0.0, dtype), value))
                if factor is not None:
                    value = value * factor
                total = value if total is None else total + value
            code.store(out, total.astype(x.dtype), n, channel, *at)

    if sampling.padding != "zeros":
        store(complete=True)
        return
    outside = code.let(_any_negative([q for own in pixels for q in own]))
    with code.when(tirx.Not(outside)):
        store(complete=True)
    with code.when(outside):
        store(complete=False)


def _any_negative(numbers: Sequence[Expr]) -> Expr:
    joined = numbers[0]
    for number in numbers[1:]:
        joined = tirx.bitwise_or(joined, number)
    return joined < const(0, "int32")


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
