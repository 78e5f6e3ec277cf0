"""Maximum and average pooling over windows on plain NCHW data: a lane is an output column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels import plain_config, plain_window
from graphopt.backends.cpu.kernels.depthwise_plain import predicted_seconds, supports
from graphopt.backends.cpu.kernels.plain_config import PlainWindowConfig
from graphopt.backends.cpu.kernels.pooling import combine
from graphopt.backends.cpu.kernels.sliding_config import worth_threads
from graphopt.backends.specs.pooling import PoolSpec
from graphopt.backends.templates.operand import Parameter, View
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle
from graphopt.ir.graph import Array

__all__ = ["default_config", "emit", "factors", "has_factors", "predicted_seconds", "supports"]


def default_config(pool: PoolSpec, caps: Caps) -> PlainWindowConfig:
    """Tile and strip that fit registers and cache."""
    parallel = worth_threads(predicted_seconds(pool.window, caps), caps)
    return plain_config.default_config(pool.window, caps, 0, parallel)


def configurations(pool: PoolSpec, caps: Caps) -> Iterator[PlainWindowConfig]:
    """Tiles and strips that fit registers and cache."""
    return plain_config.configurations(pool.window, caps, 0)


def has_factors(pool: PoolSpec) -> bool:
    """Whether how many elements a mean is of comes as an operand; of open planes, each pixel works it out."""
    return pool.average and pool.window.static_plane is not None


def factors(pool: PoolSpec) -> Array:
    """What the sum at each output pixel (H, W) is multiplied with for the mean."""
    spec = pool.window
    assert spec.static_plane is not None
    counts = []
    for axis, (extent, size) in enumerate(zip(spec.static_plane, (spec.in_height, spec.in_width))):
        taps = np.arange(spec.kernel[axis]) * spec.dilations[axis] - spec.pads[axis]
        at = np.arange(extent)[:, None] * spec.strides[axis] + taps
        inside = (at >= -pool.counted[axis]) & (at < int(size) + pool.counted[axis + 2])
        counts.append(np.maximum(inside.sum(axis=1), 1))
    return np.asarray(1.0 / np.outer(*counts), np.float32)


@dataclass(frozen=True)
class _Pool:
    pool: PoolSpec
    lanes: int
    factors: View | None

    @property
    def start(self) -> float:
        """Neutral element."""
        return self.pool.start

    def accumulate(self, old: tirx.Expr, value: tirx.Expr, channel: tirx.Expr, ky: int, kx: int) -> tirx.Expr:
        """A sum, or a maximum that keeps NaN."""
        return combine(old, value, self.pool.average, self.lanes)

    def finish(self, total: tirx.Expr, h: tirx.Expr, w: tirx.Expr) -> tirx.Expr:
        """The maximum, or the sum over its count."""
        return self.pool.finish(total, h, w, False) if self.factors is None else total * self.factors[h, w]


def emit(
    pool: PoolSpec,
    config: PlainWindowConfig,
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "pooling_plain",
    style: StoreStyle = StoreStyle.unrolled,
) -> tirx.PrimFunc:
    """Emits ``name(data, *extras, output)``; with factors ``name(data, factors: (H, W), *extras, output)``.

    Args:
        pool: the problem; `supports` must accept its window.
        config: tile and strip.
        epilogue: maps a result at ``(n, c, h, w)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        style: how the loops around the epilogue are written.
    """
    types = pool.window.types
    inputs: list[Parameter] = [("data", pool.window.input_shape, types.input)]
    if has_factors(pool):
        assert pool.window.static_plane is not None
        inputs.append(("factors", pool.window.static_plane, types.accumulator))
    return plain_window.emit(
        pool.window,
        config,
        inputs,
        lambda buffers: _Pool(pool, config.lanes, buffers[1] if has_factors(pool) else None),
        epilogue,
        extras,
        name,
        style,
    )
