"""Which buffers' sizes still have to be checked before they are allocated."""

from __future__ import annotations

import math
from collections.abc import Callable

from graphopt.backends.program.dims import Extents
from graphopt.errors import ModelError
from graphopt.ir.dims import symbols_of
from graphopt.ir.graph import Value
from graphopt.ir.types import Shape

ADDRESSABLE = 2**47
"""Bytes that a process can address at most on the processors that code is generated for."""


class MemoryChecks:
    """The sizes of one program's buffers, each checked once."""

    def __init__(self) -> None:
        self._seen: set[tuple[Shape, int]] = set()
        self._open: list[Extents] = []

    def add(self, value: Value, shape: Shape) -> None:
        """A buffer of ``shape`` for a value will be allocated: checked now where the size is known.

        Raises:
            ModelError: no machine has so much memory.
        """
        itemsize = (value.dtype.bits + 7) // 8
        label = value.name if value.producer is None else value.producer.label
        extents = [d for d in shape if isinstance(d, int)]
        if len(extents) < len(shape):
            if (shape, itemsize) not in self._seen:
                self._seen.add((shape, itemsize))
                self._open.append(Extents(shape, itemsize, label))
            return
        size = math.prod(extents) * itemsize
        if size > ADDRESSABLE:
            raise ModelError(
                f"%{value.name} of shape {extents} would take {size / 2**40:.4g} TiB", code="too-large", node=label,
                hint="check the shapes of the inputs and the constants that decide this shape",
            )  # fmt: skip

    def take(self, ready: Callable[[frozenset[str]], bool]) -> list[Extents]:
        """The sizes whose symbols are ready; nobody else gets them."""
        found = [e for e in self._open if ready(symbols_of(*e.shape))]
        self._open = [e for e in self._open if e not in found]
        return found
