"""Kernels that only move a value: into another layout, into a buffer of its own, or behind what is in one."""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dim_names import DimNames
from graphopt.backends.base.element_type import element_type
from graphopt.backends.base.template import KernelCall
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.generic import GroupLowering
from graphopt.backends.lower.registry import stored
from graphopt.backends.tensors.builder import Output
from graphopt.backends.tensors.schedule import Schedule
from graphopt.ir.fused import FusedGraph, Group
from graphopt.ir.graph import Node, Value
from graphopt.ir.layout import PLAIN, Layout
from graphopt.ir.types import Shape


def emit_copy(
    value: Value,
    fused: FusedGraph,
    caps: Caps,
    schedule: Schedule,
    names: DimNames,
    layout: Layout = PLAIN,
    whole: Shape | None = None,
    begin: Shape = (),
) -> tuple[Any, list[Value], list[str]]:
    """A kernel ``(source?, target)`` that writes ``value``; without source when it is known from dimensions or constant.

    Args:
        layout: that of what is written.
        whole: shape of a larger tensor in which ``value`` lies; by default it is all that is written.
        begin: where in it.

    Returns:
        The PrimFunc, the values it reads (``value`` or none) and the symbols it takes.
    """
    call = KernelCall(fused, Group([], Node("Identity", [value], [], {})), names)
    lowering = GroupLowering(call, caps, schedule)
    row = element_type(value.dtype)
    tensor = stored(lowering.operand(value), row)
    shape = layout.physical_shape(lowering.builder.shape(value.shape if whole is None else whole))
    at = None if whole is None else layout.physical_index(lowering.builder.shape(begin))
    out = tirx.decl_buffer([tirx.const(d, "int64") if isinstance(d, int) else d for d in shape], row.storage, "out")
    lowering.builder.emit([Output(tensor, out, layout, at)])
    symbol_names, symbols = lowering.symbol_params()
    params = [*lowering.buffers.values(), out, *symbols]
    return lowering.builder.finish(params, "copy"), list(lowering.buffers), symbol_names
