"""How a recurrent layer's gates lie in memory: blocks of hidden units, in each block all gates of a pass side by side.

One pass over a state then computes every gate of a block in registers, and the next operation has all that it needs. The same order
holds for what comes of the sequence, so that those sums are where a block's accumulators begin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.backends.base.formula import Formula
from graphopt.backends.base.packing import Packing
from graphopt.backends.templates.packed_array import aligned_zeros
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array


@dataclass(frozen=True)
class GateBlocks:
    """The columns of one pass.

    Attributes:
        gates: numbers of the gates that are computed together.
        width: hidden units in a block.
        blocks: number of blocks; the last one may reach beyond the units.
        first: column where the pass begins.
    """

    gates: tuple[int, ...]
    width: int
    blocks: int
    first: int = 0

    @property
    def columns(self) -> int:
        """Columns of a block."""
        return len(self.gates) * self.width

    @property
    def end(self) -> int:
        """Column behind the pass."""
        return self.first + self.blocks * self.columns

    def rows(self, hidden: int) -> Array:
        """For each column the row of ONNX's weight, -1 where there is no such unit."""
        block, gate, unit = np.ogrid[: self.blocks, : len(self.gates), : self.width]
        place = block * self.width + unit
        row = np.asarray(self.gates)[gate] * hidden + place
        return np.where(place < hidden, row, -1).reshape(-1)


def _in_order(array: Array, order: Array, columns: int) -> Array:
    """The elements of the last axis in an order, zeros for -1 and up to ``columns``."""
    out = aligned_zeros((*array.shape[:-1], columns), array.dtype)
    kept = np.flatnonzero(order >= 0)
    out[..., kept] = array[..., order[kept]]
    return out


@dataclass(frozen=True)
class GatePacking(Packing):
    """A weight of shape (directions, gates * hidden, K) as (directions * panels, K, columns of a panel).

    Attributes:
        hidden: units.
        passes: the columns, of which several passes follow one another.
        width: columns of a panel, the last one of a direction filled up with zeros.
    """

    hidden: int
    passes: tuple[GateBlocks, ...]
    width: int

    @property
    def panels(self) -> int:
        """Panels of a direction."""
        return -(-sum(p.blocks * p.columns for p in self.passes) // self.width)

    @property
    def packed_shape(self) -> tuple[int, int, int]:
        """Shape of the result."""
        return self.shape[0] * self.panels, self.shape[2], self.width

    def packed(self, array: Array) -> Array:
        """The panels, one direction after the other."""
        directions, _, steps = array.shape
        order = np.concatenate([p.rows(self.hidden) for p in self.passes])
        packed = aligned_zeros(self.packed_shape, array.dtype)
        for d in range(directions):
            columns = _in_order(array[d].T, order, self.panels * self.width)
            panels = columns.reshape(steps, self.panels, self.width).swapaxes(0, 1)
            packed[d * self.panels : (d + 1) * self.panels] = panels
        return packed


@dataclass(frozen=True)
class GateBias(Formula):
    """What is added to a product with the sequence: the sum of both biases, (directions, columns).

    Attributes:
        directions, hidden: of the layer.
        passes: the columns.
        columns: of a direction, zeros behind those of the passes.
        apart: a gate whose recurrent bias is left out; -1 for none.
    """

    directions: int
    hidden: int
    passes: tuple[GateBlocks, ...]
    columns: int
    apart: int

    @property
    def dtype(self) -> DType:
        """float32."""
        return DType.f32

    @property
    def shape(self) -> tuple[int, ...]:
        """Directions and columns."""
        return self.directions, self.columns

    def __call__(self, *arrays: Array) -> Array:
        """The sums for ONNX's bias, (directions, 2 * gates * hidden)."""
        own, recurrent = np.split(arrays[0].astype(np.float32), 2, axis=1)
        if self.apart >= 0:
            recurrent[:, self.apart * self.hidden : (self.apart + 1) * self.hidden] = 0
        order = np.concatenate([p.rows(self.hidden) for p in self.passes])
        return _in_order(own + recurrent, order, self.columns)


@dataclass(frozen=True)
class UnitRows(Packing):
    """Rows of ``hidden`` units of a constant (directions, rows * hidden), each filled up with zeros.

    Attributes:
        hidden: units of a row.
        rows: half-open range of the rows that are taken.
        width: of a row in memory.
    """

    hidden: int
    rows: tuple[int, int]
    width: int

    @property
    def packed_shape(self) -> tuple[int, int, int]:
        """Shape of the result."""
        return self.shape[0], self.rows[1] - self.rows[0], self.width

    def packed(self, array: Array) -> Array:
        """(directions, rows, width)."""
        out = aligned_zeros(self.packed_shape, array.dtype)
        parts = array.reshape(array.shape[0], -1, self.hidden)
        out[:, :, : self.hidden] = parts[:, self.rows[0] : self.rows[1]]
        return out
