"""Branches of If as programs of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.backends.program.program import BranchStep, KernelStep, Program, SubProgram, ViewStep
from graphopt.errors import UnsupportedOpError
from graphopt.ir.dims import symbols_of
from graphopt.ir.graph import Graph, Node
from graphopt.ir.types import TensorType

if TYPE_CHECKING:
    from graphopt.backends.program.lowering import Lowering


def lower_branch(node: Node, name: str, outer: Lowering) -> SubProgram:
    """The program of a branch of ``node`` and how ``outer`` calls it.

    What the branch reads of the graphs around it becomes its inputs; its constants are the caller's, passed along.

    Args:
        name: attribute that holds the branch.
        outer: lowers the graph of ``node``, and has lowered everything before it.

    Raises:
        UnsupportedOpError: something in the branch can't be compiled, or its results are no tensors of one rank.
    """
    graph = node.attrs[name]
    assert isinstance(graph, Graph)
    for value in node.outputs:
        if value is not None and not (isinstance(value.type, TensorType) and value.type.shape is not None):
            raise UnsupportedOpError(
                f"the branches of {node.op} return values of different ranks", code="unknown-rank", node=node.label,
                hint="export the model so that both branches return tensors of the same rank",
            )  # fmt: skip
    inner = outer.inner(graph, [v is not None and v.tensor.is_static for v in node.outputs])
    program = inner.program()
    program.name = f"{program.name}_{name.removesuffix('_branch')}"
    captured = inner.captured
    program.inputs = [inner.buffer(v) for v in captured]
    # an optional result that nobody uses is not returned
    program.outputs = [b for b, v in zip(program.outputs, node.outputs) if v is not None]
    arguments = [outer.plain(v) for v in captured]
    for b in program.constants:
        assert b.data is not None
        arguments.append(outer.buffer(b.value) if b.value is not None else outer.operand(b.data, b.name))
    return SubProgram(program, arguments, sorted(_read_symbols(program) & outer.dims.defined))


def _read_symbols(program: Program) -> set[str]:
    """Symbols in what the program takes and does."""
    found: set[str] = set()
    for b in program.inputs:
        found |= symbols_of(*b.shape)
    for step in program.steps:
        if isinstance(step, KernelStep):
            found |= set(step.symbols)
        if isinstance(step, BranchStep):
            found |= {*step.then.symbols, *step.otherwise.symbols}
        if isinstance(step, (KernelStep, ViewStep, BranchStep)):
            outputs = [step.output] if isinstance(step, ViewStep) else step.outputs
            found |= symbols_of(*(d for b in outputs for d in b.shape))
    return found
