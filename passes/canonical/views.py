"""Chains of operators that only rename positions: reshapes and transposes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Value
from graphopt.ir.types import Shape
from graphopt.ops.context import attr
from graphopt.ops.registry import RESHAPE
from graphopt.ops.table import ops_with
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import ANY_ATTRS, any_, op, opt_any
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule


def reshape_target(shape: Shape) -> list[int] | None:
    """The constant that makes Reshape produce ``shape`` from a tensor of as many elements; None if there is none."""
    target = [d if isinstance(d, int) else -1 for d in shape]
    return None if target.count(-1) > 1 or (0 in target) else target


class MergeViews(Rule):
    """View2(View1(x)) -> Reshape(x, shape of the result), for Reshape, Squeeze, Unsqueeze, Flatten.

    Does not fire when more than one extent of the result is unknown or one is zero.
    """

    x = any_()
    inner = op(ops_with(RESHAPE), x, opt_any(), keep=ANY_ATTRS, shared=True)
    root = op(ops_with(RESHAPE), inner, opt_any(), keep=ANY_ATTRS)

    def check(self, m: Match) -> None:
        """A constant target."""
        out = m.root.out
        m.require(reshape_target(out.shape) is not None, "no constant shape describes the result", out)

    def rewrite(self, m: Match, e: Editor) -> Value:
        """One Reshape."""
        target = reshape_target(m.root.out.shape)
        return e.node("Reshape", [m[self.x], e.constant(np.asarray(target, np.int64), "shape")]).out


class FixReshapeTarget(Rule):
    """Reshape(x, computed) -> Reshape(x, constant) where the result's shape is known but for one extent.

    The arithmetic on shapes that computed it is dead then. Does not fire when two extents are unknown or one is zero.
    """

    x, shape = any_(), any_()
    root = op("Reshape", x, shape, keep={"allowzero"})

    def check(self, m: Match) -> None:
        """A constant target for a computed one."""
        shape, out = m[self.shape], m.root.out
        m.require(shape.data is None, "the target is constant already", shape)
        m.require(not shape.binds, "the target is only known at run time", shape)
        m.require(reshape_target(out.shape) is not None, "no constant shape describes the result", out)

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The same Reshape with a constant target."""
        target = np.asarray(reshape_target(m.root.out.shape), np.int64)
        return e.node("Reshape", [m[self.x], e.constant(target, "shape")]).out


class MergeTransposes(Rule):
    """Transpose(Transpose(x, p), q) -> Transpose(x, p[q])"""

    x = any_()
    inner = op("Transpose", x, keep={"perm"}, shared=True)
    root = op("Transpose", inner, keep={"perm"})

    def rewrite(self, m: Match, e: Editor) -> Value:
        """One Transpose; the identity is removed by remove-no-ops."""
        rank = len(m.root.out.shape)
        p, q = (perm_of(attr(n, "perm"), rank) for n in (m.node(self.inner), m.root))
        return e.node("Transpose", [m[self.x]], {"perm": [p[i] for i in q]}).out


def perm_of(perm: object, rank: int) -> list[int]:
    """The permutation of a Transpose, whose default reverses the axes."""
    return [int(p) for p in perm] if isinstance(perm, (list, tuple)) and len(perm) else list(range(rank))[::-1]


@register_pass
@dataclass(frozen=True)
class MergeViewChains(RewritePass):
    """Makes one Reshape of consecutive reshapes and one Transpose of consecutive transposes; fixes computed targets."""

    name: ClassVar[str] = "merge-views"
    rules: ClassVar[tuple[Rule, ...]] = (MergeViews(), FixReshapeTarget(), MergeTransposes())
