"""Element-wise operators: axes that are not stretched lose the same channels."""

from __future__ import annotations

from graphopt.ops.elementwise import UNARY
from graphopt.ops.registry import BROADCAST, has_trait, names
from graphopt.passes.prune.labels import Role, RuleContext
from graphopt.passes.prune.rules.contraction import broadcast_labels
from graphopt.passes.prune.rules.registry import labels_of

_BROADCASTING = tuple(op for op in names() if has_trait(op, BROADCAST))
_FIRST_OPERAND = (*UNARY, "Dropout", "IsNaN", "IsInf", "Clip", "Cast", "CastLike", "BitCast")


@labels_of(*_FIRST_OPERAND)
def unary(c: RuleContext) -> None:
    """The result has the first operand's channels; the others are scalars or say a type only."""
    for index, out in enumerate(c.node.outputs):
        if out is not None:
            c.set(c.labels(0), index)


@labels_of(*_BROADCASTING)
def broadcast(c: RuleContext) -> None:
    """Numpy's rules; per-channel constants are parameters of the channels."""
    rank = len(c.out_shape())
    operands = []
    for index, value in enumerate(c.node.inputs):
        if value is None:
            continue
        shape = list(c.shape(index))
        operands.append((shape, c.labels(index)))
        for axis, dim in enumerate(shape):
            if dim != 1:
                c.role(index, axis, Role.PARAMETER)
    c.set(broadcast_labels(c, operands, rank))
