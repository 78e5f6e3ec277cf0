"""Nodes that hand their input on unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.dims import Dim
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Value
from graphopt.ops.context import InferContext, attr, content_of
from graphopt.ops.movement import pad_amounts, slice_bounds
from graphopt.ops.registry import RESHAPE
from graphopt.ops.table import ops_with
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import ANY_ATTRS, any_, const, op, opt_any, opt_const
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule


class Forward(Rule):
    """Base of the rules ``Op(x, ...) -> x``."""

    x = any_()

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The operand itself."""
        return m[self.x]


class RemoveIdentity(Forward):
    """Identity(x) -> x.  Does not fire between a graph input and a graph output: both keep their names."""

    x = any_()
    root = op("Identity", x)

    def check(self, m: Match) -> None:
        """Names."""
        m.require_forward(m[self.x])


class RemoveDropout(Forward):
    """Dropout(x, ratio?, training_mode=false) -> x.  Does not fire in training mode or when the mask is used."""

    x = any_()
    training = opt_any()
    root = op("Dropout", x, opt_any(), training, keep={"seed"})

    def check(self, m: Match) -> None:
        """Inference only."""
        training = m.get(self.training)
        off = training is None or (training.data is not None and not np.any(training.data))
        m.require(off, "training_mode is set, or is not known", training)
        m.require_forward(m[self.x])


class RemoveUnchangedShape(Forward):
    """Reshape | Squeeze | Unsqueeze | Flatten | Expand(x) -> x where the result has x's shape."""

    x = any_()
    root = op((*ops_with(RESHAPE), "Expand"), x, opt_any(), keep=ANY_ATTRS)

    def check(self, m: Match) -> None:
        """Same type."""
        m.require_forward(m[self.x])


class RemoveTranspose(Forward):
    """Transpose(x, perm) -> x where perm is 0, 1, 2, ..."""

    x = any_()
    root = op("Transpose", x, keep={"perm"})

    def check(self, m: Match) -> None:
        """Identity permutation."""
        rank = len(m.root.out.shape)
        perm = list(attr(m.root, "perm") or range(rank)[::-1])
        m.require(perm == list(range(rank)), f"perm {perm} moves axes")
        m.require_forward(m[self.x])


class RemoveSlice(Forward):
    """Slice(x) -> x where every axis is taken whole, forwards."""

    x = any_()
    root = op("Slice", x, any_(), any_(), opt_any(), opt_any())

    def check(self, m: Match) -> None:
        """All starts 0, all steps 1, all extents the input's."""
        m.require(all(v is None or content_of(v) is not None for v in m.root.inputs[1:]), "the bounds are not known")
        bounds = slice_bounds(_context(m))
        shape = m[self.x].shape
        whole = all(step == 1 and extent == d for (_, extent, step), d in zip(bounds, shape))
        m.require(whole, "a part is taken, or the order changes")
        m.require_forward(m[self.x])


class RemovePad(Forward):
    """Pad(x, 0, 0, ...) -> x"""

    x = any_()
    root = op("Pad", x, any_(), opt_any(), opt_any(), keep={"mode"})

    def check(self, m: Match) -> None:
        """No padding at all; opposite amounts that cancel out are something else."""
        pads = content_of(m.root.inputs[1]) if m.root.inputs[1] is not None else None
        m.require(pads is not None, "the amounts are not known", m.root.inputs[1])
        m.require(all(b == 0 and e == 0 for b, e in pad_amounts(_context(m))), "it pads")
        m.require_forward(m[self.x])


class RemoveTile(Forward):
    """Tile(x, 1, 1, ...) -> x"""

    x = any_()
    repeats = any_()
    root = op("Tile", x, repeats)

    def check(self, m: Match) -> None:
        """All repeats 1."""
        repeats = content_of(m[self.repeats])
        m.require(repeats is not None and all(r == 1 for r in repeats.reshape(-1)), "it repeats, or may repeat")
        m.require_forward(m[self.x])


class RemoveSingleOperand(Forward):
    """Concat | Sum | Max | Min | Mean(x) -> x"""

    x = any_()
    root = op(("Concat", "Sum", "Max", "Min", "Mean"), x, keep={"axis"})

    def check(self, m: Match) -> None:
        """Names."""
        m.require_forward(m[self.x])


class RemoveSplitOfOne(Forward):
    """Split(x) with one output -> x"""

    x = any_()
    root = op("Split", x, opt_any(), keep={"axis", "num_outputs"})

    def check(self, m: Match) -> None:
        """One part."""
        m.require(len(m.root.outputs) == 1, "it has several parts")
        m.require_forward(m[self.x])


