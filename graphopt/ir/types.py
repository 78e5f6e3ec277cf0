"""Types of values."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.ir.dims import Dim, known, symbols_of
from graphopt.ir.dtypes import DType

Shape = tuple[Dim, ...]

MAX_ELEMENTS = 1 << 40
"""More elements than any memory holds: a shape beyond it is taken for damage."""


@dataclass(frozen=True)
class TensorType:
    """A dense tensor. ``shape`` is None only where not even the rank is known."""

    dtype: DType
    shape: Shape | None

    @property
    def rank(self) -> int | None:
        """Number of dimensions, None if unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a known integer."""
        return self.shape is not None and known(self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as integers.

        Raises:
            ValueError: a dimension is symbolic or the rank unknown.
        """
        if self.shape is None or not known(self.shape):
            raise ValueError(f"{self} is not static")
        return tuple(int(d) for d in self.shape)  # type: ignore[arg-type]

    @property
    def num_elements(self) -> int | None:
        """Elements, None unless static."""
        return math.prod(self.static_shape) if self.is_static else None

    @property
    def symbols(self) -> frozenset[str]:
        """Symbols the shape depends on."""
        return symbols_of(*self.shape) if self.shape is not None else frozenset()

    def __str__(self) -> str:
        dims = "*" if self.shape is None else ", ".join(str(d) for d in self.shape)
        return f"{self.dtype}[{dims}]"


@dataclass(frozen=True)
class OpaqueType:
    """Anything that is not a dense tensor (sequence, optional, map): carried along, never compiled."""

    description: str

    def __str__(self) -> str:
        return self.description


Type = TensorType | OpaqueType
