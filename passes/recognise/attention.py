"""Attention out of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.dims import Dim
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Value
from graphopt.ops.context import attr
from graphopt.passes.recognise.introduce import FLOATS, introduce
from graphopt.rewrite.passes import first_version, register_pass
from graphopt.rewrite.pattern import Pattern, any_, const, either, op
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule


class AttentionFromParts(Rule):
    """MatMul(Softmax(MatMul(q, kT) * c? + mask?), v) -> Attention(q, Transpose(kT), v, mask?, scale=c).

    Heads are on axis 1. PyTorch's exporter puts zeros in place of weights that are NaN, which those of a query without a key are;
    Attention gives these zeros itself, and lets NaN in its operands through, as PyTorch does. Does not fire on other ranks than 4,
    when heads or batch are broadcast, or when the mask is along the keys.
    """

    q, kt, v, mask = any_(), any_(), any_(), any_()
    factor, divisor = const(lambda a: a.size == 1), const(lambda a: a.size == 1)
    scores = op("MatMul", q, kt)
    scaled: Pattern = either(op("Mul", scores, factor), op("Div", scores, divisor), scores)
    weights = op("Softmax", either(op("Add", scaled, mask), scaled), keep={"axis"})
    zero = const(lambda a: a.size == 1 and not np.any(a))
    guarded = op("Where", op("IsNaN", weights), zero, weights)
    root = op("MatMul", either(guarded, weights), v)

    def check(self, m: Match) -> None:
        """Four axes, no broadcasting."""
        m.require(m.ctx.allows("Attention"), f"Attention needs opset {first_version('Attention')}")
        q, kt, v = m[self.q], m[self.kt], m[self.v]
        for value in (q, kt, v):
            m.require(len(value.shape) == 4, "it has not four axes", value)
            m.require(value.dtype in FLOATS, f"Attention is not used for {value.dtype}", value)
            m.require(value.shape[:2] == q.shape[:2], "batch or heads are broadcast", value)
        node = m.node(self.weights)
        m.require(int(attr(node, "axis")) in (-1, 3), "Softmax does not run over the keys", node)
        m.require(kt.shape[3] == v.shape[2], "keys and values differ in length", v)
        mask = m.get(self.mask)
        if mask is not None:
            full: tuple[Dim, ...] = (*q.shape[:3], kt.shape[3])
            m.require(mask.dtype is q.dtype, "the mask has another type", mask)
            m.require(2 <= len(mask.shape) <= 4 and mask.shape[-1] == full[3], "the mask is broadcast", mask)
            lead = zip(mask.shape[:-1][::-1], full[:3][::-1])
            m.require(all(d == f or d == 1 for d, f in lead), "the mask widens the scores", mask)

    def rewrite(self, m: Match, e: Editor) -> Value:
        """One Attention; the transposition of the keys usually cancels the exporter's own."""
        keys = e.node("Transpose", [m[self.kt]], {"perm": [0, 1, 3, 2]}).out
        scale = 1.0
        if m.get(self.factor) is not None:
            scale = float(m.array(self.factor).reshape(-1)[0])
        elif m.get(self.divisor) is not None:
            scale = 1.0 / float(m.array(self.divisor).reshape(-1)[0])
        operands = [m[self.q], keys, m[self.v], m.get(self.mask)]
        return introduce(e, "Attention", operands, {"scale": scale})


@register_pass
@dataclass(frozen=True)
class RecogniseAttention(RewritePass):
    """Recognises scaled dot-product attention as ONNX's Attention (opset 23)."""

    name: ClassVar[str] = "recognise-attention"
    rules: ClassVar[tuple[Rule, ...]] = (AttentionFromParts(),)
