"""Products of two matrices as Gemm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Value
from graphopt.ops.context import attr
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import any_, op, opt_any
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule


class MatMulAddToGemm(Rule):
    """Add(MatMul(a, b), c) -> Gemm(a, b, c) for matrices a and b.  Does not fire when c widens the product."""

    a, b, c = any_(), any_(), any_()
    product = op("MatMul", a, b)
    root = op("Add", product, c)

    def check(self, m: Match) -> None:
        """Matrices of floats; c broadcasts one way."""
        a, b, out = m[self.a], m[self.b], m[self.product]
        m.require(len(a.shape) == 2 and len(b.shape) == 2, "an operand is not a matrix", a if len(a.shape) != 2 else b)
        m.require(out.dtype.is_float, "the result is not floating point", out)
        m.require(out.shape == m.root.out.shape, "the addend widens the product", m[self.c])
        m.require(len(m[self.c].shape) <= 2, "the addend has more than two axes", m[self.c])

    def rewrite(self, m: Match, e: Editor) -> Value:
        """One Gemm."""
        return e.node("Gemm", [m[self.a], m[self.b], m[self.c]]).out


class TransposeIntoGemmA(Rule):
    """Gemm(Transpose(a), b, c?) -> Gemm(a, b, c?, transA flipped)"""

    a, b, c = any_(), any_(), opt_any()
    turned = op("Transpose", a, require={}, keep={"perm"}, shared=True)
    root = op("Gemm", turned, b, c, keep={"alpha", "beta", "transA", "transB"})

    def check(self, m: Match) -> None:
        """A transposition that moves something (the identity is removed elsewhere)."""
        m.require(list(attr(m.node(self.turned), "perm") or [1, 0]) == [1, 0], "nothing is transposed")

    def rewrite(self, m: Match, e: Editor) -> Value:
        """Gemm reading the untransposed operand."""
        flipped = {**m.root.attrs, "transA": 1 - int(attr(m.root, "transA"))}
        return e.node("Gemm", [m[self.a], m[self.b], m.get(self.c)], flipped).out


class TransposeIntoGemmB(Rule):
    """Gemm(a, Transpose(b), c?) -> Gemm(a, b, c?, transB flipped)"""

    a, b, c = any_(), any_(), opt_any()
    turned = op("Transpose", b, keep={"perm"}, shared=True)
    root = op("Gemm", a, turned, c, keep={"alpha", "beta", "transA", "transB"})

    def check(self, m: Match) -> None:
        """A transposition that moves something."""
        m.require(list(attr(m.node(self.turned), "perm") or [1, 0]) == [1, 0], "nothing is transposed")

    def rewrite(self, m: Match, e: Editor) -> Value:
        """Gemm reading the untransposed operand."""
        flipped = {**m.root.attrs, "transB": 1 - int(attr(m.root, "transB"))}
        return e.node("Gemm", [m[self.a], m[self.b], m.get(self.c)], flipped).out


@register_pass
@dataclass(frozen=True)
class MakeGemm(RewritePass):
    """Turns MatMul plus Add of matrices into Gemm, and takes transposed operands into it."""

    name: ClassVar[str] = "make-gemm"
    rules: ClassVar[tuple[Rule, ...]] = (MatMulAddToGemm(), TransposeIntoGemmA(), TransposeIntoGemmB())
