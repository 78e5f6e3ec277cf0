"""The element types of a kernel's operands: part of every specification."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import FLOAT32, ElementType


@dataclass(frozen=True)
class KernelTypes:
    """Element types of one kernel.

    Attributes:
        input: of the data.
        weight: of the second operand, as it lies in memory.
        accumulator: in which sums are kept, and in which the epilogue begins.
        output: of the result.
    """

    input: ElementType = FLOAT32
    weight: ElementType = FLOAT32
    accumulator: ElementType = FLOAT32
    output: ElementType = FLOAT32

    @property
    def sum(self) -> str:
        """TVM's name of an accumulator's type."""
        return self.accumulator.compute

    @property
    def of_integers(self) -> bool:
        """Whether integers are multiplied and added up, which is exact."""
        return self.accumulator.compute == "int32"

    def lanes(self, caps: Caps) -> int:
        """Accumulators in a vector register."""
        return caps.lanes(self.accumulator.bytes)


SINGLE = KernelTypes()
"""Everything in float32."""
