"""Mean or maximum of every channel over the whole plane, on channel blocks: a lane is a channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.pooling import combine
from graphopt.backends.cpu.kernels.register_tile import bind
from graphopt.backends.cpu.kernels.sliding_config import worth_threads
from graphopt.backends.cpu.kernels.vector_tile import VectorTile, ramp
from graphopt.backends.specs.pooling import GlobalPoolSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle, store_accumulator

_CHAINS = 8
"""Vectors reduced side by side: the latency of an addition times the additions a cycle."""

_BYTES_PER_SECOND = 30e9


@dataclass(frozen=True)
class GlobalPoolConfig:
    """How to compute it.

    Attributes:
        lanes: channels a vector; divides the block.
        parallel: whether blocks are shared out among threads.
    """

    lanes: int
    parallel: bool = True


def seconds(spec: GlobalPoolSpec) -> float:
    """Rough time on one core, infinite for symbolic sizes."""
    if not isinstance(spec.batch, int) or not isinstance(spec.pixels, int):
        return math.inf
    return spec.types.input.bytes * spec.batch * spec.channels * spec.pixels / _BYTES_PER_SECOND


def default_config(spec: GlobalPoolSpec, caps: Caps) -> GlobalPoolConfig:
    """Whole vectors; threads where they pay."""
    return GlobalPoolConfig(math.gcd(spec.block, spec.types.lanes(caps)), worth_threads(seconds(spec), caps))


def emit(
    spec: GlobalPoolSpec,
    config: GlobalPoolConfig,
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "global_pooling",
    style: StoreStyle = StoreStyle.unrolled,
) -> tirx.PrimFunc:
    """Emits ``name(data: (N, C / block, [D,] H, W, block), *extras, output: (N, C / block, [1,] 1, 1, block))``.

    Args:
        spec: the problem.
        config: vectors and threads.
        epilogue: maps a result at ``(n, c, [0,] 0, 0)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        style: how the loops around the epilogue are written.
    """
    blocks, lanes = spec.channels // spec.block, config.lanes
    vectors = spec.block // lanes
    chains = max(1, _CHAINS // vectors)
    finish = epilogue or store_accumulator
    origin = [0] * len(spec.extents)
    start = 0.0 if spec.average else -math.inf

    def body(buffers: list[View], operands: list[tirx.Buffer], output: View) -> None:
        pixels = bind(spec.pixels)
        loop = T.parallel if config.parallel else T.serial
        with loop(0, spec.batch * blocks) as flat:
            image, block = tirx.floordiv(flat, blocks), tirx.floormod(flat, blocks)
            sums = VectorTile(chains, vectors, lanes, spec.types.sum)
            sums.fill(start)

            def include(chain: int, pixel: tirx.Expr) -> None:
                for v in range(vectors):
                    # pixels past the end of a row are in the next one
                    value = buffers[0].load([image, block, *origin[1:], pixel, ramp(v * lanes, lanes)])
                    sums.set(chain, v, combine(sums.get(chain, v), value, spec.average, lanes))

            turns = tirx.floordiv(pixels, chains)
            with T.serial(0, turns) as turn:
                for chain in range(chains):
                    include(chain, turn * chains + chain)
            with T.serial(0, tirx.floormod(pixels, chains)) as rest:
                include(0, turns * chains + rest)
            total = VectorTile(1, vectors, lanes, spec.types.sum)
            for v in range(vectors):
                total.set(0, v, sums.get(0, v))
                for chain in range(1, chains):
                    total.set(0, v, combine(total.get(0, v), sums.get(chain, v), spec.average, lanes))

            def store(value: tirx.Expr, row: tirx.Expr | int, channel: tirx.Expr) -> None:
                if spec.average:
                    value = value * _reciprocal(pixels, spec.types.sum)
                at = [image, tirx.floordiv(channel, spec.block), *origin, tirx.floormod(channel, spec.block)]
                output.store(finish(value, (image, channel, *origin), operands), at)

            total.store([block * spec.block + v * lanes for v in range(vectors)], store, style)

    data = (spec.batch, blocks, *spec.extents, spec.block)
    result = (spec.batch, blocks, *(1 for _ in origin), spec.block)
    inputs = [("data", data, spec.types.input)]
    return build_prim_func(name, inputs, extras, (result, spec.types.output), body)


def _reciprocal(count: tirx.Expr | int, dtype: str) -> tirx.Expr:
    if isinstance(count, int):
        return tirx.const(1.0 / count, dtype)
    return tirx.const(1.0, dtype) / count.astype(dtype)
