"""Operators whose output elements are copies of input elements, chosen by position or by index."""

from __future__ import annotations

import numpy as np

from graphopt.ir.atoms import SymbolKind
from graphopt.ir.dims import Dim, ceildiv, dim_max, dim_min, equal_int, mod, nonnegative, product, where
from graphopt.ir.dims import apply as apply_dim
from graphopt.ir.dtypes import DType
from graphopt.ir.types import Shape, TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.registry import ANY_LAYOUT, CUT, MOVEMENT, PART, register

INT_MAX = 1 << 30
"""Slice bounds beyond this mean "to the end"."""


@register("Transpose", traits=(MOVEMENT,))
def _transpose(c: InferContext) -> list[Type]:
    x = c.shape(0)
    perm = c.attr("perm") or list(range(len(x)))[::-1]
    if sorted(int(p) for p in perm) != list(range(len(x))):
        raise c.invalid(f"perm {list(perm)} is no permutation of {len(x)} axes")
    return [TensorType(c.dtype(0), tuple(x[int(p)] for p in perm))]


@register("Concat", traits=(MOVEMENT, ANY_LAYOUT))
def _concat(c: InferContext) -> list[Type]:
    shapes = [c.shape(i) for i in range(len(c.node.inputs))]
    axis = c.axis(int(c.attr("axis")), len(shapes[0]))
    out = list(shapes[0])
    for s in shapes[1:]:
        if len(s) != len(out):
            raise c.invalid("Concat of tensors of different rank")
        for i, d in enumerate(s):
            if i == axis:
                out[i] = out[i] + d
            else:
                c.assume_equal(out[i], d, "dimensions beside the concatenated axis")
                out[i] = d if isinstance(d, int) else out[i]
    return [TensorType(c.dtype(0), tuple(out))]


def split_sizes(c: InferContext) -> list[Dim]:
    """Extents of a Split's outputs along its axis."""
    axis = c.axis(int(c.attr("axis")), c.rank(0))
    extent = c.shape(0)[axis]
    count = len(c.node.outputs)
    if c.has(1):
        sizes = list(c.content(1).reshape(-1))
        if len(sizes) != count:
            raise c.invalid(f"Split into {len(sizes)} parts with {count} outputs")
        for size in sizes:
            c.assume_at_most(0, size, "sizes of Split")
        c.assume_equal(sum(sizes, start=0), extent, "sum of the sizes of Split")
        return sizes
    count = int(c.attr("num_outputs") or count)
    part = ceildiv(extent, count)
    c.assume_at_most(part * (count - 1), extent, f"Split into {count} parts")
    return [part] * (count - 1) + [extent - part * (count - 1)]


@register("Split", traits=(MOVEMENT, CUT, PART))
def _split(c: InferContext) -> list[Type]:
    x = c.shape(0)
    axis = c.axis(int(c.attr("axis")), len(x))
    return [TensorType(c.dtype(0), (*x[:axis], s, *x[axis + 1 :])) for s in split_sizes(c)]


