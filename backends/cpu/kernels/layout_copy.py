"""Copies between NCHW and NCHW{b}c: planes of points by channels, turned in vector registers.

Elements are moved as they are stored, those of 16 bits as integers: nothing is converted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.cost.constants import LAST_LEVEL_BYTES_PER_CYCLE, fork_cycles
from graphopt.backends.cpu.kernels.register_tile import bind
from graphopt.backends.cpu.kernels.transpose_tile import QUAD, transposed_tile
from graphopt.backends.specs.layout_copy import LayoutCopySpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func

_TASK_POINTS = 1024
"""Points of a block of channels that a thread takes at a time: 64 KB of each side."""
_LINE_BYTES = 64
_REGISTER_BYTES = 16
"""What all instruction sets interleave at full speed."""
_CALL_CYCLES = 2500.0
"""To call one more kernel: about 1 us."""


@dataclass(frozen=True)
class LayoutCopyConfig:
    """How to compute it.

    Attributes:
        lanes: elements per vector.
        parallel: whether threads share the work.
    """

    lanes: int
    parallel: bool


def supports(spec: LayoutCopySpec, caps: Caps) -> str | None:
    """Why this kernel can't make the copy, None if it can."""
    if spec.block % QUAD or spec.channels % spec.block:
        return "blocks of a multiple of 4 channels"
    return None


def predicted_cycles(size: float, caps: Caps, cores: int) -> float:
    """Cycles to copy ``size`` bytes that come from the last-level cache and go back to it."""
    start = _CALL_CYCLES + (fork_cycles(caps) if cores > 1 else 0.0)
    return start + 2.0 * size / LAST_LEVEL_BYTES_PER_CYCLE / cores


