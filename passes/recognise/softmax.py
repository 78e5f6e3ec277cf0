"""Softmax out of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Value
from graphopt.ops.context import ints
from graphopt.passes.recognise.introduce import introduce, require_op
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import any_, const, op
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule


class SoftmaxFromParts(Rule):
    """e / ReduceSum(e) -> Softmax(x) with e = Exp(x - ReduceMax(x)), all over one axis.

    Does not fire without the subtraction: Softmax stays finite where the plain form overflows.
    """

    x, axes1, axes2 = any_(), const(), const()
    e = op("Exp", op("Sub", x, op("ReduceMax", x, axes1, require={"keepdims": 1})))
    root = op("Div", e, op("ReduceSum", e, axes2, require={"keepdims": 1}))

    def check(self, m: Match) -> None:
        """One axis, the same twice."""
        rank = len(m[self.x].shape)
        first, second = ([a % rank for a in ints(m.array(p))] for p in (self.axes1, self.axes2))
        m.require(first == second, "maximum and sum are taken over different axes", m.root)
        m.require(len(first) == 1, "it runs over several axes", m.root)
        require_op(m, "Softmax", m[self.x])

    def rewrite(self, m: Match, e: Editor) -> Value:
        """One Softmax."""
        axis = ints(m.array(self.axes1))[0] % len(m[self.x].shape)
        return introduce(e, "Softmax", [m[self.x]], {"axis": axis})


@register_pass
@dataclass(frozen=True)
class RecogniseSoftmax(RewritePass):
    """Recognises Softmax written as Exp, ReduceSum and Div."""

    name: ClassVar[str] = "recognise-softmax"
    rules: ClassVar[tuple[Rule, ...]] = (SoftmaxFromParts(),)
