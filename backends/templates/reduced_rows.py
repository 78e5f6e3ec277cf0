"""Reductions of trailing axes as problems of rows: which calls are, their specification and their operands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphopt.backends.base.template import Emitted, KernelCall
from graphopt.backends.specs.reduction import ReduceSpec
from graphopt.backends.templates.rows import Matrix, matrix, row_types, single_node
from graphopt.backends.tensors.flatten import with_shapes
from graphopt.ir.types import Shape
from graphopt.ops.context import InferContext
from graphopt.ops.reduction import reduced_axes

MIN_LENGTH = 32
"""Elements of a row below which the generic kernels are as good."""


def shape_of(call: KernelCall) -> Shape:
    """Of what is reduced."""
    x = call.group.anchor.inputs[0]
    assert x is not None
    return x.shape


def axes_of(call: KernelCall) -> tuple[int, ...]:
    """The axes that are reduced, in order."""
    node = call.group.anchor
    assert node.graph is not None
    return tuple(sorted(reduced_axes(InferContext(node, node.graph))))


def reduction_refusal(call: KernelCall, any_length: bool = False) -> str | None:
    """Why a group is no reduction of rows with one result, None if it is.

    Args:
        call: the group.
        any_length: whether only run time may know the length of a row.
    """
    reason = single_node(call, data=1)
    if reason is not None:
        return reason
    if not call.group.anchor.out.shape:
        return "a scalar result"
    axes, shape = axes_of(call), shape_of(call)
    rank = len(shape)
    if not axes or axes != tuple(range(rank - len(axes), rank)):
        return "not over trailing axes"
    length = 1
    for d in shape[rank - len(axes) :]:
        if not isinstance(d, int) and not any_length:
            return "a reduction of unknown length"
        length *= call.nominal(d)
    return None if length >= MIN_LENGTH else "a short reduction"


@dataclass(frozen=True)
class RowReductionProblem:
    """A reduction.

    Attributes:
        call: the group.
        spec: what is computed.
        matrix: the data as rows.
    """

    call: KernelCall
    spec: ReduceSpec
    matrix: Matrix

    def emitted(self, function: Any) -> Emitted:
        """A kernel of `spec` with the operands' own shapes."""
        node, m = self.call.group.anchor, self.matrix
        x = node.inputs[0]
        assert x is not None
        reduced = len(axes_of(self.call))
        kept = m.shape[: len(x.shape) - reduced]
        out = kept if len(node.out.shape) == len(kept) else (*kept, *(1,) * reduced)
        return Emitted(with_shapes(function, {0: m.shape, 1: out}, m.defined), [x])


def row_reduction(call: KernelCall) -> RowReductionProblem:
    """The problem of a call that `reduction_refusal` doesn't refuse."""
    m = matrix(shape_of(call), len(shape_of(call)) - len(axes_of(call)))
    return RowReductionProblem(call, ReduceSpec(call.group.anchor.op, m.rows, m.length, row_types(call)), m)
