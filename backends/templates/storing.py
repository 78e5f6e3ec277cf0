"""What a kernel does with a finished accumulator before it stores it, and the operands that this needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from graphopt.backends.base.element_type import FLOAT32, ElementType
from graphopt.backends.base.tvm_api import IRBuilder, tirx
from graphopt.backends.base.tvm_api import tirx_builder as T

EpilogueFn = Callable[[tirx.Expr, tuple[tirx.Expr, ...], Sequence[tirx.Buffer]], tirx.Expr]
"""``(accumulator, logical output index, extra operand buffers) -> value to store``.

The index is ``(n, c, h, w)`` for a convolution and ``(m, n)`` for a matrix product, whatever the physical layout; it
may contain the variable of a vectorised loop; then the function must be built of expressions only. Where TVM can't vectorise
it (`StoreStyle.scalar`), it may write statements first at the place where it is called.
"""


@dataclass(frozen=True)
class BiasedEpilogue:
    """An epilogue that begins with the addition of a bias, which a kernel may do otherwise: by starting its sums with it.

    Attributes:
        whole: all of it.
        bias: ``(logical output index, extra operand buffers) -> what is added``, in the type of sums; the same for all points
            of a channel.
        rest: all but the addition.
    """

    whole: EpilogueFn
    bias: Callable[[tuple[tirx.Expr, ...], Sequence[tirx.Buffer]], tirx.Expr]
    rest: EpilogueFn

    def __call__(
        self, accumulator: tirx.Expr, index: tuple[tirx.Expr, ...], extras: Sequence[tirx.Buffer]
    ) -> tirx.Expr:
        """As any epilogue."""
        return self.whole(accumulator, index, extras)


@dataclass(frozen=True)
class ExtraOperand:
    """One more input of a kernel, read by its epilogue (bias, residual, per-channel scale, ...).

    Attributes:
        name: parameter name, a C identifier.
        shape: physical shape; the epilogue indexes it itself.
        type: element type.
    """

    name: str
    shape: tuple[tirx.Expr | int, ...]
    type: ElementType = FLOAT32


class StoreStyle(Enum):
    """How the loops around an epilogue are written.

    unrolled: from registers, once an accumulator vector: for a few instructions.
    rolled: from memory in a loop of vectors: one copy of the epilogue's code a tile, for long ones (exp, tanh).
    scalar: from memory lane by lane: for what TVM can't vectorise (conditionals, calls).
    """

    unrolled = "unrolled"
    rolled = "rolled"
    scalar = "scalar"


def store_accumulator(accumulator: tirx.Expr, index: tuple[tirx.Expr, ...], extras: Sequence[tirx.Buffer]) -> tirx.Expr:
    """The epilogue of a kernel with none: the accumulator as it is."""
    return accumulator


def depends_on_point(epilogue: EpilogueFn, extras: Sequence[tirx.Buffer], dtype: str) -> bool:
    """Whether a convolution's epilogue takes the row or the column of a point into account, not only its channel."""
    n, c, h, w = (tirx.Var(name, "int64") for name in "nchw")
    with IRBuilder() as builder, T.serial(0, 1):  # it may write statements
        T.evaluate(epilogue(tirx.const(0, dtype), (n, c, h, w), extras))
    used = tirx.analysis.undefined_vars(builder.get(), [])
    return any(var.same_as(place) for var in used for place in (h, w))
