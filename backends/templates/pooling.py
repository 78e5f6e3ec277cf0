"""Pooling over windows as a problem of kernels: its specification, whatever the target."""

from __future__ import annotations

import math
from typing import Any

from graphopt.backends.base.template import KernelCall
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.pooling import PoolSpec
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.templates.assumed_plane import assumed_plane
from graphopt.backends.templates.kernel_types import types_of
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
    if node.op == "AveragePool":
        return types_of_sums(call, x, math.prod(attr(node, "kernel_shape")))
    if node.op != "GlobalAveragePool":
        return types_of(call, x), None
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
        return dims.setdefault(dim, tirx.Var(name, "int64"))

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
    channels = int(x.shape[1])  # type: ignore[arg-type]
    spec = Conv2dSpec(
        batch=extent(x.shape[0], "n"),
        in_channels=channels,
        in_height=extent(x.shape[2], "h"),
        in_width=extent(x.shape[3], "w"),
        out_channels=channels,
        kernel=(window.kernel[0], window.kernel[1]),
        strides=(window.strides[0], window.strides[1]),
        pads=(begin[0], begin[1], max(reach[0], 0), max(reach[1], 0)),
        dilations=(window.dilations[0], window.dilations[1]),
        groups=channels,
        in_block=call.layout(x).channel_block or 1,
        out_block=call.layout(call.group.outputs[0]).channel_block or 1,
        types=pool_types(call)[0],
        nominal=assumed_plane(call, x.shape[0], node.out.shape),
    )
    if min(reach) < 0 and (spec.out_height, spec.out_width) != tuple(node.out.shape[2:]):
        raise context.unsupported("windows that leave out the end of the data")
    for dim, value in zip(node.out.shape[2:], (spec.out_height, spec.out_width)):
        if isinstance(dim, SymExpr):
            dims.setdefault(dim, value)
    average = node.op == "AveragePool"
    counted = (begin[0], begin[1], end[0], end[1]) if average and attr(node, "count_include_pad") else (0, 0, 0, 0)
    return PoolSpec(spec, average, counted), dims
