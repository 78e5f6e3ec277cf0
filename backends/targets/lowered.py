"""What each kind of target brings: kernel templates and a generic schedule. Lowering itself is the same for all."""

from __future__ import annotations

from typing import Any

import graphopt.backends.lower  # noqa: F401  (fills the table of lowerings)
from graphopt.backends.base.target import Target
from graphopt.backends.base.template import KernelCall, KernelTemplate, Yes, asked, weigh
from graphopt.backends.build.build import Built, build_module
from graphopt.backends.build.object_cache import ObjectCache
from graphopt.backends.cpu.attention import FusedAttention
from graphopt.backends.cpu.batched_matmul import BatchedMatmul
from graphopt.backends.cpu.conv2d_direct import DirectConv2d
from graphopt.backends.cpu.conv2d_winograd import WinogradConv2d
from graphopt.backends.cpu.conv_transpose import PatchConvTranspose2d, PhasedConvTranspose2d
from graphopt.backends.cpu.depthwise import DepthwiseConv2d, PlainDepthwiseConv2d
from graphopt.backends.cpu.grouped import GroupedConv2d, GroupedPointwiseConv2d
from graphopt.backends.cpu.layout_copy import LayoutCopy, copy_seconds
from graphopt.backends.cpu.lrn import BlockedLrn
from graphopt.backends.cpu.matmul import PackedMatmul
from graphopt.backends.cpu.nest import CpuSchedule
from graphopt.backends.cpu.pooling import GlobalPool, PlainWindowPool, WindowPool
from graphopt.backends.cpu.reductions import ColumnReduction, RowReduction
from graphopt.backends.cpu.rows import ColumnSoftmax, RowNorm, RowSoftmax
from graphopt.backends.cuda.nest import CudaSchedule
from graphopt.backends.lower.attention import attention_form
from graphopt.backends.lower.registry import lookup
from graphopt.backends.program.call_signature import Key, Signatures
from graphopt.backends.program.lowering import lower
from graphopt.backends.program.program import Program
from graphopt.backends.program.relax_emit import to_module
from graphopt.backends.templates.convolution import channel_layout
from graphopt.backends.tensors.schedule import Schedule
from graphopt.ir.dtypes import DType
from graphopt.ir.fused import FusedGraph, Group
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.layout import PLAIN, Layout
from graphopt.ir.options import DEFAULT_OPTIONS, CompileOptions
from graphopt.ops.registry import CONTROL, has_trait
from graphopt.passes.layout.assign import LayoutPolicy, assign_layouts
from graphopt.passes.layout.borders import LayoutCosts
from graphopt.passes.partition.partition import partition


def templates_of(target: Target) -> list[KernelTemplate[Any]]:
    """Kernel templates of a target, in no particular order."""
    if target.caps.is_gpu:
        return []
    return [
        DirectConv2d(),
        WinogradConv2d(),
        PatchConvTranspose2d(),
        PhasedConvTranspose2d(),
        DepthwiseConv2d(),
        PlainDepthwiseConv2d(),
        GroupedConv2d(),
        GroupedPointwiseConv2d(),
        PackedMatmul(),
        BatchedMatmul(),
        WindowPool(),
        PlainWindowPool(),
        GlobalPool(),
        BlockedLrn(),
        LayoutCopy(),
        RowSoftmax(),
        ColumnSoftmax(),
        RowNorm(),
        RowReduction(),
        ColumnReduction(),
        FusedAttention(),
    ]


def schedule_of(target: Target) -> Schedule:
    """The generic schedule of a target."""
    return CudaSchedule() if target.caps.is_gpu else CpuSchedule()


def lower_fused(fused: FusedGraph, target: Target) -> Program:
    """The program of a fused graph for ``target``; level 0 keeps to the generic schedule, for bisecting."""
    return lower(fused, target, templates_of(target) if fused.options.optimizes_kernels else [], schedule_of(target))


def build_program(program: Program, cache: ObjectCache | None = None, jobs: int | None = None) -> Built:
    """Compiled code of a program; ``cache`` and ``jobs`` as in `build_module`."""
    return build_module(to_module(program), program.target, cache, jobs)


def is_lowerable(node: Node) -> bool:
    """Whether the operator has a lowering of its own (or is control flow); others are expanded or refused."""
    if node.op == "Attention" and isinstance(attention_form(node), str):
        return False
    return has_trait(node, CONTROL) or lookup(node.op, node.domain) is not None


def fuse_for(graph: Graph, target: Target, options: CompileOptions = DEFAULT_OPTIONS) -> FusedGraph:
    """The second level of a graph for ``target``: kernel groups (one node each at level 0) with layouts."""
    fused = partition(graph, options)
    return assign_layouts(fused, layout_policy(target), layout_costs(target)) if options.optimizes_kernels else fused


BLOCKED_TYPES = frozenset({DType.f32})
"""Element types for which there are kernels on channel blocks."""


def layout_policy(target: Target) -> LayoutPolicy:
    """Layouts that the target's templates ask for."""
    templates = templates_of(target)

    def wanted(fused: FusedGraph, group: Group) -> Layout:
        call = KernelCall(fused, group)
        for template in templates:
            if template.is_for(call):
                layout = template.wanted_layout(call, target.caps)
                if not layout.is_plain and isinstance(asked(template, _stored(call, layout), target.caps), Yes):
                    return layout
        return PLAIN

    return LayoutPolicy(wanted, BLOCKED_TYPES)


def layout_costs(target: Target) -> LayoutCosts | None:
    """What layouts cost by the models of the target's templates; None where it has none."""
    templates, caps = templates_of(target), target.caps
    if not templates:
        return None

    signatures = Signatures()
    known: dict[Key, float | None] = {}

    def kernel(fused: FusedGraph, group: Group) -> float | None:
        call = KernelCall(fused, group)
        key = signatures.of(call).key
        if key not in known:
            candidates = weigh(templates, call, caps)
            known[key] = candidates[0].seconds if candidates else None
        return known[key]

    def read(value: Value) -> Layout:
        return channel_layout(value.shape[1], caps) if value.dtype in BLOCKED_TYPES else PLAIN

    return LayoutCosts(kernel, lambda v: copy_seconds(v, caps), read)


def _stored(call: KernelCall, layout: Layout) -> KernelCall:
    """The call as it would be with its results in a layout."""
    return KernelCall(call.fused.trial(dict.fromkeys(call.group.outputs, layout)), call.group)
