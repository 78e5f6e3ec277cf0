"""What each kind of target brings: kernel templates and a generic schedule. Lowering itself is the same for all."""

from __future__ import annotations

from typing import Any

import graphopt.backends.common.lower  # noqa: F401  (fills the table of lowerings)
from graphopt.backends.base.build import Built, build_module
from graphopt.backends.base.program import Program
from graphopt.backends.base.relax_emit import to_module
from graphopt.backends.base.target import Target
from graphopt.backends.base.template import KernelTemplate
from graphopt.backends.common.builder import Nest
from graphopt.backends.common.nest_cpu import cpu_nest
from graphopt.backends.common.lower.registry import lookup
from graphopt.backends.lowering import lower
from graphopt.ir.fused import FusedGraph
from graphopt.ir.graph import Graph, Node
from graphopt.passes.fuse.kernels import CONTROL, fuse_kernels


def templates_of(target: Target) -> list[KernelTemplate[Any]]:
    """Kernel templates of a target, in no particular order."""
    return []


def nest_of(target: Target) -> Nest:
    """The generic schedule of a target."""
    return cpu_nest


def lower_fused(fused: FusedGraph, target: Target) -> Program:
    """The program of a fused graph for ``target``."""
    return lower(fused, target, templates_of(target), nest_of(target))


def build_program(program: Program) -> Built:
    """Compiled code of a program."""
    return build_module(to_module(program), program.target)


def is_lowerable(node: Node) -> bool:
    """Whether the operator has a lowering of its own (or is control flow); others are expanded or refused."""
    return node.op in CONTROL or lookup(node.op, node.domain) is not None


def fuse_for(graph: Graph, target: Target, level: int) -> FusedGraph:
    """The second level of a graph for ``target``: kernel groups (one node each at level 0) with layouts."""
    return fuse_kernels(graph, fuse=level > 0)
