"""What is done with a result of attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.storing import EpilogueFn, StoreStyle
from graphopt.backends.tensors.tensor import Expr


@dataclass(frozen=True)
class Finish:
    """The epilogue of attention and where its values go.

    Attributes:
        epilogue: maps a result at its index in the output to the stored value.
        operands: further inputs of the epilogue.
        output: the output.
        style: how the loops around the epilogue are written.
    """

    epilogue: EpilogueFn
    operands: Sequence[tirx.Buffer]
    output: View
    style: StoreStyle

    def store(self, value: Expr, index: tuple[Expr, ...]) -> None:
        """Emits the store of a result."""
        self.output.store(self.epilogue(value, index, self.operands), list(index))
