"""Maximum and average pooling over windows, on channel blocks: a lane is a channel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphopt.backends.base import dialect
from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import scalar_dtype
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels import sliding_config, sliding_window
from graphopt.backends.cpu.kernels.depthwise import seconds, supports
from graphopt.backends.cpu.kernels.slices import channels_of_slice
from graphopt.backends.cpu.kernels.sliding_config import SlidingConfig, tile_for, whole_row, worth_threads
from graphopt.backends.cpu.kernels.vector_tile import broadcast, ramp
from graphopt.backends.specs.pooling import PoolSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle
from graphopt.backends.tensors.scalar import maximum

__all__ = ["PoolSpec", "combine", "default_config", "emit", "seconds", "supports"]


def default_config(pool: PoolSpec, caps: Caps) -> SlidingConfig:
    """A row of pixels that fills the registers."""
    lanes = math.gcd(pool.window.out_block, pool.window.types.lanes(caps))
    parallel = worth_threads(seconds(pool.window, lanes), caps)
    return SlidingConfig(lanes, tile_for(pool.window, caps, 0), parallel, whole_row(pool.window, caps, 0))


def configurations(pool: PoolSpec, caps: Caps) -> Iterator[SlidingConfig]:
    """Rows of pixels that fit the registers."""
    return sliding_config.configurations(
        pool.window, caps, math.gcd(pool.window.out_block, pool.window.types.lanes(caps)), 0
    )


@dataclass(frozen=True)
class _Pool:
    """Maximum or sum of a channel under its window."""

    pool: PoolSpec
    lanes: int
    data: View
    written_out: bool = False

    @property
    def begins(self) -> bool:
        """Where setting a register to a number takes an instruction like any other."""
        return dialect.current().register_operands

    @property
    def separable(self) -> bool:
        """Of images. Of slices, the code would hold two loops for every column of every tile, which takes TVM minutes."""
        return self.pool.window.slices is None

    @property
    def start(self) -> float:
        """Neutral element."""
        return self.pool.start

    def on_data(self, vector: tirx.Expr) -> _Pool:
        """No less work."""
        return self

    def steps(self, vector: tirx.Expr) -> int:
        """One value a pixel and slice."""
        return 1

    def value(
        self, image: tirx.Expr, vector: tirx.Expr, step: tirx.Expr | int, y: tirx.Expr, x: tirx.Expr
    ) -> tirx.Expr:
        """A vector of channels."""
        parts = self.pool.window.in_block // self.lanes
        first = tirx.floormod(vector, parts) * self.lanes
        channels = channels_of_slice(self.pool.window, image, tirx.floordiv(vector, parts), step)
        return self.data.load([*channels, y, x, ramp(first, self.lanes)])

    def accumulate(
        self,
        old: tirx.Expr | None,
        value: tirx.Expr,
        vector: tirx.Expr,
        step: tirx.Expr | int,
        ky: tirx.Expr,
        kx: tirx.Expr,
    ) -> tirx.Expr:
        """A sum, or a maximum that keeps NaN."""
        return value if old is None else combine(old, value, self.pool.average, self.lanes)

    def finish(self, total: tirx.Expr, h: tirx.Expr, w: tirx.Expr, inside: bool) -> tirx.Expr:
        """The result."""
        return self.pool.finish(total, h, w, inside)


def combine(old: tirx.Expr, value: tirx.Expr, average: bool, lanes: int) -> tirx.Expr:
    """A vector included in a sum or in a maximum that keeps NaN."""
    if average:
        return old + value
    if dialect.current().nan_minmax:
        return maximum(old, value)
    # NaN must win. All bits set is one, and setting them takes half the instructions of choosing the value.
    largest = tirx.Select(value > old, value, old)
    integer = "int16" if scalar_dtype(value) == "float16" else "int32"
    bits = integer if lanes == 1 else f"{integer}x{lanes}"
    mark = tirx.Select(
        tirx.isnan(value), broadcast(tirx.const(-1, integer), lanes), broadcast(tirx.const(0, integer), lanes)
    )
    return tirx.reinterpret(str(value.ty.dtype), tirx.reinterpret(bits, largest) | mark)


def emit(
    pool: PoolSpec,
    config: SlidingConfig,
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "pooling",
    style: StoreStyle = StoreStyle.unrolled,
) -> tirx.PrimFunc:
    """Emits ``name(data, *extras, output)`` over ``pool.window``'s shapes.

    Args:
        pool: the problem; `supports` must accept its window.
        config: the tile.
        epilogue: maps a result at ``(n, c, h, w)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        style: how the loops around the epilogue are written.
    """
    return sliding_window.emit(
        pool.window,
        config,
        [("data", pool.window.input_shape, pool.window.types.input)],
        lambda buffers: _Pool(pool, config.lanes, buffers[0]),
        epilogue,
        extras,
        name,
        style,
    )
