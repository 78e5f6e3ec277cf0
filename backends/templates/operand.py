"""How kernels reach their operands: elements are read as what is computed with, and written as what is stored.

A kernel indexes views and never sees how an element is stored; that follows from the table of element types.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from graphopt.backends.base.dot_product import DotProduct
from graphopt.backends.base.element_type import ElementType, computed_type
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T

Parameter: TypeAlias = "tuple[str, Sequence[tirx.Expr | int], ElementType]"
"""Name, physical shape and element type of a kernel's parameter."""


class View:
    """A buffer whose elements are of a type of the table.

    Attributes:
        buffer: the TVM buffer.
        type: how its elements are stored and computed with.
    """

    def __init__(self, buffer: tirx.Buffer, type_: ElementType) -> None:
        self.buffer = buffer
        self.type = type_

    @property
    def shape(self) -> Any:
        """The buffer's extents."""
        return self.buffer.shape

    def __getitem__(self, index: Any) -> tirx.Expr:
        """The element at ``index`` as one to compute with; a vector of them where the index holds a ramp."""
        return self.type.computed(self.buffer[index])

    def load(self, index: Sequence[Any]) -> tirx.Expr:
        """The same for an index that is made of expressions only."""
        return self.type.computed(tirx.BufferLoad(self.buffer, list(index)))

    def store(self, value: tirx.Expr, index: Sequence[Any]) -> None:
        """Emits the writing of ``value``, which may be one to compute with or one to store."""
        T.buffer_store(self.buffer, self.type.stored(value), list(index))

    def reshaped(self, shape: Sequence[Any]) -> View:
        """Emits another view of the same memory."""
        return View(T.decl_buffer(tuple(shape), self.type.storage, data=self.buffer.data), self.type)

    def address(self, index: Sequence[Any]) -> tirx.Expr:
        """Where the element at ``index`` lies."""
        return T.address_of(self.buffer[tuple(index)])


GROUPED = computed_type("int32")
"""The row of operands of which groups of elements are read as one integer of 32 bits, for a dot product."""


GROUPED_BYTES = computed_type("int16")
"""The same for pairs of bytes that a dot product widens when it reads them."""


def grouped_weight(weight: ElementType, dot: DotProduct | None) -> ElementType:
    """The row in which a kernel reads weights that were packed for a dot product; as they are without one."""
    if dot is None:
        return weight
    return GROUPED_BYTES if dot.group * weight.bytes < GROUPED.bytes else GROUPED


def grouped(operand: View, dot: DotProduct) -> View:
    """Emits a view of the same memory in which the elements that a dot product multiplies at once are one."""
    *lead, last = operand.shape
    shape = (*lead, tirx.floordiv(last, dot.group))
    return View(T.decl_buffer(shape, GROUPED.storage, data=operand.buffer.data), GROUPED)


def side_by_side(elements: Sequence[tirx.Expr]) -> tirx.Expr:
    """Elements as they are stored, of equal widths that add up to 32 bits, as one integer: the first in the lowest bits."""
    bits = 32 // len(elements)
    total, *parts = [element.astype("uint32") for element in elements]
    for i, part in enumerate(parts, 1):
        total = tirx.bitwise_or(total, tirx.shift_left(part, tirx.const(i * bits, "uint32")))
    return tirx.reinterpret(GROUPED.storage, total)
