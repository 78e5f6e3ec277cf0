"""Second level: the graph cut into kernel-sized groups, each value with a memory layout."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import dropwhile, takewhile

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.layout import PLAIN, Layout
from graphopt.ir.options import DEFAULT_OPTIONS, CompileOptions
from graphopt.ir.printer import format_node


class GroupKind(Enum):
    """How a group becomes code."""

    kernel = "kernel"  # one compiled function
    view = "view"  # same elements under another shape: no code, no copy
    control = "control"  # If, Loop, Scan: programs inside a program


@dataclass(eq=False)
class Group:
    """Nodes computed by one kernel.

    Attributes:
        nodes: in the order in which they are computed: prologue, anchor, epilogue.
        anchor: the node that decides the kernel (convolution, matrix product, reduction, ...).
        outputs: values used outside of the group.
    """

    nodes: list[Node]
    anchor: Node
    kind: GroupKind = GroupKind.kernel
    outputs: list[Value] = field(default_factory=list)

    @property
    def inputs(self) -> list[Value]:
        """Values made elsewhere, constants included, in order of first use."""
        inside = {v for n in self.nodes for v in n.outputs if v is not None}
        found: dict[Value, None] = {}
        for node in self.nodes:
            for value in node.inputs:
                if value is not None and value not in inside:
                    found[value] = None
        return list(found)

    @property
    def prologue(self) -> list[Node]:
        """What stands before the anchor: conversions of operands, which the kernel does while it reads them."""
        return list(takewhile(lambda n: n is not self.anchor, self.nodes)) if self.anchor in self.nodes else []

    @property
    def epilogue(self) -> list[Node]:
        """What stands behind the anchor."""
        return [n for n in dropwhile(lambda n: n is not self.anchor, self.nodes) if n is not self.anchor]

    def source(self, value: Value) -> Value:
        """What lies in memory where the anchor reads ``value``: what the prologue makes it of, or ``value`` itself."""
        made_by = value.producer
        if made_by is None or made_by is self.anchor or made_by not in self.prologue:
            return value
        source = made_by.inputs[0]
        assert source is not None
        return source

    @property
    def label(self) -> str:
        """``conv2d+relu``-style name for messages and kernel names."""
        return "_".join(n.op.lower() for n in self.nodes[:4]) + ("_etc" if len(self.nodes) > 4 else "")


@dataclass(eq=False)
class FusedGraph:
    """A graph partitioned into groups in execution order.

    Attributes:
        layouts: how values are ordered in memory; absent means plain.
        options: how it is compiled, subgraphs too.
    """

    graph: Graph
    groups: list[Group]
    layouts: MutableMapping[Value, Layout] = field(default_factory=dict)
    options: CompileOptions = DEFAULT_OPTIONS

    def trial(self, layouts: Mapping[Value, Layout]) -> FusedGraph:
        """The graph as it would be with these layouts; the others are shared with it, not copied."""
        return replace(self, layouts=ChainMap(dict(layouts), self.layouts))

    def layout(self, value: Value) -> Layout:
        """How a value is ordered in memory."""
        return self.layouts.get(value, PLAIN)


def format_fused(fused: FusedGraph) -> str:
    """Text of the second level: groups with their nodes, layouts where not plain."""
    graph = fused.graph
    head = ", ".join(f"%{v.name}: {v.type}" for v in graph.inputs)
    lines = [f"fused {graph.name}({head}) {{"]
    for i, group in enumerate(fused.groups):
        outs = ", ".join(f"%{v.name}: {v.type} {fused.layout(v).name(len(v.shape))}" for v in group.outputs)
        lines.append(f"  {group.kind.value} #{i} anchor={group.anchor.op} -> {outs}")
        for node in group.nodes:
            mark = "*" if node is group.anchor else " "
            lines.extend(f"   {mark} {line}" for line in format_node(node))
    tail = ", ".join(f"%{v.name}" for v in graph.outputs)
    return "\n".join([*lines, f"  return {tail}", "}"])
