"""Convolutions: windows with strides, dilations and explicit or automatic padding."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.dims import Dim, ceildiv, dim_max, dim_min
from graphopt.ir.dtypes import DType
from graphopt.ir.types import Shape, TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.registry import ANCHOR, BIAS, CONVOLUTION, LINEAR, WHOLE_SUMS, register

MAX_WINDOW = 1 << 31
"""Strides, paddings and the like beyond it are damage, and overflow when multiplied."""


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
    strides, dilations = extents_attr(c, "strides", n), extents_attr(c, "dilations", n)
    pads = window_attr(c, "pads", 2 * n, 0)
    if len(spatial) != n:
        raise c.invalid(f"a kernel of {n} spatial axes does not fit data of {len(spatial)}")
    if min(kernel, default=1) < 1 or max(kernel, default=1) > MAX_WINDOW:
        raise c.invalid(f"kernel extents {list(kernel)} must be positive, and at most {MAX_WINDOW}")
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


def window_attr(c: InferContext, name: str, count: int, default: int) -> tuple[int, ...]:
    """``count`` integers of an attribute, or as many times ``default``.

    Raises:
        ModelError: another number of them, or one so large that extents overflow.
    """
    found = tuple(int(v) for v in c.attr(name) or [default] * count)
    if len(found) != count:
        raise c.invalid(f"{name}={list(found)} has {len(found)} values where {count} are needed")
    if any(abs(v) > MAX_WINDOW for v in found):
        raise c.invalid(f"{name}={list(found)}: values beyond {MAX_WINDOW} make no sense")
    return found


def extents_attr(c: InferContext, name: str, count: int) -> tuple[int, ...]:
    """Like ``window_attr`` with values of at least 1, which is the default."""
    found = window_attr(c, name, count, 1)
    if min(found, default=1) < 1:
        raise c.invalid(f"{name}={list(found)} must be positive")
    return found


def groups_of(c: InferContext, weight_channels: Dim) -> int:
    """The attribute ``group``.

    Raises:
        ModelError: not positive, or it doesn't divide ``weight_channels``.
    """
    group = int(c.node.attrs.get("group", 1))
    if group < 1 or (isinstance(weight_channels, int) and weight_channels % group):
        raise c.invalid(f"group={group} does not fit a weight of {weight_channels} channels")
    return group


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
    c.assume_equal(x[1], w[1] * groups_of(c, w[0]), "input channels = weight channels x group")
    window = conv_window(c, data, weight)
    assume_windows(c, window, x[2:])
    return (x[0], w[0], *(window.out_extent(i, d) for i, d in enumerate(x[2:])))


def assume_windows(c: InferContext, window: Window, spatial: Shape, ceil_mode: bool = False) -> None:
    """Record that there is a window along every axis of unknown extent.

    It fits into the padded data, or with ``ceil_mode`` reaches beyond it by less than a stride.
    """
    for i, d in enumerate(spatial):
        if not isinstance(d, int):
            reach = (window.kernel[i] - 1) * window.dilations[i] + 1
            room = d + window.pads_begin[i] + window.pads_end[i]
            beyond = window.strides[i] - 1 if ceil_mode else 0
            c.assume_at_most(reach, room + beyond, "the window and the padded data")


@register("Conv", traits=(ANCHOR, LINEAR, CONVOLUTION, WHOLE_SUMS, BIAS))
def _conv(c: InferContext) -> list[Type]:
    if c.has(2):
        c.assume_equal(c.shape(2)[0], c.shape(1)[0], "one bias for each output channel")
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
    declared = c.attr("kernel_shape")
    if (declared and tuple(declared) != kernel) or min(kernel) < 1:
        raise c.invalid(f"kernel_shape {list(declared or kernel)} does not fit the weight's {list(kernel)}")
    strides, dilations = extents_attr(c, "strides", n), extents_attr(c, "dilations", n)
    pads = window_attr(c, "pads", 2 * n, 0)
    extra = window_attr(c, "output_padding", n, 0)
    if min(extra) < 0:
        raise c.invalid(f"output_padding={list(extra)} is negative")
    begin: list[Dim] = list(pads[:n])
    end: list[Dim] = list(pads[n:])
    wanted = c.attr("output_shape")
    if wanted:  # spatial axes, or all of them
        wanted = window_attr(c, "output_shape", len(x) if len(wanted) == len(x) else n, 0)
    mode = c.attr("auto_pad") or "NOTSET"
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise c.invalid(f"auto_pad={mode} is not defined")
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


@register("ConvTranspose", traits=(ANCHOR, LINEAR, CONVOLUTION, BIAS))
def _conv_transpose(c: InferContext) -> list[Type]:
    x, w = c.shape(0), c.shape(1)
    group = groups_of(c, w[0])
    c.assume_equal(x[1], w[0], "input channels = weight's first extent")
    if c.has(2):
        c.assume_equal(c.shape(2)[0], w[1] * group, "one bias for each output channel")
    return [TensorType(c.dtype(0), (x[0], w[1] * group, *transposed_window(c).out))]
