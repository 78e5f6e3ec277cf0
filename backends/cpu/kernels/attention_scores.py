"""Rows of attention scores that stay in cache: how a product becomes a score, and scores become weights of values."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.row import Row
from graphopt.backends.cpu.kernels.softmax_rows import scalar
from graphopt.backends.specs.attention import AttentionSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.dtypes import DType


@dataclass(frozen=True)
class Scores:
    """Rows of scores of one query each, in a task's own memory.

    Attributes:
        spec: the problem.
        mask: the mask, if there is one.
        rows: the scores, then their exponentials; rows are filled up with minus infinity to whole vectors.
        inverse: of the sum of a row's exponentials, by which results are multiplied last, as in Dao et al., "FlashAttention"
            (2022); rows of scores are kept whole, so that there is no rescaling.
    """

    spec: AttentionSpec
    mask: View | None
    rows: tirx.Buffer
    inverse: tirx.Buffer

    @classmethod
    def allocated(cls, spec: AttentionSpec, mask: View | None, count: int, length: Expr) -> Scores:
        """Emits the memory of ``count`` rows of ``length`` scores."""
        rows = T.alloc_buffer((count, length), spec.types.sum, scope="local")
        return cls(spec, mask, rows, T.alloc_buffer((count,), spec.types.sum, scope="local"))

    @property
    def nothing(self) -> Expr:
        """The score of a key that doesn't count."""
        return tirx.const(float("-inf"), self.spec.types.sum)

    def score(self, value: Expr, batch: Expr, head: Expr, query: Expr, key: Expr) -> Expr:
        """The score that the product of a query and a key makes."""
        spec, mask = self.spec, self.mask
        value = value * tirx.const(spec.scale, spec.types.sum)
        if mask is not None:
            index = (batch, head, query, key)[4 - len(mask.shape) :]
            here = mask[tuple(0 if _is_one(d) else i for i, d in zip(index, mask.shape))]
            value = _masked(value, here, spec.mask_type.dtype is DType.bool_)
        if spec.causal:
            value = tirx.Select(key <= query, value, self.nothing)
        return value

    def exponentials(self, row: Row, p: Expr) -> None:
        """Emits the exponentials of row ``p``, in place, and the inverse of their sum.

        A query that sees no key gets weights of 0, as in ONNX's reference.
        """
        scores, zero = self.rows, tirx.const(0.0, row.dtype)
        top = row.reduce(lambda i: scores[p, i], "max")
        base = scalar(tirx.Select(top > self.nothing, top, zero))

        def keep(i: Expr, value: Expr) -> Expr:
            T.buffer_store(scores, value, [p, i])
            return scores[p, i]

        total = row.reduce(lambda i: m.exp_up_to_60(scores[p, i] - base), keep=keep)
        inverse = tirx.Select(total > zero, tirx.const(1.0, row.dtype) / total, total)
        T.buffer_store(self.inverse, inverse, [p])


def _is_one(extent: Expr) -> bool:
    return isinstance(extent, (int, tirx.IntImm)) and int(extent) == 1


def _masked(score: Expr, mask: Expr, selects: bool) -> Expr:
    if selects:
        return tirx.Select(mask, score, tirx.const(float("-inf"), str(score.ty.dtype)))
    return score + mask
