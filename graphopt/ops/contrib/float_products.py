"""Matrix products of floats with transpositions, a factor or an activation: FusedMatMul, FusedGemm."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.graph import Value
from graphopt.ops.contrib.activations import activated
from graphopt.ops.contrib.builder import Builder
from graphopt.ops.contrib.table import becomes_plain


@becomes_plain(
    "FusedMatMul", "TransposeMatMul", operands="A B", attributes="alpha transA transB transBatchA transBatchB"
)
def matmul(b: Builder) -> Sequence[Value]:
    """``Y = alpha * MatMul(A', B')``, the operands turned as the attributes say."""
    left, right = _turned(b, "A"), _turned(b, "B")
    return [b.scaled(b.emit("MatMul", [left, right]), b.number("alpha", 1.0))]


def _turned(b: Builder, name: str) -> Value:
    """An operand as MatMul wants it.

    ``transBatch`` says that the rows come before the batch axes, as the first axis; ``trans`` that rows and columns are
    exchanged. A vector is left as it is.
    """
    value, swap, batch = b.x(name), b.flag(f"trans{name}"), b.flag(f"transBatch{name}")
    rank = b.rank(value)
    if rank < 2:
        return value
    order = list(range(rank))
    if batch and rank > 2:
        order = [*range(1, rank - 1), 0, rank - 1]
    if swap:
        order = [*order[:-2], order[-1], order[-2]]
    return b.transposed(value, order)


@becomes_plain(
    "FusedGemm",
    operands="A B C?",
    attributes="activation activation_alpha activation_beta activation_gamma alpha beta transA transB",
)
def gemm(b: Builder) -> Sequence[Value]:
    """Gemm and an activation behind it."""
    sums = b.emit("Gemm", [b.x("A"), b.x("B"), b.option("C")], b.kept("alpha", "beta", "transA", "transB"))
    given = [name for name in ("activation_alpha", "activation_beta", "activation_gamma") if name in b.node.attrs]
    return [activated(b, sums, b.text("activation", ""), [b.number(name, 0.0) for name in given])]
