"""Register tiles of windows that slide over a copy of plain data: rows of output by vectors of output columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.vector_tile import VectorTile, ramp
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.storing import EpilogueFn, StoreStyle


class PlainOperator(Protocol):
    """What is computed from the values under a window; vectors are TVM vector expressions of ``lanes`` float32."""

    @property
    def start(self) -> float:
        """What an accumulator begins with, and the value of padding."""

    def accumulate(self, old: tirx.Expr, value: tirx.Expr, channel: tirx.Expr, ky: int, kx: int) -> tirx.Expr:
        """The accumulator after the value under kernel element ``(ky, kx)``."""

    def finish(self, total: tirx.Expr, h: tirx.Expr, w: tirx.Expr) -> tirx.Expr:
        """One lane's result at output pixel ``(h, w)``."""


@dataclass(frozen=True)
class Strip:
    """Output rows and columns of a channel, whose windows lie in a copy of the input.

    Attributes:
        scratch: the copy, (remainders of columns, rows, columns).
        image: which image.
        channel: which channel.
        top: first output row.
        left: first output column.
    """

    scratch: tirx.Buffer
    image: tirx.Expr
    channel: tirx.Expr
    top: tirx.Expr
    left: tirx.Expr | int = 0


@dataclass(frozen=True)
class PlainTiles:
    """Emits the code of single register tiles.

    Attributes:
        spec: the window.
        lanes: output columns of a vector.
        operator: what to compute.
        operands: further inputs of the epilogue.
        output: where results go.
        epilogue: what is stored.
        style: how the loops around the epilogue are written.
    """

    spec: Conv2dSpec
    lanes: int
    operator: PlainOperator
    operands: Sequence[tirx.Buffer]
    output: View
    epilogue: EpilogueFn
    style: StoreStyle

    def tile(
        self,
        strip: Strip,
        first: tirx.Expr | int,
        rows: int,
        columns: Sequence[tirx.Expr | int],
        present: tirx.Expr | None = None,
    ) -> None:
        """Emits a tile.

        Args:
            strip: where it is.
            first: its first row in the strip.
            rows: its rows.
            columns: the first column of each of its vectors in the strip.
            present: columns of its only vector that are there, where they may be fewer than a vector has.
        """
        spec, lanes, operator = self.spec, self.lanes, self.operator
        sums = VectorTile(rows, len(columns), lanes, spec.types.sum)
        sums.fill(operator.start)
        uses = sorted(
            (row * spec.strides[0] + ky * spec.dilations[0], kx, vector, row, ky)
            for row in range(rows)
            for ky in range(spec.kernel[0])
            for kx in range(spec.kernel[1])
            for vector in range(len(columns))
        )
        for below, kx, vector, row, ky in uses:
            column, phase = divmod(kx * spec.dilations[1], spec.strides[1])
            at = [phase, first * spec.strides[0] + below, ramp(columns[vector] + column, lanes)]
            value = tirx.BufferLoad(strip.scratch, at)
            sums.set(row, vector, operator.accumulate(sums.get(row, vector), value, strip.channel, ky, kx))

        def store(total: tirx.Expr, row: tirx.Expr | int, w: tirx.Expr) -> None:
            h = strip.top + first + row
            at = (strip.image, strip.channel, h, w)
            self.output.store(self.epilogue(operator.finish(total, h, w), at, self.operands), list(at))

        places = [strip.left + column for column in columns]
        if present is None:
            sums.store(places, store, self.style)
            return
        with T.If(present >= lanes):
            with T.Then():
                sums.store(places, store, self.style)
            with T.Else():
                sums.store_first(places[0], present, store)
