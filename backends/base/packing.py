"""Orders in which kernels read constants, as values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from graphopt.ir.graph import Array


@dataclass(frozen=True)
class Packing(ABC):
    """An order in which a kernel reads a constant. Equal ones make equal arrays of it, so that all who share it share them too.

    Subclasses are frozen dataclasses: all that the order depends on is a field, nothing else of the kernel is.

    Attributes:
        shape: the constant's.
    """

    shape: tuple[int, ...]

    def __call__(self, array: Array) -> Array:
        """The array that the kernel reads, of the constant's element type unless the packing says otherwise.

        Raises:
            ValueError: the constant has another shape.
        """
        if array.shape != self.shape:
            raise ValueError(f"weight has shape {array.shape}, expected {self.shape}")
        return self.packed(array)

    @abstractmethod
    def packed(self, array: Array) -> Array:
        """The array made of one of ``shape``."""