def slice_bounds(c: InferContext) -> list[tuple[Dim, Dim, Dim]]:
    """(first index, extent, step) for every axis of a Slice, clamped as ONNX says."""
    x = c.shape(0)
    starts, ends = list(c.content(1).reshape(-1)), list(c.content(2).reshape(-1))
    axes: list[Dim] = list(c.content(3).reshape(-1)) if c.has(3) else list(range(len(starts)))
    steps: list[Dim] = list(c.content(4).reshape(-1)) if c.has(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise c.invalid("Slice with operands of different lengths")
    out: list[tuple[Dim, Dim, Dim]] = [(0, d, 1) for d in x]
    for start, end, axis, step in zip(starts, ends, axes, steps):
        c.assume_not(step, 0, "step of Slice")
        if isinstance(axis, int):
            axis = c.axis(axis, len(x))
            out[axis] = _slice_axis(start, end, step, x[axis])
            continue
        _assume_axis(c, axis, len(x))
        for i, d in enumerate(x):  # which axis it is turns out at run time
            here = where(equal_int(axis, i), 1, equal_int(axis, i - len(x)))
            first, extent, by = _slice_axis(start, end, step, d)
            out[i] = (where(here, first, out[i][0]), where(here, extent, out[i][1]), where(here, by, out[i][2]))
    return out


def _assume_axis(c: InferContext, axis: Dim, rank: int) -> None:
    c.assume_at_most(-rank, axis, "axis")
    c.assume_at_most(axis, rank - 1, "axis")


def _slice_axis(start: Dim, end: Dim, step: Dim, extent: Dim) -> tuple[Dim, Dim, Dim]:
    if not isinstance(step, int):
        backward = apply_dim("lt", step, 0)
        low, high = where(backward, -1, 0), where(backward, extent - 1, extent)
        first, last = _clamp_at_run_time(start, extent, low, high), _clamp_at_run_time(end, extent, low, high)
        return first, dim_max(-((first - last) // step), 0), step
    low, high = (0, extent) if step > 0 else (-1, extent - 1)
    first, last = _clamp(start, extent, low, high), _clamp(end, extent, low, high)
    span = last - first if step > 0 else first - last
    count = -((-span) // abs(step))
    return first, count if nonnegative(count) else dim_max(count, 0), step


def _clamp_at_run_time(index: Dim, extent: Dim, low: Dim, high: Dim) -> Dim:
    absolute = where(apply_dim("lt", index, 0), index + extent, index)
    return dim_min(dim_max(absolute, low), high)


def _clamp(index: Dim, extent: Dim, low: Dim, high: Dim) -> Dim:
    if isinstance(index, int):
        if index >= INT_MAX:
            return high
        if index < -INT_MAX:
            return low
        if index == 0 and low == 0:
            return 0
        absolute = index + extent if index < 0 else index
    else:
        absolute = index if nonnegative(index) else where(apply_dim("lt", index, 0), index + extent, index)
    return dim_min(absolute if low == 0 and nonnegative(absolute) else dim_max(absolute, low), high)


@register("Slice", traits=(MOVEMENT, CUT, PART))
def _slice(c: InferContext) -> list[Type]:
    return [TensorType(c.dtype(0), tuple(extent for _, extent, _ in slice_bounds(c)))]


@register("Gather", traits=(MOVEMENT, PART))
def _gather(c: InferContext) -> list[Type]:
    x, i = c.shape(0), c.shape(1)
    axis = c.axis(int(c.attr("axis")), len(x))
    return [TensorType(c.dtype(0), (*x[:axis], *i, *x[axis + 1 :]))]


@register("GatherElements", traits=(PART,))
def _gather_elements(c: InferContext) -> list[Type]:
    x, i = c.shape(0), c.shape(1)
    axis = c.axis(int(c.attr("axis")), len(x))
    _assume_within(c, i, x, axis)
    return [TensorType(c.dtype(0), c.shape(1))]


@register("GatherND", traits=(PART,))
def _gather_nd(c: InferContext) -> list[Type]:
    x, i = c.shape(0), c.shape(1)
    batch = int(c.attr("batch_dims") or 0)
    if not i or not isinstance(i[-1], int):
        raise c.unsupported("GatherND with index tuples of unknown length")
    if not 0 <= batch < min(len(x), len(i)) or not 1 <= i[-1] <= len(x) - batch:
        raise c.invalid(f"index tuples of {i[-1]} after {batch} batch dimensions do not fit data of rank {len(x)}")
    for a, b in zip(x[:batch], i[:batch]):
        c.assume_equal(a, b, "batch dimensions of data and indices")
    return [TensorType(c.dtype(0), (*i[:-1], *x[batch + i[-1] :]))]


@register("ScatterND")
def _scatter_nd(c: InferContext) -> list[Type]:
    x, i, updates = c.shape(0), c.shape(1), c.shape(2)
    if not isinstance(i[-1], int):
        raise c.unsupported("ScatterND with index tuples of unknown length")
    if not 0 <= i[-1] <= len(x):
        raise c.invalid(f"index tuples of {i[-1]} do not fit data of rank {len(x)}")
    wanted = (*i[:-1], *x[i[-1] :])
    if len(updates) != len(wanted):
        raise c.invalid(f"updates of rank {len(updates)} where the indices and data ask for rank {len(wanted)}")
    for a, b in zip(updates, wanted):
        c.assume_equal(a, b, "updates of the shape that indices and data ask for")
    return [c.type(0)]


def _assume_within(c: InferContext, indices: Shape, x: Shape, axis: int) -> None:
    """Indices of elements are as many as the data has, or fewer, along every axis but the one that they pick from."""
    if len(indices) != len(x):
        raise c.invalid(f"indices of rank {len(indices)} for data of rank {len(x)}")
    for a, (have, most) in enumerate(zip(indices, x)):
        if a != axis:
            c.assume_at_most(have, most, f"indices along axis {a}")


@register("ScatterElements")
def _scatter_elements(c: InferContext) -> list[Type]:
    x, i = c.shape(0), c.shape(1)
    _assume_within(c, i, x, c.axis(int(c.attr("axis")), len(x)))
    c.assume_shape(2, i, "updates of ScatterElements")
    return [c.type(0)]


@register("ReverseSequence")
def _reverse_sequence(c: InferContext) -> list[Type]:
    x = c.shape(0)
    c.assume_shape(1, (x[c.axis(int(c.attr("batch_axis")), len(x))],), "lengths of the sequences")
    return [c.type(0)]


@register("TensorScatter")
def _tensor_scatter(c: InferContext) -> list[Type]:
    x, updates = c.shape(0), c.shape(1)
    if len(x) != len(updates):
        raise c.invalid(f"TensorScatter of rank {len(updates)} into rank {len(x)}")
    axis = c.axis(int(c.attr("axis")), len(x))
    for a, (have, want) in enumerate(zip(updates, x)):
        if a == axis:
            c.assume_at_most(have, want, "extent of the update")
        else:
            c.assume_equal(have, want, "extents of the update")
    c.assume_shape(2, x[:1], "positions of the update")
    return [c.type(0)]


def pad_amounts(c: InferContext) -> list[tuple[Dim, Dim]]:
    """(before, after) for every axis of a Pad."""
    rank = c.rank(0)
    pads = list(c.content(1).reshape(-1))
    axes: list[Dim] = list(c.content(3).reshape(-1)) if c.has(3) else list(range(rank))
    if len(pads) != 2 * len(axes):
        raise c.invalid(f"Pad of {len(axes)} axes with {len(pads)} amounts")
    out: list[tuple[Dim, Dim]] = [(0, 0)] * rank
    for i, a in enumerate(axes):
        before, after = pads[i], pads[i + len(axes)]
        if isinstance(a, int):
            out[c.axis(a, rank)] = (before, after)
            continue
        _assume_axis(c, a, rank)
        for n in range(rank):  # which axis it is turns out at run time
            here = where(equal_int(a, n), 1, equal_int(a, n - rank))
            out[n] = (where(here, before, out[n][0]), where(here, after, out[n][1]))
    return out


@register("Pad")
def _pad(c: InferContext) -> list[Type]:
    return [TensorType(c.dtype(0), tuple(d + b + e for d, (b, e) in zip(c.shape(0), pad_amounts(c))))]


@register("DepthToSpace", traits=(MOVEMENT,))
def _depth_to_space(c: InferContext) -> list[Type]:
    n, ch, h, w = c.shape(0)
    b = int(c.attr("blocksize"))
    c.assume_equal(mod(ch, b * b), 0, "channels and the square of the block size")
    return [TensorType(c.dtype(0), (n, ch // (b * b), h * b, w * b))]


@register("SpaceToDepth", traits=(MOVEMENT,))
def _space_to_depth(c: InferContext) -> list[Type]:
    n, ch, h, w = c.shape(0)
    b = int(c.attr("blocksize"))
    for d in (h, w):
        c.assume_equal(mod(d, b), 0, "extent and block size")
    return [TensorType(c.dtype(0), (n, ch * b * b, h // b, w // b))]


def resize_shape(c: InferContext) -> Shape:
    """Output shape of Resize (10 and later, in the form with roi, scales and sizes)."""
    x = list(c.shape(0))
    axes = [c.axis(int(a), len(x)) for a in c.attr("axes") or range(len(x))]
    for i, name in ((3, "size"),) if c.has(3) else ((2, "scale"),):
        c.assume_equal(product(c.shape(i)), len(axes), f"one {name} for each axis of Resize")
    if c.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        c.assume_equal(product(c.shape(1)), 2 * len(axes), "first and last position for each axis of Resize")
    if c.has(3):
        sizes = list(c.content(3).reshape(-1))
        policy = c.attr("keep_aspect_ratio_policy") or "stretch"
        if policy != "stretch":
            targets = [s for s in sizes if isinstance(s, int)]
            extents = [d for a in axes if isinstance(d := x[a], int)]
            if not len(targets) == len(extents) == len(axes):
                return _measured(c, x, axes)
            pick = min if policy == "not_larger" else max
            scale = pick(s / d for s, d in zip(targets, extents))
            sizes = [int(np.floor(scale * d + 0.5)) for d in extents]
        for s, a in zip(sizes, axes):
            x[a] = s
        return tuple(x)
    found = c.const(2)
    if found is None:
        return _measured(c, x, axes)
    scales = found.reshape(-1)
    if not all(np.isfinite(s) and s > 0 for s in scales):
        raise c.invalid(f"Resize with the scales {[float(s) for s in scales]}")
    for s, a in zip(scales, axes):
        d = x[a]
        if isinstance(d, int):
            # in single precision, as runtimes compute it: 0.7 of 10 is 7, although the float32 nearest to 0.7 is below it
            x[a] = int(np.floor(np.float32(d) * np.float32(s)))
        elif float(s) == int(s):
            x[a] = d * int(s)
        elif float(1 / s) == int(1 / s):
            x[a] = d // int(1 / s)
        else:
            return _measured(c, list(c.shape(0)), axes)
    return tuple(x)


def _measured(c: InferContext, x: list[Dim], axes: list[int]) -> Shape:
    """Extents that floating-point arithmetic gives at run time."""
    for a in axes:
        x[a] = c.graph.fresh_symbol("u", SymbolKind.measured)
    return tuple(x)


@register("Resize", traits=(ANY_LAYOUT,))
def _resize(c: InferContext) -> list[Type]:
    return [TensorType(c.dtype(0), resize_shape(c))]


@register("TopK")
def _topk(c: InferContext) -> list[Type]:
    x = list(c.shape(0))
    axis = c.axis(int(c.attr("axis")), len(x))
    k: Dim = c.content(1).reshape(-1)[0]
    c.assume_at_most(0, k, "k of TopK")
    c.assume_at_most(k, x[axis], "k of TopK and the extent of its axis")
    x[axis] = k
    return [TensorType(c.dtype(0), tuple(x)), TensorType(DType.i64, tuple(x))]


@register("OneHot")
def _one_hot(c: InferContext) -> list[Type]:
    i = c.shape(0)
    c.assume_shape(2, (2,), "values of OneHot")
    depth = c.const(1)
    extent: Dim = c.content(1).reshape(-1)[0] if depth is None else int(np.asarray(depth).reshape(-1)[0])
    axis = c.axis(int(c.attr("axis")), len(i), extent=1)
    return [TensorType(c.dtype(2), (*i[:axis], extent, *i[axis:]))]


@register("NonZero")
def _nonzero(c: InferContext) -> list[Type]:
    return [TensorType(DType.i64, (c.rank(0), c.graph.fresh_symbol("u", SymbolKind.measured)))]
