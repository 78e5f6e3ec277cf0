"""Products of a matrix with a constant one by Strassen's algorithm: ``out[m, n] = epilogue(sum_k a[m, k] * b[k, n])``.

Rows, steps of K and columns are cut into as many parts each; a block of rows of all parts goes through three stages together, as
tiles of Winograd convolution do (`conv2d_winograd`): its elements are combined to the first factors of 7 products, or 49, in
scratch that fits the second-level cache; these are multiplied with the second factors, which were made when compiling; and the
products are combined to the result, one group of panels of columns at a time, and finished by the epilogue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from graphopt.backends.base.element_type import computed_type
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.opaque import opaque, opaque_imported
from graphopt.backends.cpu.kernels.register_tile import ON_STACK, RegisterTile, bind, for_each_tile, guarded, tile_count
from graphopt.backends.cpu.kernels.side_by_side import vectors_side_by_side
from graphopt.backends.cpu.kernels.strassen_tile import StrassenConfig
from graphopt.backends.cpu.kernels.strassen_transforms import QUADRANTS, left_factors, quadrant_place, quadrants
from graphopt.backends.cpu.kernels.tiling import split_balanced
from graphopt.backends.cpu.kernels.written_out import (
    accumulate_written_out,
    can_be_written_out,
    written_out_imported,
)
from graphopt.backends.specs.matmul import MatmulSpec
from graphopt.backends.specs.types import MOST_FILTERED_HALVES
from graphopt.backends.specs.window import ceil_div
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.storing import StoreStyle

Place = Sequence[Any]
"""Where a row lies."""


@dataclass(frozen=True)
class Rows:
    """How the kernel reaches the rows of its data and of its result.

    Attributes:
        place: emits what tells where a row lies.
        read: a vector of a row's steps, those at ``steps`` of block ``k``: ``(place, k, steps, beyond)``, where the last tells
            whether some of them may lie beyond the data's edges.
        store: emits the storing of a sum: ``(sum, place, column)``.
        block: neighbouring steps that lie together, a multiple of a vector's lanes and a divisor of a part's steps.
        inside: whether a row has no steps beyond the edges; None where none has any.
    """

    place: Callable[[tirx.Expr], Place]
    read: Callable[[Place, tirx.Expr, tirx.Expr, bool], tirx.Expr]
    store: Callable[[tirx.Expr, Place, tirx.Expr], None]
    block: int
    inside: Callable[[Place], tirx.Expr] | None = None


@dataclass(frozen=True)
class StrassenProduct:
    """Emits the code of the three stages.

    Attributes:
        spec: the problem.
        config: how it is cut.
        rows: data and result.
        weight: as `strassen_tile.StrassenPacking` packs it.
        style: how the loops around the epilogue are written.
    """

    spec: MatmulSpec
    config: StrassenConfig
    rows: Rows
    weight: View
    style: StoreStyle

    def emit(self) -> None:
        """Emits all of it."""
        by_lane = self.config.by_lane > 1
        with (
            opaque_imported(),
            written_out_imported(self.spec.types.sum, self.config.lanes) if by_lane else nullcontext(),
        ):
            self._emit()

    def _emit(self) -> None:
        config = self.config
        panels = config.part_columns(self.spec.n) // config.panel
        groups = ceil_div(panels, config.group)
        rounds = ceil_div(self._m, config.block * config.parts)
        loop = T.parallel if config.parallel else T.serial

        def panels_of(group: tirx.Expr) -> tirx.Expr | int:
            return (
                config.group
                if panels % config.group == 0
                else bind(tirx.min(config.group, panels - group * config.group))
            )

        if config.by_group:
            factors = self._factors()
            with T.serial(0, rounds) as number:
                first = number * (config.block * config.parts)
                with loop(0, config.block) as i:
                    self._combine(factors, first, i)
                with loop(0, groups) as group:
                    self._group(factors, first, group, panels_of(group))
            return
        with loop(0, rounds) as number:
            first = number * (config.block * config.parts)
            factors = self._factors()
            with T.serial(0, config.block) as i:
                self._combine(factors, first, i)
            with T.serial(0, groups) as group:
                self._group(factors, first, group, panels_of(group))

    @property
    def _m(self) -> int:
        assert self.spec.static_m is not None
        return self.spec.static_m

    @property
    def _steps(self) -> int:
        """Of K, in a part."""
        return self.spec.k // self.config.parts

    def _factors(self) -> tirx.Buffer:
        """Scratch for the first factors: (products, blocks of a part's steps, rows, steps of a block)."""
        block = self.rows.block
        return T.alloc_buffer(
            (self.config.products, self._steps // block, self.config.block, block), self.spec.types.sum
        )

    def _row(self, first: tirx.Expr | int, part: int, i: tirx.Expr) -> tirx.Expr:
        """Number of the row ``i`` of a part of a block."""
        return first + part * self.config.block + i

    @property
    def _is_ragged(self) -> bool:
        """Whether the last block has fewer rows."""
        return self._m % (self.config.block * self.config.parts) != 0

    def _kept(self, value: tirx.Expr) -> tirx.Expr:
        """Emits a vector as one of its own."""
        lanes = self.config.lanes
        buffer = T.alloc_buffer((lanes,), self.spec.types.sum, scope="local", annotations=ON_STACK)
        T.buffer_store(buffer, value, [tirx.Ramp(0, 1, lanes)])
        return buffer[tirx.Ramp(0, 1, lanes)]

    def _combine(self, factors: tirx.Buffer, first: tirx.Expr | int, i: tirx.Expr) -> None:
        """Emits the first factors of row ``i`` of each part; rows beyond the last one repeat it, and are never stored."""
        config = self.config
        numbers = [self._row(first, part, i) for part in range(config.parts)]
        if self._is_ragged:
            numbers = [tirx.min(number, self._m - 1) for number in numbers]
        places = [self.rows.place(bind(number)) for number in numbers]
        if self.rows.inside is None:
            self._combine_rows(factors, places, i, False)
            return
        with T.If(tirx.all(*(self.rows.inside(place) for place in places))):
            with T.Then():
                self._combine_rows(factors, places, i, False)
            with T.Else():
                self._combine_rows(factors, places, i, True)

    def _combine_rows(self, factors: tirx.Buffer, places: Sequence[Place], i: tirx.Expr, beyond: bool) -> None:
        config, block = self.config, self.rows.block
        with T.serial(0, self._steps // block) as k, T.serial(0, block // config.lanes) as vector:
            lanes = tirx.Ramp(vector * config.lanes, 1, config.lanes)

            def element(number: int) -> tirx.Expr:
                row, column = quadrant_place(number, config.levels)
                return self._kept(self.rows.read(places[row], k + column * (self._steps // block), lanes, beyond))

            for product, factor in left_factors(element, config.levels, self._kept):
                T.buffer_store(factors, factor, [product, k, i, lanes])

    def _group(self, factors: tirx.Buffer, first: tirx.Expr | int, group: tirx.Expr, panels: tirx.Expr | int) -> None:
        """Emits the products of a block of rows with a group of panels, and their way back."""
        config = self.config
        products = T.alloc_buffer((config.products, config.group, config.block, config.panel), self.spec.types.sum)
        segments = split_balanced(config.block, config.m_tile)
        tiles = tile_count(segments)
        with T.serial(0, config.products) as product, T.serial(0, panels) as panel, T.serial(0, tiles) as index:
            for_each_tile(
                index,
                segments,
                lambda start, segment: self._multiply(factors, products, (group, product, panel), start, segment.tile),
            )
        with T.serial(0, config.block) as i:
            numbers = [bind(self._row(first, part, i)) for part in range(config.parts)]
            places = [self.rows.place(number) for number in numbers]
            with T.serial(0, panels) as panel:
                self._finish(products, numbers, places, (group, panel), i)

    def _multiply(
        self,
        factors: tirx.Buffer,
        products: tirx.Buffer,
        place: tuple[tirx.Expr, tirx.Expr, tirx.Expr],
        start: tirx.Expr,
        rows: int,
    ) -> None:
        """Emits one product of some rows of a part with one panel."""
        config, block = self.config, self.rows.block
        group, product, panel = place
        added = self.spec.types.sum  # they are combined in that anyway
        most = self.spec.types.most_added(self._steps, MOST_FILTERED_HALVES)
        sums = RegisterTile(rows, config.n_vectors, config.lanes, added, most, added)
        written_out = can_be_written_out(sums, block, config.by_lane)
        together = max(most // block, 1)

        def products_of(k: tirx.Expr, begin: bool = False) -> None:
            # LLVM would count from the end of the loop, and its constant is beyond what instructions that load two vectors reach.
            first = opaque(k * block) if written_out else k * block

            def scalar(p: tirx.Expr, lane: tirx.Expr) -> tirx.Expr:
                return factors[product, k, start + p, lane]

            def vector(lane: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
                return self.weight[group, product, panel, first + lane, c]

            if written_out:
                accumulate_written_out(sums, block, scalar, vector, config.by_lane, begin=begin)
            else:
                sums.accumulate(block, scalar, vector, together=config.by_lane)
            if most:
                with guarded(tirx.EQ(tirx.floormod(k, together), together - 1)):
                    sums.settle()

        blocks = self._steps // block
        if written_out and not most:
            products_of(T.int64(0), begin=True)
            with T.serial(0, blocks - 1) as k:
                products_of(k + 1)
        else:
            sums.clear()
            with T.serial(0, blocks) as k:
                products_of(k)
        stored = computed_type(self.spec.types.sum)
        sums.store_vectors(
            tirx.const(0, "int64"),
            config.panel,
            lambda value, p, c: T.buffer_store(products, stored.stored(value), [product, panel, start + p, c]),
        )

    def _finish(
        self,
        products: tirx.Buffer,
        numbers: Sequence[tirx.Expr],
        places: Sequence[Place],
        panel: tuple[tirx.Expr, tirx.Expr],
        i: tirx.Expr,
    ) -> None:
        """Emits the results of row ``i`` of each part and of one panel of each part of the columns."""
        config = self.config
        parts, lanes, vectors = config.parts, config.lanes, config.n_vectors
        part_columns = config.part_columns(self.spec.n)
        base = (panel[0] * config.group + panel[1]) * config.panel
        # The columns of the last parts may end before those of the first.
        whole = self.spec.n == parts * part_columns
        blocks = QUADRANTS ** (config.levels - 1)

        def combined(vector: tirx.Expr, into: Callable[[int, int, tirx.Expr], None]) -> None:
            """Emits the results of one vector of each part, and ``into(part of rows, part of columns, result)``."""

            def product(number: int) -> tirx.Expr:
                return self._kept(products[number, panel[1], i, tirx.Ramp(vector * lanes, 1, lanes)])

            for quadrant, found in quadrants(product, config.levels, self._kept):
                for number, value in enumerate(found):
                    into(*quadrant_place(quadrant * blocks + number, config.levels), value)

        def store(value: tirx.Expr, row: int, column: tirx.Expr) -> None:
            self.rows.store(value, places[row], column)

        def there(row: int) -> Any:
            return guarded(numbers[row] < self._m if self._is_ragged else None)

        if self.style is StoreStyle.unrolled:
            with T.serial(0, vectors) as vector:
                first = base + vector * lanes

                def at_once(row: int, column: int, value: tirx.Expr) -> None:
                    kept = T.alloc_buffer((lanes,), self.spec.types.sum, scope="local", annotations=ON_STACK)
                    T.buffer_store(kept, value, [tirx.Ramp(0, 1, lanes)])
                    at = first + column * part_columns
                    with there(row), guarded(None if whole else at < self.spec.n), T.vectorized(0, lanes) as lane:
                        store(kept[lane], row, at + lane)

                combined(vector, at_once)
            return
        shape = (parts, parts, vectors, lanes)
        kept = T.alloc_buffer(shape, self.spec.types.sum, scope="local", annotations=ON_STACK)
        with T.serial(0, vectors) as vector:
            combined(
                vector,
                lambda row, column, value: T.buffer_store(kept, value, [row, column, vector, tirx.Ramp(0, 1, lanes)]),
            )
        for row in range(parts):
            with there(row), T.serial(0, parts) as column:
                first = base + column * part_columns

                def one(
                    vector: tirx.Expr, lane: tirx.Expr, row: int = row, first: Any = first, column: Any = column
                ) -> None:
                    store(kept[row, column, vector, lane], row, first + vector * lanes + lane)

                def each(one: Callable[[tirx.Expr, tirx.Expr], None] = one, first: Any = first) -> None:
                    loop = T.serial if self.style is StoreStyle.scalar else T.vectorized
                    with (
                        T.serial(0, vectors) as vector,
                        guarded(None if whole else first + vector * lanes < self.spec.n),
                        loop(0, lanes) as lane,
                    ):
                        one(vector, lane)

                if self.style is StoreStyle.scalar:
                    each()
                elif whole:
                    vectors_side_by_side(vectors, lanes, one)
                else:
                    with T.If(first + config.panel <= self.spec.n):
                        with T.Then():
                            vectors_side_by_side(vectors, lanes, one)
                        with T.Else():
                            each()