class RemoveEmptyReduce(Forward):
    """ReduceSum | ReduceMax | ReduceMin | ReduceMean | ReduceProd(x, axes=[], noop_with_empty_axes=1) -> x"""

    x = any_()
    axes = opt_const()
    root = op(("ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd"), x, axes,
              keep={"keepdims"}, require={"noop_with_empty_axes": 1})  # fmt: skip

    def check(self, m: Match) -> None:
        """No axes."""
        axes = m.get(self.axes)
        m.require(axes is None or (axes.data is not None and axes.data.size == 0), "it reduces", axes)
        m.require_forward(m[self.x])


class RemoveUnboundedClip(Forward):
    """Clip(x, -inf?, +inf?) -> x.  Does not fire on integers, whose bounds are never infinite."""

    x = any_()
    low, high = opt_const(), opt_const()
    root = op("Clip", x, low, high)

    def check(self, m: Match) -> None:
        """No bound."""
        low, high = m.get(self.low), m.get(self.high)
        m.require(low is None or bool(np.all(np.asarray(low.data) == -np.inf)), "it bounds from below", low)
        m.require(high is None or bool(np.all(np.asarray(high.data) == np.inf)), "it bounds from above", high)
        m.require_forward(m[self.x])


class RemoveConstantWhere(Rule):
    """Where(true, a, b) -> a;  Where(false, a, b) -> b.  Does not fire where the choice is broadcast by the others."""

    cond, a, b = const(), any_(), any_()
    root = op("Where", cond, a, b)

    def check(self, m: Match) -> None:
        """Uniform condition, no broadcast."""
        flags = m.array(self.cond)
        m.require(bool(flags.size and (np.all(flags) or not np.any(flags))), "the condition is mixed", m[self.cond])
        m.require_forward(self._chosen(m))

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The chosen operand."""
        return self._chosen(m)

    def _chosen(self, m: Match) -> Value:
        return m[self.a] if np.all(m.array(self.cond)) else m[self.b]


class RemoveInvolution(Forward):
    """Not(Not(x)) -> x;  Neg(Neg(x)) -> x"""

    x = any_()
    inner = op(("Not", "Neg", "BitwiseNot"), x, shared=True)
    root = op(("Not", "Neg", "BitwiseNot"), inner)

    def check(self, m: Match) -> None:
        """The same operator twice."""
        m.require(m.node(self.inner).op == m.root.op, "two different operators")
        m.require_forward(m[self.x])


class RemoveSplitConcat(Forward):
    """Concat(Split(x, axis=a)..., axis=a) -> x where all parts come back in order."""

    x = any_()
    split = op("Split", x, opt_any(), keep={"axis", "num_outputs"}, shared=True)
    root = op("Concat", split, keep={"axis"}, variadic=True)

    def check(self, m: Match) -> None:
        """All parts, in order, along the same axis."""
        split = m.node(self.split)
        same = len(split.outputs) == len(m.root.inputs) and all(a is b for a, b in zip(split.outputs, m.root.inputs))
        m.require(same, "not all parts in order")
        rank = len(m[self.x].shape)
        m.require(int(attr(split, "axis")) % rank == int(attr(m.root, "axis")) % rank, "the axes differ")
        m.require_forward(m[self.x])


class DropEmptyOperands(Rule):
    """Concat(a, empty, b) -> Concat(a, b)"""

    root = op("Concat", any_(), keep={"axis"}, variadic=True)

    def check(self, m: Match) -> None:
        """Something to drop, something to keep."""
        kept = self._kept(m)
        m.require(0 < len(kept) < len(m.root.inputs), "no operand is known to be empty")

    def rewrite(self, m: Match, e: Editor) -> Value:
        """Concat of the rest."""
        return e.node("Concat", list(self._kept(m)), dict(m.root.attrs)).out

    @staticmethod
    def _kept(m: Match) -> list[Value]:
        axis = int(attr(m.root, "axis"))
        return [v for v in m.root.inputs if v is not None and not _is_zero(v.shape[axis])]


def _is_zero(d: Dim) -> bool:
    return isinstance(d, int) and d == 0


def _context(m: Match) -> InferContext:
    assert m.root.graph is not None
    return InferContext(m.root, m.root.graph)


@register_pass
@dataclass(frozen=True)
class RemoveNoOps(RewritePass):
    """Removes nodes that hand their input on unchanged: Identity, Dropout, whole Slice, zero Pad, Concat of one, ..."""

    name: ClassVar[str] = "remove-no-ops"
    rules: ClassVar[tuple[Rule, ...]] = (
        RemoveIdentity(), RemoveDropout(), RemoveUnchangedShape(), RemoveTranspose(), RemoveSlice(), RemovePad(),
        RemoveTile(),
        RemoveSingleOperand(), RemoveSplitOfOne(), RemoveEmptyReduce(), RemoveUnboundedClip(), RemoveConstantWhere(),
        RemoveInvolution(), RemoveSplitConcat(), DropEmptyOperands(),
    )  # fmt: skip
