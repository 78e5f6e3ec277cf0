"""Pooling over windows as a problem of kernels: its specification, whatever the target."""

from __future__ import annotations

import math
from typing import Any

from graphopt.backends.base.template import KernelCall
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.pooling import PoolSpec
from graphopt.backends.specs.slices import Slices
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.specs.window import Window as Sliding
from graphopt.backends.templates.assumed_plane import assumed_plane
from graphopt.backends.templates.kernel_types import greatest_types
from graphopt.backends.templates.whole_maxima import bytes_compared
from graphopt.backends.templates.whole_sums import types_of_sums
from graphopt.ir.dims import Dim, SymExpr
from graphopt.ir.graph import Value
from graphopt.ops.context import InferContext, attr
from graphopt.ops.pool import pool_window


def pool_types(call: KernelCall) -> tuple[KernelTypes, Value | None]:
    """Of a kernel's operands, and the scale of its results: means of dequantized bytes are those of whole numbers."""
    node = call.group.anchor
    x = node.inputs[0]
    assert x is not None
    byte = bytes_compared(call, x)
    if byte is not None:
        return KernelTypes(byte, byte, byte, byte), None
    if node.op == "AveragePool":
        return types_of_sums(call, x, math.prod(attr(node, "kernel_shape")))
    if node.op != "GlobalAveragePool":
        return greatest_types(call, x), None
    extents = [d for d in x.shape[2:] if isinstance(d, int)]
    return types_of_sums(call, x, math.prod(extents) if len(extents) == len(x.shape) - 2 else None)


def pool_of(call: KernelCall) -> tuple[PoolSpec, dict[Dim, Any]]:
    """The kernel's specification and its expressions for the symbolic dimensions.

    Raises:
        UnsupportedOpError: padding or rounding depends on a symbolic size.
    """
    node = call.group.anchor
    assert node.graph is not None
    context = InferContext(node, node.graph)
    window = pool_window(context)
    x = context.value(0)
    dims: dict[Dim, Any] = {}

    def extent(dim: Dim, name: str) -> Any:
        if isinstance(dim, int):
            return dim
        if dim not in dims:
            dims[dim] = tirx.Var(name, "int64")
        return dims[dim]

    if not all(isinstance(p, int) for p in (*window.pads_begin, *window.pads_end)):
        raise context.unsupported("padding that depends on a symbolic size")
    begin, end = [int(p) for p in window.pads_begin], [int(p) for p in window.pads_end]  # type: ignore[arg-type]
    reach = list(end)
    if attr(node, "ceil_mode"):
        if not all(isinstance(d, int) for d in (*x.shape[2:], *node.out.shape[2:])):
            raise context.unsupported("rounding up a symbolic size")
        for axis, (size, out) in enumerate(zip(x.shape[2:], node.out.shape[2:])):
            span = (window.kernel[axis] - 1) * window.dilations[axis] + 1
            reach[axis] = (int(out) - 1) * window.strides[axis] + span - int(size) - begin[axis]  # type: ignore[arg-type]
    average = node.op == "AveragePool"
    counts_padding = average and bool(attr(node, "count_include_pad"))
    batch, channels = extent(x.shape[0], "n"), int(x.shape[1])  # type: ignore[arg-type]
    slices = None
    if len(x.shape) == 5:
        uneven = reach[0] != end[0] if counts_padding else begin[0] or reach[0]
        if average and uneven:
            raise context.unsupported("means of fewer slices than the window has")
        along = Sliding(extent(x.shape[2], "d"), window.kernel[0], window.strides[0], window.dilations[0], begin[0])
        slices = Slices.of(batch, channels, along, reach[0])
    top, left = begin[-2:]
    spec = Conv2dSpec(
        batch=batch if slices is None else batch * slices.count,
        in_channels=channels if slices is None else channels * slices.window.kernel,
        in_height=extent(x.shape[-2], "h"),
        in_width=extent(x.shape[-1], "w"),
        out_channels=channels,
        kernel=(window.kernel[-2], window.kernel[-1]),
        strides=(window.strides[-2], window.strides[-1]),
        pads=(top, left, max(reach[-2], 0), max(reach[-1], 0)),
        dilations=(window.dilations[-2], window.dilations[-1]),
        groups=channels,
        in_block=call.layout(x).channel_block or 1,
        out_block=call.layout(call.group.outputs[0]).channel_block or 1,
        types=pool_types(call)[0],
        slices=slices,
        nominal=assumed_plane(call, x.shape[0], node.out.shape),
    )
    extents = (*(() if slices is None else (slices.count,)), spec.out_height, spec.out_width)
    if min(reach) < 0 and extents != tuple(node.out.shape[2:]):
        raise context.unsupported("windows that leave out the end of the data")
    for dim, value in zip(node.out.shape[2:], extents):
        if isinstance(dim, SymExpr):
            dims.setdefault(dim, value)
    counted = (top, left, end[-2], end[-1]) if counts_padding else (0, 0, 0, 0)
    return PoolSpec(spec, average, counted), dims
