"""Matrix products of operands that are only known at run time: ``out[.., m, n] = epilogue(sum_k a[.., m, k] * b[.., k, n])``.

A task copies panels of B into scratch memory of its thread, as constants are packed at compile time, and then multiplies as
`matmul_packed` does. Where A has so few rows that a copy would not pay, vectors are read from B itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dot_product import DOT_PRODUCTS, importing
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.cost.constants import CLOCK
from graphopt.backends.cpu.kernels.matmul_packed import default_config, most_tile
from graphopt.backends.cpu.kernels.matmul_tile import MatmulConfig, row_tiles
from graphopt.backends.cpu.kernels.pack_panel import PanelCopy
from graphopt.backends.cpu.kernels.panel_product import PanelOperands, PanelShape, PanelTile, multiply_panels
from graphopt.backends.cpu.kernels.register_tile import bind, bind_segments, tile_count
from graphopt.backends.cpu.kernels.task_loops import share
from graphopt.backends.cpu.kernels.tiling import lane_steps, register_tiles
from graphopt.backends.cpu.kernels.widened import widened
from graphopt.backends.specs.dot_products import dot_product_for
from graphopt.backends.specs.matmul import BatchedSpec, MatmulSpec
from graphopt.backends.specs.window import ceil_div
from graphopt.backends.templates.operand import GROUPED, View, grouped, side_by_side
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle, store_accumulator
from graphopt.backends.tensors.tensor import Expr

_TYPICAL = 64
"""Extent assumed where one is symbolic."""


@dataclass(frozen=True)
class BatchedConfig:
    """How to compute it.

    Attributes:
        product: tile and blocks of one product.
        groups: tasks that the columns of one product are divided among.
        pack: whether panels of B are copied before they are read.
    """

    product: MatmulConfig
    groups: int = 1
    pack: bool = True


def default_batched(spec: BatchedSpec, caps: Caps) -> BatchedConfig:
    """The tile of a product of this size, and as many tasks as keep the threads equally busy."""
    typical = _typical(spec)
    batch, flops = _work(spec)
    single = default_config(typical, caps)
    symbolic = not all(isinstance(d, int) for d in (*spec.batch, spec.m, spec.n, spec.k))
    parallel = caps.cores > 1 and (symbolic or flops / (4 * spec.types.lanes(caps) * CLOCK) > _WORTH_TWO_THREADS)
    tile = _tile(spec, single, caps, parallel)
    pack = bool(tile.dot) or spec.transposed_b or not isinstance(spec.m, int) or spec.m > single.m_tile
    return BatchedConfig(tile, _tasks(batch, -(-typical.n // tile.panel), caps), pack)


def configurations(spec: BatchedSpec, caps: Caps) -> Iterator[BatchedConfig]:
    """Tiles that fit the register file, tasks that keep threads busy or as many as there are panels, copied panels or not."""
    typical = _typical(spec)
    for points, vectors in register_tiles(caps, *most_tile(typical, caps), 0, _by_lane(spec, caps)):
        tile = _tile(spec, MatmulConfig(points, vectors, spec.types.lanes(caps)), caps, False)
        panels = -(-typical.n // tile.panel)
        for groups in dict.fromkeys((1, _tasks(_work(spec)[0], panels, caps), panels)):
            for pack in (True,) if spec.transposed_b or tile.dot else (False, True):
                for parallel in caps.thread_choices:
                    yield BatchedConfig(_tile(spec, tile, caps, parallel), groups, pack)


def _typical(spec: BatchedSpec) -> MatmulSpec:
    """One product, with typical extents in place of symbolic ones."""
    m, n, k = (max(d, 1) if isinstance(d, int) else _TYPICAL for d in (spec.m, spec.n, spec.k))
    return MatmulSpec(m, n, k, spec.types)


def _work(spec: BatchedSpec) -> tuple[int, float]:
    """Products, and operations of all of them, typical numbers where they are symbolic."""
    one = _typical(spec)
    batch = math.prod(extent if isinstance(extent, int) else 2 for extent in spec.batch)
    return batch, batch * (one.flops or 0.0)


def _tile(spec: BatchedSpec, tile: MatmulConfig, caps: Caps, parallel: bool) -> MatmulConfig:
    """The register tile of another configuration, with blocks of rows for the second-level cache."""
    block = _row_block(spec, tile, caps)
    dot = "" if spec.transposed_a else dot_product_for(spec.types, spec.k, caps)  # steps of K lie side by side in A
    by_lane = _by_lane(spec, caps, dot)
    return MatmulConfig(
        tile.m_tile, tile.n_vectors, tile.lanes, m_block=block, parallel=parallel, dot=dot, by_lane=by_lane
    )


def _by_lane(spec: BatchedSpec, caps: Caps, dot: str = "") -> int:
    """Steps of K of a row that come with one load: they are neighbours unless A is transposed."""
    return 1 if spec.transposed_a else lane_steps(caps, spec.types.accumulator, dot)


def _tasks(batch: int, panels: int, caps: Caps) -> int:
    """Tasks that the columns of a product are divided among so that threads are equally busy."""
    if not (caps.cores > 1 and (batch % caps.cores or batch < caps.cores) and batch < 4 * caps.cores):
        return 1
    enough = -(-4 * caps.cores // batch)
    return min(panels, next((g for g in range(1, enough) if batch * g % caps.cores == 0), enough))


_WORTH_TWO_THREADS = 1e-5


def _row_block(spec: BatchedSpec, tile: MatmulConfig, caps: Caps) -> int:
    """Rows whose block of A half of L2 holds, 128 at least; 0 for all."""
    k = spec.k if isinstance(spec.k, int) else _TYPICAL
    rows = max(128, caps.l2_bytes // 2 // (spec.types.accumulator.bytes * max(k, 1)))
    return 0 if isinstance(spec.m, int) and spec.m <= rows else rows


def emit(
    spec: BatchedSpec,
    config: BatchedConfig,
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "matmul_batched",
    style: StoreStyle = StoreStyle.unrolled,
) -> tirx.PrimFunc:
    """Emits ``name(a: a_shape, b: b_shape, *extras, output: (*batch, m, n))``.

    Args:
        spec: the problem.
        config: the tile and the tasks.
        epilogue: maps an accumulator at ``(*batch, m, n)`` to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        style: how the loops around the epilogue are written.
    """
    complete = epilogue or store_accumulator
    tile = config.product
    width = tile.panel
    dot = DOT_PRODUCTS.get(tile.dot)
    steps = spec.k if dot is None else spec.k // dot.group
    stored = spec.types.sum if dot is None else GROUPED.storage

    def body(inputs: list[View], operands: list[tirx.Buffer], output: View) -> None:
        a = widened(inputs[0], tile.lanes, tile.parallel) if dot is None else grouped(inputs[0], dot)
        b = inputs[1] if dot is None or not spec.transposed_b else grouped(inputs[1], dot)
        segments = bind_segments(row_tiles(spec.m, tile.m_tile, bind))
        tiles = bind(tile_count(segments))
        per_block = max(1, tile.m_block // tile.m_tile) if tile.m_block else tiles
        blocks = bind(ceil_div(tiles, per_block)) if tile.m_block else 1
        panels = bind(ceil_div(spec.n, width))
        shape = PanelShape(
            steps,
            tile.n_vectors,
            tile.lanes,
            spec.types.sum,
            tile.m_tile,
            dot=dot,
            by_lane=tile.by_lane,
            most=spec.types.most_added(spec.k),
        )

        def multiply(at: tuple[Expr, ...], panel: Expr, columns: Expr, packed: bool) -> None:
            first_column = panel * width
            at_a, at_b = _broadcast(at, spec.a_batch), _broadcast(at, spec.b_batch)

            def read_b(k: Expr, c: Expr) -> Expr:
                if dot is None or spec.transposed_b:
                    index = (*at_b, first_column + c, k) if spec.transposed_b else (*at_b, k, first_column + c)
                    return b[index]
                places = [(*at_b, k * dot.group + i, first_column + c) for i in range(dot.group)]
                rows = [b.buffer[place] for place in places]
                return side_by_side(rows)

            scratch = None
            if packed:
                scratch = T.alloc_buffer((steps, width), stored, scope="local")
                copy = PanelCopy(
                    read_b,
                    lambda k, c, v: T.buffer_store(scratch, v, [k, c]),
                    steps,
                    width,
                    tile.lanes,
                    stored,
                    spec.transposed_b,
                )
                copy.emit(columns)

            def finish(sums: PanelTile, _: Expr, row: Expr) -> None:
                def store(value: Expr, p: Expr, column: Expr) -> None:
                    index = (*at, row + p, first_column + column)
                    output.store(complete(value, index, operands), list(index))

                if isinstance(columns, int):
                    sums.store_columns(columns, store, style)
                    return
                with T.If(columns >= width):
                    with T.Then():
                        sums.store_columns(width, store, style)
                    with T.Else():
                        sums.store_some(columns, store)

            reach = PanelOperands(
                a=lambda row, k: a[(*at_a, k, row) if spec.transposed_a else (*at_a, row, k)],
                b=lambda _, k, c: read_b(k, c) if scratch is None else scratch[k, c],
                finish=finish,
            )
            if not tile.m_block:
                multiply_panels(shape, reach, segments, (0, tiles), (0, 1))
                return
            with T.serial(0, blocks) as block:
                multiply_panels(shape, reach, segments, share(block, tiles, blocks), (0, 1))

        def one_panel(at: tuple[Expr, ...], panel: Expr) -> None:
            if not isinstance(spec.n, int):
                columns = bind(tirx.min(width, spec.n - panel * width))
                multiply(at, panel, columns, packed=True)
                return
            whole, rest = divmod(spec.n, width)
            if rest == 0 or whole == 0:
                multiply(at, panel, rest or width, config.pack or rest != 0)
                return
            with T.If(panel < whole):
                with T.Then():
                    multiply(at, panel, width, config.pack)
                with T.Else():
                    multiply(at, panel, rest, packed=True)

        total: Expr = config.groups
        for extent in spec.batch:
            total = total * extent
        with importing(dot, tile.lanes), (T.parallel if tile.parallel else T.serial)(0, total) as flat:
            at = _unflatten(tirx.floordiv(flat, config.groups), spec.batch)
            first, count = share(tirx.floormod(flat, config.groups), panels, config.groups)
            with T.serial(0, count) as j:
                one_panel(at, first + j)

    types = spec.types
    inputs = [("a", spec.a_shape, types.input), ("b", spec.b_shape, types.weight)]
    return build_prim_func(name, inputs, extras, ((*spec.batch, spec.m, spec.n), types.output), body)


def _unflatten(flat: Expr, extents: Sequence[Expr]) -> tuple[Expr, ...]:
    index: list[Expr] = []
    for extent in reversed(extents[1:]):
        index.append(bind(tirx.floormod(flat, extent), not isinstance(extent, int)))
        flat = tirx.floordiv(flat, extent)
    return (bind(flat, True), *reversed(index)) if extents else ()


def _broadcast(at: tuple[Expr, ...], batch: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The operand's index for the result's."""
    tail = at[len(at) - len(batch) :]
    return tuple(0 if isinstance(d, int) and d == 1 else i for i, d in zip(tail, batch))
