"""Products of matrices."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.types import SINGLE, KernelTypes
from graphopt.backends.tensors.tensor import Expr


@dataclass(frozen=True)
class MatmulSpec:
    """One matrix product.

    Attributes:
        m: rows, leading dimensions of A flattened into them; an int or a symbolic ``tirx.Var``.
        n: columns.
        k: reduction length.
        types: element types of A, B, sums and result.
    """

    m: tirx.Expr | int
    n: int
    k: int
    types: KernelTypes = SINGLE

    @property
    def static_m(self) -> int | None:
        """``m`` if it is known."""
        return self.m if isinstance(self.m, int) else None

    @property
    def flops(self) -> int | None:
        """Multiplies plus additions, or None for symbolic ``m``."""
        return None if self.static_m is None else 2 * self.static_m * self.n * self.k


@dataclass(frozen=True)
class BatchedSpec:
    """Matrix products of one shape.

    Attributes:
        batch: leading dimensions of the result.
        a_batch, b_batch: leading dimensions of the operands, 1 where broadcast; no more of them than of ``batch``.
        m, n, k: extents of one product.
        transposed_a, transposed_b: whether the last two axes of an operand come in the other order.
        types: element types of A (input), B (weight), sums and result.
    """

    batch: tuple[Expr, ...]
    a_batch: tuple[Expr, ...]
    b_batch: tuple[Expr, ...]
    m: Expr
    n: Expr
    k: Expr
    transposed_a: bool = False
    transposed_b: bool = False
    types: KernelTypes = SINGLE

    @property
    def a_shape(self) -> tuple[Expr, ...]:
        """Shape of the first operand."""
        return (*self.a_batch, *((self.k, self.m) if self.transposed_a else (self.m, self.k)))

    @property
    def b_shape(self) -> tuple[Expr, ...]:
        """Shape of the second operand."""
        return (*self.b_batch, *((self.n, self.k) if self.transposed_b else (self.k, self.n)))
