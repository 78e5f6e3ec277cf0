"""Depthwise convolution on plain NCHW data: a lane is an output column. For channels that no block divides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels import plain_config, plain_window
from graphopt.backends.cpu.kernels.depthwise import seconds
from graphopt.backends.cpu.kernels.filter_packing import FilterPacking, factor_type
from graphopt.backends.cpu.kernels.plain_config import PlainWindowConfig, supports
from graphopt.backends.cpu.kernels.sliding_config import worth_threads
from graphopt.backends.cpu.kernels.vector_tile import broadcast, largest_power
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle

__all__ = ["default_config", "emit", "packing", "predicted_seconds", "supports"]

_PLAIN_FACTOR = 2.0
"""Time against the kernel on channel blocks, about: the copy into scratch, and loads across cache lines."""


def predicted_seconds(spec: Conv2dSpec, caps: Caps) -> float:
    """Rough time on one core."""
    return _PLAIN_FACTOR * seconds(spec, min(spec.types.lanes(caps), largest_power(spec.assumed[2])))


def default_config(spec: Conv2dSpec, caps: Caps) -> PlainWindowConfig:
    """Tile and strip that fit registers and cache."""
    parallel = worth_threads(predicted_seconds(spec, caps), caps)
    return plain_config.default_config(spec, caps, spec.kernel[0] * spec.kernel[1], parallel)


def configurations(spec: Conv2dSpec, caps: Caps) -> Iterator[PlainWindowConfig]:
    """Tiles and strips that fit registers and cache."""
    return plain_config.configurations(spec, caps, spec.kernel[0] * spec.kernel[1])


def packing(spec: Conv2dSpec, config: PlainWindowConfig) -> FilterPacking:
    """How weights are packed, the same for every configuration."""
    return FilterPacking((spec.out_channels, 1, *spec.kernel), factor_type(spec))


@dataclass(frozen=True)
class _Multiply:
    lanes: int
    weight: View
    start: float = 0.0

    def accumulate(self, old: tirx.Expr, value: tirx.Expr, channel: tirx.Expr, ky: int, kx: int) -> tirx.Expr:
        """A fused multiply-add."""
        return old + value * broadcast(self.weight.load([channel, ky, kx]), self.lanes)

    def finish(self, total: tirx.Expr, h: tirx.Expr, w: tirx.Expr) -> tirx.Expr:
        """The sum."""
        return total


def emit(
    spec: Conv2dSpec,
    config: PlainWindowConfig,
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "depthwise_plain",
    style: StoreStyle = StoreStyle.unrolled,
) -> tirx.PrimFunc:
    """Emits ``name(data: spec.input_shape, weight: as packed, *extras, output: spec.output_shape)``.

    Args:
        spec: the problem; `supports` must accept it.
        config: tile and strip.
        epilogue: maps an accumulator at ``(n, c, h, w)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        style: how the loops around the epilogue are written.
    """
    return plain_window.emit(
        spec,
        config,
        [
            ("data", spec.input_shape, spec.types.input),
            ("weight", (spec.out_channels, *spec.kernel), factor_type(spec)),
        ],
        lambda buffers: _Multiply(config.lanes, buffers[1]),
        epilogue,
        extras,
        name,
        style,
        broadcast=[1],
    )
