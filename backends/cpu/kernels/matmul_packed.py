"""Matrix product with constant right-hand side packed into panels: ``out[m, n] = epilogue(sum_k a[m, k] * b[k, n])``.

The classic register-blocked inner product (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication",
2008): a tile of rows by one panel of columns stays in registers over the whole of K, reading a broadcast of A and whole
vectors of B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.epilogue import EpilogueFn, ExtraOperand, StoreStyle, store_accumulator
from graphopt.backends.cpu.kernels.register_tile import (
    RegisterTile,
    bind,
    bind_segments,
    build_prim_func,
    for_each_tile,
    parallel_tiles,
    tile_count,
)
from graphopt.backends.cpu.kernels.tiling import (
    Segment,
    register_tiles,
    split_balanced,
    split_symbolic,
    tile_cycles,
)

_STORE_CYCLES = 2.0
_SYMBOLIC_ROWS = 128
"""Rows assumed when choosing the tile of a symbolic M."""


@dataclass(frozen=True)
class MatmulSpec:
    """One matrix product, float32.

    Attributes:
        m: rows, leading dimensions of A flattened into them; an int or a symbolic ``tirx.Var``.
        n: columns.
        k: reduction length.
    """

    m: tirx.Expr | int
    n: int
    k: int

    @property
    def static_m(self) -> int | None:
        """``m`` if it is known."""
        return self.m if isinstance(self.m, int) else None

    @property
    def flops(self) -> int | None:
        """Multiplies plus additions, or None for symbolic ``m``."""
        return None if self.static_m is None else 2 * self.static_m * self.n * self.k


@dataclass(frozen=True)
class MatmulConfig:
    """How to compute it.

    Attributes:
        m_tile: rows per register tile.
        n_vectors: accumulator vectors per row.
        lanes: float32 per accumulator vector.
        m_block: rows that stay in cache while all panels of B pass by, a multiple of ``m_tile``; 0 for all rows.
    """

    m_tile: int
    n_vectors: int
    lanes: int
    m_block: int = 0

    @property
    def panel(self) -> int:
        """Columns per panel of B."""
        return self.n_vectors * self.lanes


def supports(spec: MatmulSpec, caps: Caps) -> str | None:
    """Why this kernel can't compute ``spec``, or None if it can."""
    if caps.is_gpu:
        return "needs a CPU"
    if spec.n < 1 or spec.k < 1 or (spec.static_m is not None and spec.static_m < 1):
        return "an empty dimension"
    return None


def default_config(spec: MatmulSpec, caps: Caps) -> MatmulConfig:
    """The tile with the least predicted time among those that fit the register file of ``caps``."""
    lanes = caps.lanes(4)
    rows = spec.static_m or _SYMBOLIC_ROWS
    vectors_needed = -(-spec.n // lanes)

    def cycles(tile: tuple[int, int]) -> tuple[float, int]:
        points, vectors = tile
        panels = -(-vectors_needed // vectors)
        total = 0.0
        for segment in split_balanced(rows, points):
            step = tile_cycles(segment.tile, vectors)
            total += int(segment.count) * (spec.k * step + _STORE_CYCLES * segment.tile * vectors)
        return panels * total, -points * vectors

    points, vectors = min(register_tiles(caps.vector_registers, min(8, vectors_needed), rows), key=cycles)
    return MatmulConfig(points, vectors, lanes, _cached_rows(spec, caps, points))


def _cached_rows(spec: MatmulSpec, caps: Caps, m_tile: int) -> int:
    """Rows of A that half of L2 holds, if that is less than all of them."""
    fitting = caps.l2_bytes // 2 // (4 * spec.k)
    block = max(4, fitting // m_tile) * m_tile
    return 0 if spec.static_m is not None and spec.static_m <= block else block


def packed_weight_shape(spec: MatmulSpec, config: MatmulConfig) -> tuple[int, int, int]:
    """Shape of the packed B: (panels, K, columns of a panel)."""
    return -(-spec.n // config.panel), spec.k, config.panel


def pack_weight(weight: npt.NDArray[np.float32], spec: MatmulSpec, config: MatmulConfig) -> npt.NDArray[np.float32]:
    """Packs B of shape (K, N) into panels, the last one filled up with zero columns.

    Raises:
        ValueError: the shape isn't (K, N).
    """
    if weight.shape != (spec.k, spec.n):
        raise ValueError(f"weight has shape {weight.shape}, expected {(spec.k, spec.n)}")
    panels, k, width = packed_weight_shape(spec, config)
    padded = np.zeros((k, panels * width), np.float32)
    padded[:, : spec.n] = weight
    return np.ascontiguousarray(padded.reshape(k, panels, width).transpose(1, 0, 2))


def emit(
    spec: MatmulSpec,
    config: MatmulConfig,
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "matmul_packed",
    style: StoreStyle = StoreStyle.unrolled,
) -> tirx.PrimFunc:
    """Emits ``name(a: (M, K), weight: packed_weight_shape, *extras, output: (M, N))``.

    Args:
        spec: the problem.
        config: the tile; its weights must be packed with the same.
        epilogue: maps an accumulator at ``(m, n)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        style: how the loops around the epilogue are written.
    """
    finish = epilogue or store_accumulator
    if spec.static_m is None:
        split = split_symbolic(spec.m, config.m_tile)
    else:
        split = split_balanced(spec.static_m, config.m_tile)

    def body(inputs: list[tirx.Buffer], operands: list[tirx.Buffer], output: tirx.Buffer) -> None:
        a, weight = inputs
        segments = bind_segments(split)

        def tile_body(panel: tirx.Expr, row: tirx.Expr, segment: Segment) -> None:
            tile = RegisterTile(segment.tile, config.n_vectors, config.lanes)
            tile.clear()
            with T.serial(0, spec.k) as k:
                tile.multiply_add(lambda p: a[row + p, k], lambda c: weight[panel, k, c])

            def store(accumulator: tirx.Expr, p: tirx.Expr, column: tirx.Expr) -> None:
                value = finish(accumulator, (row + p, column), operands)
                T.buffer_store(output, value, [row + p, column])

            whole_vectors = spec.n % config.lanes == 0
            (tile.store_vectors if whole_vectors else tile.store_scalars)(panel * config.panel, spec.n, store, style)

        def task(_: tirx.Expr, panel: tirx.Expr, index: tirx.Expr) -> None:
            for_each_tile(index, segments, lambda row, segment: tile_body(panel, row, segment))

        panels = packed_weight_shape(spec, config)[0]
        parallel_tiles(1, panels, bind(tile_count(segments)), config.m_block // config.m_tile, task)

    return build_prim_func(
        name,
        [("a", (spec.m, spec.k)), ("weight", packed_weight_shape(spec, config))],
        extras,
        (spec.m, spec.n),
        body,
    )
