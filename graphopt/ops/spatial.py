"""Sampling, regions of interest and other operators on images."""

from __future__ import annotations

from graphopt.ir.atoms import SymbolKind
from graphopt.ir.dims import Dim, floordiv, mod, product
from graphopt.ir.dtypes import DType
from graphopt.ir.types import TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.conv import kernel_extents, window_of
from graphopt.ops.registry import ANCHOR, PART, REDUCTION, register


@register("RoiAlign", traits=(REDUCTION, PART))
def _roi_align(c: InferContext) -> list[Type]:
    height, width = int(c.attr("output_height")), int(c.attr("output_width"))
    c.assume_shape(2, c.shape(1)[:1], "rois and batch indices")
    c.assume_equal(c.shape(1)[-1], 4, "coordinates of a region")
    return [TensorType(c.dtype(0), (c.shape(1)[0], c.shape(0)[1], height, width))]


@register("MaxRoiPool", traits=(REDUCTION,))
def _max_roi_pool(c: InferContext) -> list[Type]:
    c.assume_equal(c.shape(1)[-1], 5, "batch index and coordinates of a region")
    return [TensorType(c.dtype(0), (c.shape(1)[0], c.shape(0)[1], *(int(p) for p in c.attr("pooled_shape"))))]


@register("NonMaxSuppression")
def _nms(c: InferContext) -> list[Type]:
    boxes, scores = c.shape(0), c.shape(1)
    if len(boxes) != 3 or len(scores) != 3:
        raise c.invalid(f"NonMaxSuppression of boxes of rank {len(boxes)} and scores of rank {len(scores)}")
    c.assume_equal(boxes[0], scores[0], "batches of boxes and scores")
    c.assume_equal(boxes[1], scores[2], "number of boxes and scores")
    c.assume_equal(boxes[2], 4, "coordinates of a box")
    return [TensorType(DType.i64, (c.graph.fresh_symbol("u", SymbolKind.measured), 3))]


@register("GridSample")
def _grid_sample(c: InferContext) -> list[Type]:
    x, grid = c.shape(0), c.shape(1)
    if len(x) != len(grid) or len(x) < 3:
        raise c.invalid(f"GridSample of rank {len(x)} data with a rank {len(grid)} grid")
    c.assume_equal(x[0], grid[0], "batches of data and grid")
    c.assume_equal(grid[-1], len(x) - 2, "grid coordinates per point")
    return [TensorType(c.dtype(0), (*x[:2], *grid[1:-1]))]


@register("AffineGrid")
def _affine_grid(c: InferContext) -> list[Type]:
    size = list(c.content(1).reshape(-1))
    if len(size) not in (4, 5):
        raise c.invalid(f"AffineGrid with a size of {len(size)} elements")
    c.assume_shape(0, (size[0], len(size) - 2, len(size) - 1), "matrices of AffineGrid")
    return [TensorType(c.dtype(0), (size[0], *size[2:], len(size) - 2))]


@register("DeformConv", traits=(ANCHOR,))
def _deform_conv(c: InferContext) -> list[Type]:
    x, w, offset = c.shape(0), c.shape(1), c.shape(2)
    window = window_of(c, kernel_extents(c, w), x[2:])
    out = tuple(window.out_extent(i, d) for i, d in enumerate(x[2:]))
    for have, want in zip(offset[2:], out):
        c.assume_equal(have, want, "extents of the offsets and of the output")
    return [TensorType(c.dtype(0), (x[0], w[0], *out))]


@register("Col2Im")
def _col2im(c: InferContext) -> list[Type]:
    x = c.shape(0)
    image, block = c.content(1).reshape(-1), c.content(2).reshape(-1)
    n = len(image)
    strides, dilations = ([int(v) for v in c.attr(name) or [1] * n] for name in ("strides", "dilations"))
    pads = [int(p) for p in c.attr("pads") or [0] * 2 * n]
    if not len(block) == len(strides) == len(dilations) == n or len(pads) != 2 * n or min(strides, default=1) < 1:
        raise c.invalid(f"block, strides, dilations or pads of Col2Im do not fit an image of {n} axes")
    windows: list[Dim] = []
    for i in range(n):
        room = image[i] + pads[i] + pads[n + i] - ((block[i] - 1) * dilations[i] + 1)
        c.assume_at_most(1, block[i], "block of Col2Im")
        c.assume_at_most(0, room, "block and image of Col2Im")
        windows.append(floordiv(room, strides[i]) + 1)
    c.assume_equal(x[2], product(windows), "columns and positions of the block in Col2Im")
    c.assume_equal(mod(x[1], product(block)), 0, "channels and elements of the block in Col2Im")
    return [TensorType(c.dtype(0), (x[0], floordiv(x[1], product(block)), *image))]


@register("MaxUnpool")
def _max_unpool(c: InferContext) -> list[Type]:
    x = c.shape(0)
    c.assume_shape(1, x, "indices of MaxUnpool")
    if c.has(2):
        return [TensorType(c.dtype(0), tuple(c.content(2).reshape(-1)))]
    n = len(x) - 2
    kernel = [int(k) for k in c.attr("kernel_shape")]
    strides = [int(s) for s in c.attr("strides") or [1] * n]
    pads = [int(p) for p in c.attr("pads") or [0] * 2 * n]
    if not len(kernel) == len(strides) == n or len(pads) != 2 * n:
        raise c.invalid(f"kernel_shape, strides or pads do not fit data of rank {len(x)}")
    out = ((d - 1) * strides[i] + kernel[i] - pads[i] - pads[n + i] for i, d in enumerate(x[2:]))
    return [TensorType(c.dtype(0), (*x[:2], *out))]


@register("CenterCropPad", traits=(PART,))
def _center_crop_pad(c: InferContext) -> list[Type]:
    out: list[Dim] = list(c.shape(0))
    wanted = list(c.content(1).reshape(-1))
    axes = [c.axis(int(a), len(out)) for a in c.attr("axes") or range(len(out))]
    if len(wanted) != len(axes):
        raise c.invalid(f"CenterCropPad of {len(axes)} axes with {len(wanted)} extents")
    for axis, extent in zip(axes, wanted):
        out[axis] = extent
    return [TensorType(c.dtype(0), tuple(out))]


@register("Det", traits=(REDUCTION,))
def _det(c: InferContext) -> list[Type]:
    x = c.shape(0)
    if len(x) < 2:
        raise c.invalid("Det needs matrices")
    c.assume_equal(x[-1], x[-2], "Det of square matrices")
    return [TensorType(c.dtype(0), x[:-2])]
