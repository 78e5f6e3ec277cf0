"""Chains of operators that only rename positions: reshapes and transposes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.dims import Dim
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


class SplitMergedTranspose(Rule):
    """Reshape(Transpose(Reshape(x))) -> Transpose(x) where the axes that the first one merges stay together.

    Exporters write the transposition of the last two axes of attention's keys so: (batch, heads, length, width) becomes
    (batch * heads, length, width), is transposed, and gets its four axes back. Does not fire when the result's axes aren't x's.
    """

    x = any_()
    merged = op("Reshape", x, any_(), keep={"allowzero"}, shared=True)
    turned = op("Transpose", merged, keep={"perm"}, shared=True)
    root = op("Reshape", turned, any_(), keep={"allowzero"})

    def check(self, m: Match) -> None:
        """The first Reshape only merges, and the second one undoes that."""
        x, merged, out = m[self.x], m[self.merged], m.root.out
        perm = self._perm(m)
        m.require(perm is not None, "the first Reshape does more than merge axes", merged)
        assert perm is not None
        m.require([x.shape[a] for a in perm] == list(out.shape), "the last Reshape gives other axes", out)

    def rewrite(self, m: Match, e: Editor) -> Value:
        """One Transpose."""
        return e.node("Transpose", [m[self.x]], {"perm": self._perm(m)}).out

    def _perm(self, m: Match) -> list[int] | None:
        runs = merged_runs(m[self.x].shape, m[self.merged].shape)
        if runs is None:
            return None
        return [a for run in perm_of(attr(m.node(self.turned), "perm"), len(runs)) for a in runs[run]]


def merged_runs(before: Shape, after: Shape) -> list[range] | None:
    """The consecutive axes of ``before`` that make each axis of ``after``; None where one of them is divided.

    Axes of extent 1 go with the ones before them, where they have no axis of their own.
    """
    runs, end = list[range](), 0
    extent: Dim
    for place, wanted in enumerate(after):
        start, extent = end, 1
        while end < len(before) and (end == start or extent != wanted):
            extent, end = extent * before[end], end + 1
        if extent != wanted:
            return None
        following = after[place + 1] if place + 1 < len(after) else None
        while end < len(before) and before[end] == 1 and following != 1:
            end += 1
        runs.append(range(start, end))
    return runs if end == len(before) else None


def perm_of(perm: object, rank: int) -> list[int]:
    """The permutation of a Transpose, whose default reverses the axes."""
    return [int(p) for p in perm] if isinstance(perm, (list, tuple)) and len(perm) else list(range(rank))[::-1]


@register_pass
@dataclass(frozen=True)
class MergeViewChains(RewritePass):
    """Makes one Reshape of consecutive reshapes and one Transpose of consecutive transposes; fixes computed targets.

    A Transpose between reshapes that merge axes and divide them again is one as well.
    """

    name: ClassVar[str] = "merge-views"
    rules: ClassVar[tuple[Rule, ...]] = (SplitMergedTranspose(), MergeViews(), FixReshapeTarget(), MergeTransposes())


@register_pass
@dataclass(frozen=True)
class SplitMergedTransposes(RewritePass):
    """Makes one Transpose of one between reshapes that merge axes and divide them again, and leaves all else alone."""

    name: ClassVar[str] = "split-merged-transposes"
    rules: ClassVar[tuple[Rule, ...]] = (SplitMergedTranspose(),)
