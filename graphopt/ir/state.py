"""What a model hands to its own next run: an input that it appends to and returns."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.dims import Dim, as_symbol
from graphopt.ir.graph import Node, Value
from graphopt.ir.layout import Layout


@dataclass(frozen=True)
class State:
    """``present = Concat(past, new, ...)`` along an axis, with the present an output and the past an input of the model.

    Attributes:
        axis: along which it grows; not negative.
    """

    past: Value
    present: Value
    axis: int

    @property
    def concat(self) -> Node:
        """The node that appends."""
        assert self.present.producer is not None
        return self.present.producer

    @property
    def length(self) -> str:
        """The symbol of the past's extent along the axis."""
        name = as_symbol(self.past.shape[self.axis])
        assert name is not None
        return name

    @property
    def appended(self) -> Dim:
        """How much one run adds to that extent."""
        return self.present.shape[self.axis] - self.past.shape[self.axis]

    @property
    def layout(self) -> Layout:
        """The order in memory in which what is new comes behind all that was there: the axis outermost."""
        rank = len(self.past.shape)
        return Layout((self.axis, *(a for a in range(rank) if a != self.axis)))
