"""Attention."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.element_type import FLOAT32, ElementType
from graphopt.backends.specs.types import SINGLE, KernelTypes
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.layout import PLAIN, Layout


@dataclass(frozen=True)
class AttentionSpec:
    """Extents, options and element types.

    Attributes:
        batch, queries, keys: ints or symbolic.
        heads, kv_heads: query head i reads key head ``i // (heads / kv_heads)``.
        size, v_size: length of a query or key, and of a value.
        scale: factor of the scores.
        causal: whether query i sees keys up to i only.
        packed: operands are (batch, length, heads * size) instead of (batch, heads, length, size).
        mask_shape: shape of the mask, which broadcasts to (batch, heads, queries, keys); None if there is none.
        mask_type: a float: added to the scores; ``bool``: tells which of them count.
        value_type: of the values, which need not be that of the keys.
        key_layout, value_layout: how keys and values are stored, the elements of a vector innermost.
        types: element types of queries (input), keys (weight), sums and result.
    """

    batch: Expr
    heads: int
    kv_heads: int
    queries: Expr
    keys: Expr
    size: int
    v_size: int
    scale: float
    causal: bool = False
    packed: bool = False
    mask_shape: tuple[Expr, ...] | None = None
    mask_type: ElementType = FLOAT32
    value_type: ElementType = FLOAT32
    types: KernelTypes = SINGLE
    key_layout: Layout = PLAIN
    value_layout: Layout = PLAIN

    def shape(self, heads: int, length: Expr, size: int) -> tuple[Expr, ...]:
        """Shape of an operand."""
        return (self.batch, length, heads * size) if self.packed else (self.batch, heads, length, size)

    def at(self, batch: Expr, head: Expr, position: Expr, i: Expr, size: int) -> tuple[Expr, ...]:
        """Index of an operand's element."""
        return (batch, position, head * size + i) if self.packed else (batch, head, position, i)
