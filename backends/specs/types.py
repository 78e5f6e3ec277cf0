"""The element types of a kernel's operands: part of every specification."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import ELEMENT_TYPES, FLOAT32, HALF, ElementType

MOST_HALVES = 144
"""Products of float16 that are added up in float16 before their sum goes to one in float32: 16 channels of a 3 x 3 kernel.

Each addition rounds the sum so far to 11 bits. Of n products of either sign that loses about 2**-12.5 * sqrt(n / 2) of the sum:
144 are 58 dB above their error, however many such parts follow. A way to float32 takes 8 instructions a vector."""

MOST_FILTERED_HALVES = 64
"""The same of transformed operands: the way back makes errors larger, so that parts are shorter."""

FILTERED_PART = 32
"""Products of a part where parts of transformed operands are added up in float16 too, as what is transformed back is that anyway.

A part takes half of the instructions that it takes in float32, so that parts may be half as long for the same: C channels lose
2**-12.5 * sqrt(16 + C / 64)."""


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

    def most_added(self, products: object, most: int = MOST_HALVES) -> int:
        """How many of ``products``, an integer if it is known, are added up in the accumulator's type before float32; 0 for all."""
        if self.accumulator is not HALF or (isinstance(products, int) and products <= most):
            return 0
        return most

    def within(self, products: object, most: int = MOST_HALVES) -> KernelTypes:
        """These types for a kernel that adds up all its ``products`` at once: float16 is added in float32 if they are too many."""
        return self.widened if self.most_added(products, most) else self

    @property
    def widened(self) -> KernelTypes:
        """These types, but float16 is stored and read only, and multiplied and added in float32."""
        if self.accumulator is not HALF:
            return self
        stored = ELEMENT_TYPES[HALF.dtype]
        data, weight, output = (stored if row is HALF else row for row in (self.input, self.weight, self.output))
        return KernelTypes(data, weight, FLOAT32, output)

    @property
    def of_integers(self) -> bool:
        """Whether integers are multiplied and added up, which is exact."""
        return self.accumulator.compute == "int32"

    def lanes(self, caps: Caps) -> int:
        """Accumulators in a vector register."""
        return caps.lanes(self.accumulator.bytes)


SINGLE = KernelTypes()
"""Everything in float32."""
