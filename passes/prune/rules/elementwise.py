"""Element-wise operators: axes that are not stretched lose the same channels."""

from __future__ import annotations

from graphopt.ops.registry import BROADCAST, UNARY
from graphopt.ops.table import ops_with
from graphopt.passes.prune.labels import Role, RuleContext
from graphopt.passes.prune.rules.contraction import broadcast_labels
from graphopt.passes.prune.rules.registry import labels_of

_FIRST_OPERAND = (*ops_with(UNARY), "Dropout", "IsNaN", "IsInf", "Clip", "Cast", "CastLike", "BitCast")


@labels_of(*_FIRST_OPERAND)
def unary(c: RuleContext) -> None:
    """The result has the first operand's channels; the others are scalars or say a type only."""
    for index, out in enumerate(c.node.outputs):
        if out is not None:
            c.set(c.labels(0), index)


@labels_of(*ops_with(BROADCAST))
def broadcast(c: RuleContext) -> None:
    """Numpy's rules; per-channel constants are parameters of the channels."""
    rank = len(c.out_shape())
    present = [(index, value) for index, value in enumerate(c.node.inputs) if value is not None]
    computed = [index for index, value in present if not value.is_const]
    out = broadcast_labels(c, [(list(c.shape(i)), c.labels(i)) for i in computed], rank)
    for index in (index for index, value in present if value.is_const):
        shape = c.shape(index)
        for axis, dim in enumerate(shape):
            at = axis - len(shape) + rank
            if dim == 1:
                continue
            c.role(index, axis, Role.PARAMETER)
            if out[at] is None and not any(_stands_in(c, i, at - rank) for i in computed):
                out[at] = c.labels(index)[axis]
            else:
                c.tie(index, axis, out[at])
    c.set(out)


def _stands_in(c: RuleContext, index: int, back: int) -> bool:
    """Whether operand ``index`` has more than one index along axis ``back``, counted from the end."""
    shape = c.shape(index)
    return len(shape) >= -back and shape[back] != 1
