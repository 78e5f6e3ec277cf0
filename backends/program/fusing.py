"""From the first level to the second, for a target."""

from __future__ import annotations

from graphopt.backends.base.target import Target
from graphopt.backends.program.layout_choice import layout_costs, layout_policy, template_takes
from graphopt.backends.program.platform import Platform
from graphopt.ir.dtypes import DType
from graphopt.ir.fused import FusedGraph
from graphopt.ir.graph import Graph
from graphopt.ir.layout import PLAIN
from graphopt.ir.options import CompileOptions
from graphopt.passes.layout.assign import LayoutPolicy, assign_layouts
from graphopt.passes.partition.partition import partition
from graphopt.passes.partition.reading import convert_while_reading
from graphopt.passes.partition.writing import convert_while_writing


def fuse(graph: Graph, target: Target, platform: Platform, options: CompileOptions) -> FusedGraph:
    """Kernel groups (one node each at level 0) with layouts."""
    fused = partition(graph, options, (DType.u8, DType.i8) if platform.multiplies_bytes else ())
    if not options.optimizes_kernels:
        return assign_layouts(fused, LayoutPolicy(lambda *_: PLAIN, ())) if options.states else fused
    takes = template_takes(platform, target.caps)
    fused = convert_while_writing(convert_while_reading(fused, takes), takes)
    return assign_layouts(fused, layout_policy(platform, target.caps), layout_costs(platform, target.caps))
