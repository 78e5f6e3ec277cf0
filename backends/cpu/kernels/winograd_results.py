"""Winograd's way back: from products to the results of a tile, with the epilogue fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.register_tile import ON_STACK, bind, guarded
from graphopt.backends.cpu.kernels.side_by_side import vectors_side_by_side
from graphopt.backends.cpu.kernels.winograd_pieces import joined, transform_in_pieces
from graphopt.backends.cpu.kernels.winograd_tile import WinogradConfig
from graphopt.backends.cpu.kernels.winograd_transforms import Filtering
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.slices import Image
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.storing import BiasedEpilogue, EpilogueFn, StoreStyle


@dataclass(frozen=True)
class Tile:
    """What a result comes from and where it goes.

    Attributes:
        products: (components, panels of the group, tiles of the block, panel width).
        group: number of the group of panels.
        panel: of the group.
        number: of the tile in its block.
        image: in which it lies.
        top: its first output row.
        left: its first output column.
    """

    products: tirx.Buffer
    group: tirx.Expr
    panel: tirx.Expr
    number: tirx.Expr
    image: Image
    top: tirx.Expr
    left: tirx.Expr


@dataclass(frozen=True)
class WayBack:
    """Emits the results of one tile: all channels of a panel.

    Attributes:
        spec: the convolution.
        config: its tiles.
        filtering: the arithmetic.
        in_pieces: whether transforms are cut to fit the register file.
        lanes: channels of a vector.
        output: the whole result.
        epilogue: the epilogue.
        operands: its operands.
        style: how the loops around it are written.
    """

    spec: Conv2dSpec
    config: WinogradConfig
    filtering: Filtering
    in_pieces: bool
    lanes: int
    output: View
    epilogue: EpilogueFn
    operands: Sequence[tirx.Buffer]
    style: StoreStyle

    @property
    def _biased(self) -> BiasedEpilogue | None:
        """The epilogue, if its bias is added to the one product that every result of a tile contains as it is."""
        suits = self.in_pieces and self.filtering.constant is not None
        return self.epilogue if suits and isinstance(self.epilogue, BiasedEpilogue) else None

    def emit(self, tile: Tile) -> None:
        """Emits the results of a tile."""
        spec, config, m = self.spec, self.config, self.config.m
        rows = bind(tirx.min(m, spec.out_height - tile.top))
        columns = bind(tirx.min(m, spec.out_width - tile.left))
        ragged = spec.out_channels % config.panel != 0

        def vectors(body: Callable[[tirx.Expr, tirx.Expr], None]) -> None:
            with T.serial(0, config.panel // self.lanes) as vector:
                base = (tile.group * config.group + tile.panel) * config.panel + vector * self.lanes
                with guarded(base < spec.out_channels if ragged else None):
                    body(vector, base)

        if self.in_pieces and self.style is StoreStyle.unrolled:
            with T.If(tirx.all(rows == m, columns == m)):
                with T.Then():
                    vectors(lambda vector, base: self._whole(tile, vector, base))
                with T.Else():
                    vectors(lambda vector, base: self._present(tile, vector, base, rows, columns))
            return
        vectors(lambda vector, base: self._staged(tile, vector, base, rows, columns))

    def _whole(self, tile: Tile, vector: tirx.Expr, base: tirx.Expr) -> None:
        """Emits the outputs of a tile that has all of them, each from registers."""
        self._transformed(tile, vector, base, lambda i, j, lane, value: self._store(tile, value, base, i, j, lane))

    def _present(
        self, tile: Tile, vector: tirx.Expr, base: tirx.Expr, rows: tirx.Expr | int, columns: tirx.Expr | int
    ) -> None:
        """Emits the outputs that there are, each from registers."""

        def one(i: int, j: int, lane: tirx.Expr, value: tirx.Expr) -> None:
            with guarded(columns > j):
                self._store(tile, value, base, i, j, lane)

        self._transformed(tile, vector, base, one, row=lambda i: guarded(rows > i))

    def _staged(
        self, tile: Tile, vector: tirx.Expr, base: tirx.Expr, rows: tirx.Expr | int, columns: tirx.Expr | int
    ) -> None:
        """Emits the outputs that there are, by way of memory."""
        m, lanes = self.config.m, self.lanes
        result = self._all_at_once(tile, vector) if not self.in_pieces else self._local(m)
        if self.in_pieces:

            def keep(i: int, j: int, lane: tirx.Expr, value: tirx.Expr) -> None:
                T.buffer_store(result, value, [i, j, lane])

            self._transformed(tile, vector, base, keep, at_once=False)
        with T.serial(0, rows) as y:

            def one_by_one() -> None:
                loop = T.serial if self.style is StoreStyle.scalar else T.vectorized
                with T.serial(0, columns) as x, loop(0, lanes) as lane:
                    self._store(tile, result[y, x, lane], base, y, x, lane)

            if self.style is not StoreStyle.rolled:
                one_by_one()
            else:
                with T.If(columns == m):
                    with T.Then():
                        vectors_side_by_side(
                            m, lanes, lambda x, lane: self._store(tile, result[y, x, lane], base, y, x, lane)
                        )
                    with T.Else():
                        one_by_one()

    def _local(self, columns: int) -> tirx.Buffer:
        shape = (self.config.m, columns, self.lanes)
        return T.alloc_buffer(shape, self.spec.types.sum, scope="local", annotations=ON_STACK)

    def _all_at_once(self, tile: Tile, vector: tirx.Expr) -> tirx.Buffer:
        """Emits the results of one vector of channels, and returns them: (m, m, lanes)."""
        side, m, lanes, filtering = self.config.side, self.config.m, self.lanes, self.filtering
        half, result = self._local(side), self._local(m)
        lane = tirx.Ramp(0, 1, lanes)
        with T.unroll(0, side) as x:
            column = [tile.products[y * side + x, tile.panel, tile.number, vector * lanes + lane] for y in range(side)]
            for i, value in enumerate(filtering.output_row(column)):
                T.buffer_store(half, value, [i, x, lane])
        with T.unroll(0, m) as i:
            for j, value in enumerate(filtering.output_row([half[i, x, lane] for x in range(side)])):
                T.buffer_store(result, filtering.result(value), [i, j, lane])
        return result

    def _transformed(
        self,
        tile: Tile,
        vector: tirx.Expr,
        base: tirx.Expr,
        emit: Callable[[int, int, tirx.Expr, tirx.Expr], None],
        *,
        at_once: bool = True,
        row: Callable[[int], AbstractContextManager[None]] = lambda i: nullcontext(),
    ) -> None:
        """Emits what becomes of the outputs of one vector of channels.

        Args:
            tile: the tile.
            vector: number of the vector in its panel.
            base: its first channel.
            emit: as for `transform_in_pieces`.
            at_once: whether all registers are free for it.
            row: as for `transform_in_pieces`.
        """
        side, lanes, filtering, biased = self.config.side, self.lanes, self.filtering, self._biased
        pieces = filtering.output_pieces()

        def read(y: int, x: int, lane: tirx.Expr) -> tirx.Expr:
            product = tile.products[y * side + x, tile.panel, tile.number, vector * lanes + lane]
            if biased is None or not (y == x == filtering.constant):
                return product
            return product + biased.bias((tile.image, base + lane, tile.top, tile.left), self.operands)

        def finished(i: int, j: int, lane: tirx.Expr, value: tirx.Expr) -> None:
            emit(i, j, lane, filtering.result(value))

        down = (joined(pieces),) if at_once else pieces
        transform_in_pieces(down, pieces, side, lanes, self.spec.types.sum, read, finished, row)

    def _store(
        self, tile: Tile, value: tirx.Expr, base: tirx.Expr, y: tirx.Expr | int, x: tirx.Expr | int, lane: tirx.Expr
    ) -> None:
        """Emits the epilogue and the store of one vector."""
        channel, h, w = base + lane, tile.top + y, tile.left + x
        epilogue = self.epilogue if self._biased is None else self._biased.rest
        stored = epilogue(value, (tile.image, channel, h, w), self.operands)
        block, place = tirx.floordiv(channel, self.spec.out_block), tirx.floormod(channel, self.spec.out_block)
        self.output.store(stored, [tile.image, block, h, w, place])
