"""Buffers whose size follows from the extents of the inputs: which of them share memory is decided once, for all extents.

Buffers that never live together get one slot, which is as large as the largest of them. Where slots begin is a sum of few numbers,
so a run on inputs of new extents takes a kernel of a few instructions and no packing; and the plan is right whatever the extents
are, as it only depends on what lives when. The rule is the one for shared objects of Pisarchyk and Lee, "Efficient Memory
Management for Deep Neural Net Inference" (2020): the largest first, each into the smallest slot that is free while it lives. What
is largest is asked at nominal extents; where they mislead, slots are larger than they had to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphopt.backends.program.plan import Life, buffers_of, lives
from graphopt.backends.program.program import Buffer, Program
from graphopt.ir.dims import Dim, subs, symbol, symbols_of
from graphopt.ir.types import Shape

NOMINAL = 64
"""What an extent is taken for where buffers are compared."""

MOST_SIZES = 200
"""Most sizes in one slot, of which its own is the largest: what one kernel computes."""


def size_of(buffer: Buffer) -> tuple[Shape, int]:
    """Extents whose product is the number of elements in a buffer's own memory, and bytes of an element."""
    shape = buffer.shape
    if buffer.lodging is not None:
        shape = (*shape, 0 if buffer.lodging.flag is None else 1 - symbol(buffer.lodging.flag))
    return shape, (buffer.type.dtype.bits + 7) // 8


def nominal(dim: Dim, environment: Mapping[str, int]) -> int:
    """An extent where those of ``environment`` are nominal."""
    try:
        extent = subs(dim, environment)
    except ZeroDivisionError:
        return NOMINAL
    return max(extent, 0) if isinstance(extent, int) else NOMINAL


@dataclass
class Slot:
    """Memory of buffers that live one after the other.

    Attributes:
        sizes: `size_of` each buffer.
    """

    sizes: dict[tuple[Shape, int], None] = field(default_factory=dict)
    lives: list[Life] = field(default_factory=list)

    def takes(self, life: Life) -> bool:
        """Whether nothing in it lives at the same time, and it can have one more size."""
        if len(self.sizes) == MOST_SIZES and size_of(life.buffer) not in self.sizes:
            return False
        return all(life.last < other.first or other.last < life.first for other in self.lives)


def plan_slots(program: Program, values: Mapping[str, int]) -> list[Slot]:
    """Set ``Buffer.slot`` where a buffer's size follows from symbols that ``Program.sizing`` knows.

    Args:
        program: planned by `graphopt.backends.program.plan.plan_buffers`.
        values: of those symbols that are computed, at nominal extents.
    """
    sizing = program.sizing
    assert sizing is not None
    known = {*sizing.extents, *sizing.computed}
    environment = {**dict.fromkeys(sizing.extents, NOMINAL), **values}
    found = [life for life in lives(program, [*program.outputs, *sizing.states]) if _follows(life.buffer, known)]
    size = {life.buffer: _bytes(life.buffer, environment) for life in found}
    slots: list[Slot] = []
    place: dict[Buffer, int] = {}
    for life in sorted(found, key=lambda life: (-size[life.buffer], life.first)):
        # the slots are in the order of their sizes, as buffers are: the last one that is free is the smallest
        number = next((i for i in reversed(range(len(slots))) if slots[i].takes(life)), len(slots))
        if number == len(slots):
            slots.append(Slot())
        slots[number].lives.append(life)
        slots[number].sizes[size_of(life.buffer)] = None
        place[life.buffer] = number
    place.update((b, len(slots) + i) for i, b in enumerate(sizing.states))
    for b in buffers_of(program):
        root, shift = b.root
        while root.lodging is not None and root.lodging.flag is None:
            root = root.lodging.home.root[0]
        b.slot = place.get(root) if not shift and symbols_of(*b.shape) <= known else None
    return slots


def _follows(buffer: Buffer, known: set[str]) -> bool:
    if buffer.lodging is not None and buffer.lodging.flag is None:
        return False  # it never has memory of its own
    return buffer.static_bytes is None and symbols_of(*buffer.shape) <= known


def _bytes(buffer: Buffer, environment: Mapping[str, int]) -> int:
    shape, total = size_of(buffer)
    for d in shape:
        total *= nominal(d, environment)
    return total
