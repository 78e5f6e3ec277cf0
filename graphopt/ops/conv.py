"""Convolutions: windows with strides, dilations and explicit or automatic padding."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.dims import Dim, ceildiv, dim_max, dim_min
from graphopt.ir.dtypes import DType
from graphopt.ir.types import Shape, TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.registry import ANCHOR, register


@dataclass(frozen=True)
class Window:
    """A sliding window over the spatial axes.

    Attributes:
        pads_begin, pads_end: explicit padding an axis, automatic padding resolved (may be symbolic for SAME_*).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[Dim, ...]
    pads_end: tuple[Dim, ...]

    def out_extent(self, axis: int, extent: Dim, ceil_mode: bool = False) -> Dim:
        """Output positions along a spatial axis (ONNX Conv and pooling formulas)."""
        reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        span = extent + self.pads_begin[axis] + self.pads_end[axis] - reach
        if not ceil_mode:
            return span // self.strides[axis] + 1
        out = ceildiv(span, self.strides[axis]) + 1
        end = self.pads_end[axis]
        if isinstance(end, int) and reach >= end + self.strides[axis]:
            return out
        # a last window that starts in the end padding is dropped
        return dim_min(out, ceildiv(extent + self.pads_begin[axis], self.strides[axis]))


def window_of(c: InferContext, kernel: tuple[int, ...], spatial: Shape) -> Window:
    """Read strides, dilations, pads and auto_pad."""
    n = len(kernel)
    strides = tuple(int(s) for s in c.attr("strides") or [1] * n)
    dilations = tuple(int(d) for d in c.attr("dilations") or [1] * n)
    pads = [int(p) for p in c.attr("pads") or [0] * 2 * n]
    if len(strides) != n or len(dilations) != n or len(pads) != 2 * n or len(spatial) != n:
        raise c.invalid(f"strides, dilations or pads do not fit a kernel of {n} spatial axes")
    if min(strides, default=1) < 1 or min(dilations, default=1) < 1 or min(kernel, default=1) < 1:
        raise c.invalid("strides, dilations and kernel extents must be positive")
    begin: list[Dim] = list(pads[:n])
    end: list[Dim] = list(pads[n:])
    mode = c.attr("auto_pad") or "NOTSET"
    if mode == "VALID":
        begin, end = [0] * n, [0] * n
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        for i in range(n):
            reach = (kernel[i] - 1) * dilations[i] + 1
            out = ceildiv(spatial[i], strides[i])
            total = dim_max((out - 1) * strides[i] + reach - spatial[i], 0)
            small = total // 2
            begin[i], end[i] = (small, total - small) if mode == "SAME_UPPER" else (total - small, small)
    elif mode != "NOTSET":
        raise c.invalid(f"auto_pad={mode} is not defined")
    return Window(kernel, strides, dilations, tuple(begin), tuple(end))


def kernel_extents(c: InferContext, weight: Shape) -> tuple[int, ...]:
    """Spatial extents of a convolution's weight."""
    kernel = tuple(k for k in weight[2:] if isinstance(k, int))
    if len(kernel) != len(weight) - 2:
        raise c.unsupported(
            "the kernel's spatial extents are not known when compiling", "make the weight's shape static"
        )
    return kernel


def conv_window(c: InferContext, data: int = 0, weight: int = 1) -> Window:
    """The window of a convolution whose weight is input ``weight``."""
    kernel = kernel_extents(c, c.shape(weight))
    declared = c.attr("kernel_shape")
    if declared and tuple(declared) != kernel:
        raise c.invalid(f"kernel_shape {list(declared)} differs from the weight's {list(kernel)}")
    return window_of(c, kernel, c.shape(data)[2:])


def _conv_shape(c: InferContext, data: int, weight: int) -> Shape:
    x, w = c.shape(data), c.shape(weight)
    if len(x) != len(w) or len(x) < 3:
        raise c.invalid(f"convolution of rank {len(x)} data with a rank {len(w)} weight")
    group = int(c.attr("group") or 1)
    c.assume_equal(x[1], w[1] * group, "input channels = weight channels x group")
    window = conv_window(c, data, weight)
    return (x[0], w[0], *(window.out_extent(i, d) for i, d in enumerate(x[2:])))


@register("Conv", traits=(ANCHOR,))
def _conv(c: InferContext) -> list[Type]:
    return [TensorType(c.dtype(0), _conv_shape(c, 0, 1))]


@register("ConvInteger", traits=(ANCHOR,))
def _conv_integer(c: InferContext) -> list[Type]:
    return [TensorType(DType.i32, _conv_shape(c, 0, 1))]


@register("QLinearConv", traits=(ANCHOR,))
def _qlinear_conv(c: InferContext) -> list[Type]:
    return [TensorType(c.dtype(7), _conv_shape(c, 0, 3))]


@dataclass(frozen=True)
class TransposedWindow:
    """A transposed convolution's geometry with padding resolved."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[Dim, ...]
    pads_end: tuple[Dim, ...]
    out: tuple[Dim, ...]


def transposed_window(c: InferContext) -> TransposedWindow:
    """Geometry of ConvTranspose, following the ONNX specification for output_shape and auto_pad."""
    x, w = c.shape(0), c.shape(1)
    n = len(x) - 2
    kernel = kernel_extents(c, w)
    strides = tuple(int(s) for s in c.attr("strides") or [1] * n)
    dilations = tuple(int(d) for d in c.attr("dilations") or [1] * n)
    pads = [int(p) for p in c.attr("pads") or [0] * 2 * n]
    extra = [int(p) for p in c.attr("output_padding") or [0] * n]
    begin: list[Dim] = list(pads[:n])
    end: list[Dim] = list(pads[n:])
    wanted = c.attr("output_shape")
    mode = c.attr("auto_pad") or "NOTSET"
    out: list[Dim] = []
    for i in range(n):
        full = (x[2 + i] - 1) * strides[i] + extra[i] + (kernel[i] - 1) * dilations[i] + 1
        if wanted or mode in ("SAME_UPPER", "SAME_LOWER"):
            target: Dim = int(wanted[-n + i]) if wanted else x[2 + i] * strides[i]
            total = dim_max(full - target, 0) if wanted else full - target
            small = total // 2
            begin[i], end[i] = (small, total - small) if mode == "SAME_UPPER" else (total - small, small)
            out.append(target)
            continue
        if mode == "VALID":
            begin[i] = end[i] = 0
        out.append(full - begin[i] - end[i])
    return TransposedWindow(kernel, strides, dilations, tuple(begin), tuple(end), tuple(out))


@register("ConvTranspose", traits=(ANCHOR,))
def _conv_transpose(c: InferContext) -> list[Type]:
    x, w = c.shape(0), c.shape(1)
    group = int(c.attr("group") or 1)
    c.assume_equal(x[1], w[0], "input channels = weight's first extent")
    return [TensorType(c.dtype(0), (x[0], w[1] * group, *transposed_window(c).out))]