def default_config(spec: LayoutCopySpec, caps: Caps) -> LayoutCopyConfig:
    """Whole vectors; threads where they save time."""
    each = spec.type.bytes
    size = each * math.prod(d if isinstance(d, int) else 1 << 12 for d in spec.plain_shape)
    parallel = caps.cores > 1 and predicted_cycles(size, caps, caps.cores) < predicted_cycles(size, caps, 1)
    return LayoutCopyConfig(max(min(caps.lanes(each), _LINE_BYTES // each), QUAD), parallel)


def emit(spec: LayoutCopySpec, config: LayoutCopyConfig, name: str = "layout_copy") -> tirx.PrimFunc:
    """Emits ``name(source, target)`` over `LayoutCopySpec.plain_shape` and `LayoutCopySpec.blocked_shape`, or the reverse.

    Args:
        spec: the problem; `supports` must accept it.
        config: how to compute it.
        name: global symbol of the function.
    """
    shapes = (spec.plain_shape, spec.blocked_shape)

    def body(inputs: list[View], _: list[tirx.Buffer], output: View) -> None:
        copy_planes(spec, config, inputs[0], output)

    source = ("source", shapes[not spec.to_blocks], spec.type)
    return build_prim_func(name, [source], (), (shapes[spec.to_blocks], spec.type), body)


def copy_planes(spec: LayoutCopySpec, config: LayoutCopyConfig, source: View, target: View) -> None:
    """Emits the copy, for kernels that read their data in the other order."""
    points: tirx.Expr | int = math.prod(spec.extents)
    symbolic = not isinstance(points, int)
    rows = spec.batch * (spec.channels // spec.block)
    source, target = (
        view.reshaped((rows * spec.block, points) if plain else (rows, points, spec.block))
        for view, plain in ((source, spec.to_blocks), (target, not spec.to_blocks))
    )
    turn = PlaneTurn(spec, config, source, target)
    share = min(_TASK_POINTS, points) if isinstance(points, int) else _TASK_POINTS
    shares = bind(tirx.floordiv(points + (share - 1), share), symbolic) if symbolic else -(-points // share)
    with (T.parallel if config.parallel else T.serial)(0, rows * shares) as flat:
        row = bind(tirx.floordiv(flat, shares), symbolic)
        start = bind(tirx.floormod(flat, shares) * share, symbolic)
        ragged = symbolic or points % share
        count = bind(tirx.min(share, points - start), symbolic) if ragged else share
        turn.plane(row, start, count)


@dataclass(frozen=True)
class PlaneTurn:
    """Emits the copy of runs of points of one block of channels.

    Attributes:
        spec: what is copied.
        config: how.
        source, target: (rows times block, points) on the plain side, (rows, points, block) on the other.
        blocked_row: the row on the blocked side, where it isn't the plain side's.
    """

    spec: LayoutCopySpec
    config: LayoutCopyConfig
    source: View
    target: View
    blocked_row: tirx.Expr | None = None

    @property
    def side(self) -> int:
        """Points or channels turned together."""
        side = _REGISTER_BYTES // self.spec.type.bytes
        return side if self.spec.block % side == 0 else QUAD

    @property
    def dtype(self) -> str:
        """Of elements in registers."""
        row = self.spec.type
        return f"uint{8 * row.bytes}" if row.is_narrow else row.storage

    def plane(self, row: tirx.Expr, start: tirx.Expr, count: tirx.Expr | int) -> None:
        """Emits the copy of ``count`` points from ``start`` of the block number ``row``."""
        step = self.side if self.spec.to_blocks else self.config.lanes
        turn = self._into_blocks if self.spec.to_blocks else self._out_of_blocks
        full = count // step if isinstance(count, int) else tirx.floordiv(count, step)
        with T.serial(0, full) as i:
            turn(row, start + i * step, step)
        done = full * step
        if not isinstance(count, int) or count % step:
            if step > QUAD:
                quads = tirx.floordiv(count - done, QUAD)
                with T.serial(0, quads) as i:
                    turn(row, start + done + i * QUAD, QUAD)
                done = done + quads * QUAD
            with T.serial(0, count - done) as i, T.serial(0, self.spec.block) as c:
                self._one(row, start + done + i, c)

    def _into_blocks(self, row: tirx.Expr, point: tirx.Expr, points: int) -> None:
        """Emits a few points of a block: vectors of channels from runs of points."""
        block = self.spec.block
        width = math.gcd(block, self.config.lanes)
        run = tirx.Ramp(tirx.Cast("int64", point), T.int64(1), points)
        for first in range(0, block, width):

            def channel(c: int, first: int = first) -> tirx.Expr:
                return self._read([row * block + first + c, run], points)

            lanes = tirx.Ramp(T.int64(first), T.int64(1), width)
            for i, vector in enumerate(transposed_tile(channel, points, width, self.dtype)):
                self._write(vector, [self._blocked(row), point + i, lanes], width)

    def _out_of_blocks(self, row: tirx.Expr, point: tirx.Expr, width: int) -> None:
        """Emits ``width`` points of every channel of a block: vectors of points from runs of channels."""
        side = math.gcd(self.side, width)
        run = tirx.Ramp(tirx.Cast("int64", point), T.int64(1), width)
        for first in range(0, self.spec.block, side):
            few = tirx.Ramp(T.int64(first), T.int64(1), side)

            def channels(p: int, few: tirx.Expr = few) -> tirx.Expr:
                return self._read([self._blocked(row), point + p, few], side)

            for i, vector in enumerate(transposed_tile(channels, side, width, self.dtype)):
                self._write(vector, [row * self.spec.block + (first + i), run], width)

    def _one(self, row: tirx.Expr, point: tirx.Expr, channel: tirx.Expr) -> None:
        plain, blocked = [row * self.spec.block + channel, point], [self._blocked(row), point, channel]
        read, write = (plain, blocked) if self.spec.to_blocks else (blocked, plain)
        T.buffer_store(self.target.buffer, self.source.buffer[tuple(read)], write)

    def _blocked(self, row: tirx.Expr) -> tirx.Expr:
        return row if self.blocked_row is None else self.blocked_row

    def _read(self, index: list[tirx.Expr], lanes: int) -> tirx.Expr:
        element = self.source.buffer[tuple(index)]
        return element if self.dtype == self.spec.type.storage else tirx.reinterpret(f"{self.dtype}x{lanes}", element)

    def _write(self, value: tirx.Expr, index: list[tirx.Expr], lanes: int) -> None:
        storage = self.spec.type.storage
        T.buffer_store(
            self.target.buffer, value if self.dtype == storage else tirx.reinterpret(f"{storage}x{lanes}", value), index
        )
