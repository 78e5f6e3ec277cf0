"""Strassen's matrix products: how a problem is cut, and how the constant operand is transformed and packed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import HALF
from graphopt.backends.base.packing import Packing
from graphopt.backends.cpu.kernels.strassen_transforms import PRODUCTS, QUADRANTS, quadrant_place, right_factors
from graphopt.backends.specs.matmul import MatmulSpec
from graphopt.backends.specs.types import SINGLE, KernelTypes
from graphopt.backends.templates.packed_array import aligned_copy
from graphopt.ir.graph import Array

HALVES = KernelTypes(HALF, HALF, HALF, HALF)
LEVELS = {SINGLE: (1, 2), HALVES: (1,)}
"""Of recursion, by operands: each saves an eighth of the products, makes the second operand 7/4 as large, and makes rounding errors
some three times as large."""
_LEAST_HALVES = 512
"""Products of float16 in a sum from which on it is worth its noise: plain ones of fewer are as precise as storage."""
_MOST_BYTES = 16 << 20
"""Of a transformed operand. Larger ones come from memory at every run, and would make files of large models much larger."""


@dataclass(frozen=True)
class StrassenConfig:
    """How to compute it.

    Attributes:
        levels: of recursion.
        lanes: sums per accumulator vector.
        n_vectors: accumulator vectors of columns per panel.
        m_tile: rows of a register tile, of each part.
        block: rows of each part that go through all stages together.
        group: panels whose products are computed before they are transformed back.
        by_group: threads take groups of panels; otherwise blocks of rows.
        parallel: whether the work is worth more than one thread.
        by_lane: steps of a row that come with one load, for multiply-adds by lane; 1 for one at a time.
    """

    levels: int
    lanes: int
    n_vectors: int
    m_tile: int
    block: int
    group: int = 1
    by_group: bool = False
    parallel: bool = False
    by_lane: int = 1

    @property
    def parts(self) -> int:
        """Parts that each axis is cut into."""
        return int(2**self.levels)

    @property
    def products(self) -> int:
        """Products of parts."""
        return int(PRODUCTS**self.levels)

    @property
    def panel(self) -> int:
        """Columns per panel."""
        return self.lanes * self.n_vectors

    def part_columns(self, n: int) -> int:
        """Columns of each part of ``n``: whole panels. Those of the last part may be fewer, or none be there."""
        return -(-n // (self.parts * self.panel)) * self.panel


def supports(spec: MatmulSpec, caps: Caps, together: int = 1) -> str | None:
    """Why no level of recursion can compute ``spec``, whose steps are cut in multiples of ``together``, or None if one can."""
    if not caps.multiplies_by_lane:
        return "it pays only where additions take as long as multiply-adds: not measured on this processor"
    if _multiplied(spec.types) not in LEVELS:
        return "needs operands in float32, or in float16 that is multiplied as such"
    if spec.static_m is None or min(spec.static_m, spec.n, spec.k) < 2:
        return "needs a known number of rows, columns and products, two at least"
    if not fitting_levels(spec, caps, together):
        return "halves of a row or of the columns aren't whole vectors, or the second operand is too large"
    return None


def _multiplied(types: KernelTypes) -> KernelTypes:
    """The types but that of the result, to which the epilogue converts."""
    return replace(types, output=types.accumulator)


def fitting_levels(spec: MatmulSpec, caps: Caps, together: int = 1) -> list[int]:
    """How often halves of rows can be cut in halves that are whole vectors, and whole multiples of ``together`` steps."""
    lanes, types = spec.types.lanes(caps), _multiplied(spec.types)

    def fits(levels: int) -> bool:
        nbytes = spec.types.accumulator.bytes * spec.n * spec.k * PRODUCTS**levels // QUADRANTS**levels
        least = _LEAST_HALVES if types == HALVES else 0
        return spec.k % (math.lcm(lanes, together) << levels) == 0 and nbytes <= _MOST_BYTES and spec.k >= least

    return [levels for levels in LEVELS[types] if spec.n % lanes == 0 and fits(levels)]


def packed_weight_shape(spec: MatmulSpec, config: StrassenConfig) -> tuple[int, ...]:
    """Shape of the transformed second operand: (groups, products, panels of a group, K of a part, columns of a panel)."""
    groups = -(-config.part_columns(spec.n) // (config.panel * config.group))
    return groups, config.products, config.group, spec.k // config.parts, config.panel


@dataclass(frozen=True)
class StrassenPacking(Packing):
    """A second operand transformed, as `packed_weight_shape` says; filled up with zero columns.

    Attributes:
        turned: whether the constant is its transpose.
        levels: of recursion.
        panels: panels of a group.
        width: columns of a panel.
        halves: whether they are float16.
    """

    turned: bool
    levels: int
    panels: int
    width: int
    halves: bool = False

    def packed(self, array: Array) -> Array:
        """Summed in float64, rounded once."""
        b = array.T if self.turned else array
        k, n = len(b), b.shape[1]
        parts = 2**self.levels
        columns = -(-n // (parts * self.width)) * self.width
        filled = np.zeros((k, parts * columns), np.float64)
        filled[:, :n] = b
        cut = filled.reshape(parts, k // parts, parts, columns)
        places = [quadrant_place(i, self.levels) for i in range(QUADRANTS**self.levels)]

        def element(number: int) -> Array:
            row, column = places[number]
            return cut[row, :, column]

        together = np.empty((PRODUCTS**self.levels, k // parts, columns), np.float16 if self.halves else np.float32)
        for product, factor in right_factors(element, self.levels, lambda term: term):
            together[product] = factor
        groups = -(-columns // (self.panels * self.width))
        missing = groups * self.panels * self.width - columns
        if missing:
            together = np.pad(together, ((0, 0), (0, 0), (0, missing)))
        split = together.reshape(len(together), k // parts, groups, self.panels, self.width)
        return aligned_copy(split.transpose(2, 0, 3, 1, 4))


@dataclass(frozen=True)
class FilterPacking(Packing):
    """OIHW weights as the second operand of the product that a convolution is.

    Attributes:
        block: channels of a block.
        order: of a constant of a row for each output channel, its steps as `strassen_operands.product_of` orders them.
    """

    block: int
    order: StrassenPacking

    def packed(self, array: Array) -> Array:
        """Ordered by blocks of channels, taps, channels of a block."""
        outputs, channels, *kernel = array.shape
        cut = array.reshape(outputs, channels // self.block, self.block, *kernel)
        return self.order(np.ascontiguousarray(cut.transpose(0, 1, 3, 4, 2)).reshape(outputs, -1))


def packing(spec: MatmulSpec, config: StrassenConfig, turned: bool = False) -> StrassenPacking:
    """How the second operand is packed, or its transpose if the constant is that."""
    shape = (spec.n, spec.k) if turned else (spec.k, spec.n)
    return StrassenPacking(shape, turned, config.levels, config.group, config.panel, spec.types.accumulator is HALF)
