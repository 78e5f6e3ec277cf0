"""What kernels read that is computed from several constants of the model, as values."""

from __future__ import annotations

from abc import ABC, abstractmethod

from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array


class Formula(ABC):
    """A computation on constants. Equal ones make equal arrays of equal constants, so that kernels that differ in constants alone
    are one kernel.

    Subclasses are frozen dataclasses: all that the result depends on beside the constants is a field.
    """

    @property
    @abstractmethod
    def dtype(self) -> DType:
        """Element type of the result."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""

    @abstractmethod
    def __call__(self, *arrays: Array) -> Array:
        """The result for some constants."""
