"""Transpositions and views of quantized values move their integers: DequantizeLinear stands where products read, QuantizeLinear
where they write, which is where kernels take them in.

Exporters put a Transpose, a Reshape or an Unsqueeze between the two: tf2onnx for weights in its order of axes and for data
with channels last, PyTorch for the weights of a Linear, and so does the lowering of convolutions along one axis. Of a
quantized table of embeddings a Gather takes integers, so that the rest of the table is never converted.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Node, Value
from graphopt.ops.context import attr
from graphopt.ops.registry import LINEAR, RESHAPE, has_trait
from graphopt.ops.table import ops_with
from graphopt.passes.canonical.views import perm_of
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import ANY_ATTRS, any_, op, opt_any
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule

MOVES = ("Transpose", *ops_with(RESHAPE))
_DEFAULT_AXIS = 1


class MoveOfDequantized(Rule):
    """Move(DequantizeLinear(x, s, z)) -> DequantizeLinear(Move(x), s, z), for Transpose, Gather and views.

    Does not fire unless x is constant or a product reads the result, perhaps after further moves, or where the axis that several
    scales go along is no axis of the result.
    """

    x, scale, zero = any_(), any_(), opt_any()
    numbers = op("DequantizeLinear", x, scale, zero, keep={"axis", "output_dtype"}, shared=True)
    root = op((*MOVES, "Gather"), numbers, opt_any(), keep=ANY_ATTRS)

    def check(self, m: Match) -> None:
        """A product behind, and an axis for the scales."""
        m.require(m[self.x].is_const or _feeds_product(m.root.out), "no product reads the result", m.root.out)
        m.require(_is_single(m[self.scale]) or self._axis(m) is not None, "scales by an axis that goes", m[self.scale])

    def _axis(self, m: Match) -> int | None:
        return axis_after(m.root, int(attr(m.node(self.numbers), "axis")) % len(m[self.x].shape))

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The integers moved, at once if they are constant."""
        numbers = m.node(self.numbers)
        attrs = dict(numbers.attrs)
        axis = None if _is_single(m[self.scale]) else self._axis(m)
        if axis is not None and axis != _DEFAULT_AXIS:
            attrs["axis"] = axis
        else:
            attrs.pop("axis", None)
        inputs = [_moved(m, e, m[self.x]), m[self.scale], m.get(self.zero)]
        return e.node("DequantizeLinear", inputs if inputs[2] is not None else inputs[:2], attrs, like=[numbers]).out


class QuantizedMove(Rule):
    """QuantizeLinear(Move(x), s, z) -> Move(QuantizeLinear(x, s, z)), for Transpose and views.

    Does not fire where there are several scales, or for constants.
    """

    x, scale, zero = any_(), any_(), opt_any()
    move = op(MOVES, x, opt_any(), keep=ANY_ATTRS)
    root = op("QuantizeLinear", move, scale, zero, keep={"axis", "output_dtype", "saturate", "precision"})

    def check(self, m: Match) -> None:
        """One scale, of data."""
        m.require(_is_single(m[self.scale]), "there are several scales", m[self.scale])
        m.require(not m[self.x].is_const, "the data are constant", m[self.x])

    def rewrite(self, m: Match, e: Editor) -> Value:
        """Quantized where it is made."""
        attrs = {k: v for k, v in m.root.attrs.items() if k != "axis"}
        given = [m[self.x], *m.root.inputs[1:]]
        quantized = e.node("QuantizeLinear", given, attrs, like=[m.root]).out
        move = m.node(self.move)
        return e.node(move.op, [quantized, *move.inputs[1:]], dict(move.attrs), like=[move]).out


def _moved(m: Match, e: Editor, x: Value) -> Value:
    move = m.root
    if x.data is None or move.op == "Gather":
        return e.node(move.op, [x, *move.inputs[1:]], dict(move.attrs), like=[move]).out
    if move.op == "Transpose":
        return e.constant(np.ascontiguousarray(x.data.transpose(perm_of(attr(move, "perm"), x.data.ndim))), x.name)
    return e.constant(x.data.reshape([int(d) for d in move.out.shape]), x.name)  # type: ignore[arg-type]


def axis_after(move: Node, axis: int) -> int | None:
    """Where an axis of the operand of a Transpose, Gather or view stands in its result; None if it is merged, split or picked from,
    or if that isn't known."""
    source = move.inputs[0]
    assert source is not None
    if move.op == "Transpose":
        return perm_of(attr(move, "perm"), len(source.shape)).index(axis)
    if move.op == "Gather":
        picked = int(attr(move, "axis")) % len(source.shape)
        return None if axis == picked else axis if axis < picked else axis + len(move.out.shape) - len(source.shape)
    before, after = source.shape, move.out.shape
    if not all(isinstance(d, int) for d in (*before, *after)):
        return None
    have, want = [int(d) for d in before], [int(d) for d in after]  # type: ignore[arg-type]
    for place, extent in enumerate(want):
        if extent == have[axis] and prod(want[:place]) == prod(have[:axis]):
            return place
    return None


def _is_single(scale: Value) -> bool:
    return all(d == 1 for d in scale.shape)


def _feeds_product(value: Value) -> bool:
    return any(
        has_trait(use.node, LINEAR) or (use.node.op in MOVES and not use.node.domain and _feeds_product(use.node.out))
        for use in value.uses
    )


@register_pass
@dataclass(frozen=True)
class MoveIntegers(RewritePass):
    """Moves integers in place of the floats that they stand for, so that products read and write integers."""

    name: ClassVar[str] = "move-integers"
    rules: ClassVar[tuple[Rule, ...]] = (MoveOfDequantized(), QuantizedMove())
