"""Matrix product with constant right-hand side packed into panels: ``out[m, n] = epilogue(sum_k a[m, k] * b[k, n])``.

The classic register-blocked inner product (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication",
2008): a tile of rows by one panel of columns stays in registers over the whole of K, reading a broadcast of A and whole
vectors of B.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dot_product import DOT_PRODUCTS, importing, multiplied_together, temporaries_of
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.cost.constants import CLOCK
from graphopt.backends.cpu.kernels.bfloat16_pairs import PAIR, is_split
from graphopt.backends.cpu.kernels.matmul_tile import (
    MatmulConfig,
    packed_weight_shape,
    panel_and_column,
    row_tiles,
    tiles_per_block,
)
from graphopt.backends.cpu.kernels.panel_product import PanelOperands, PanelShape, PanelTile, multiply_panels
from graphopt.backends.cpu.kernels.register_tile import bind, bind_segments, tile_count
from graphopt.backends.cpu.kernels.settling import SETTLED_VECTORS
from graphopt.backends.cpu.kernels.task_loops import share
from graphopt.backends.cpu.kernels.tiling import (
    lane_steps,
    register_tiles,
    split_balanced,
    tile_cycles,
)
from graphopt.backends.cpu.kernels.widened import factors_of
from graphopt.backends.specs.dot_products import dot_product_for
from graphopt.backends.specs.matmul import MatmulSpec
from graphopt.backends.specs.window import ceil_div
from graphopt.backends.templates.operand import GROUPED, View, grouped_weight
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle, store_accumulator

_STORE_CYCLES = 2.0
_SYMBOLIC_ROWS = 128
"""Rows assumed when choosing the tile of a symbolic M."""
_SYMBOLIC_TILES = 8
_GOOD_PANELS = 8
"""Panels for each core with which cores are about equally busy for any number of blocks of rows; with fewer, blocks are low."""
_GOOD_ROWS = 112
_LEAST_STEPS = 192
_PANEL_LOAD_TILES = 0.3
"""What bringing a panel into the first tile of a block of rows costs, in tiles."""
READ_RATE = 1e10
"""Bytes a core reads from memory in a second, and hertz: assumed where only the order of magnitude matters."""
WORTH_TWO_THREADS = 1e-5
"""Seconds of work on one thread above which starting others pays."""

_STREAMING_VECTORS = (8, 4, 6, 3, 2)
_MOST_STREAMS = 4
_FREE_REGISTERS = 4
_ZERO_PANELS = 16
"""One panel of so many may be zeros that fill up a group of those that are read side by side."""

_TILES_TO_WIDEN = 6
_WIDENED_BYTES = 1 << 17
"""A copy of a panel in float32 pays where so many tiles read it, from the second-level cache at the farthest."""


def default_config(spec: MatmulSpec, caps: Caps) -> MatmulConfig:
    """The tile with the least predicted time among those that fit the register file of ``caps``."""
    lanes = spec.types.lanes(caps)
    dot = dot_product_for(spec.types, spec.k, caps)
    by_lane = lane_steps(caps, spec.types.accumulator, dot)
    steps = spec.k // multiplied_together(dot)
    most_vectors, rows = most_tile(spec, caps)
    vectors_needed = -(-spec.n // lanes)

    def cycles(tile: tuple[int, int]) -> tuple[float, int]:
        points, vectors = tile
        panels = -(-vectors_needed // vectors)
        total = 0.0
        for segment in split_balanced(rows, points):
            step = tile_cycles(segment.tile, vectors, caps, by_lane)
            total += int(segment.count) * (steps * step + _STORE_CYCLES * segment.tile * vectors)
        return panels * total, -points * vectors

    tile = _streaming_tile(spec, caps)
    if tile is None:
        tiles = list(register_tiles(caps, most_vectors, rows, temporaries_of(dot), by_lane))
        if by_lane > 1 and spec.types.most_added(spec.k):
            tiles = [(p, v) for p, v in tiles if v == min(most_vectors, SETTLED_VECTORS)]
        points, vectors = min(tiles, key=cycles)
        tile = MatmulConfig(points, vectors, lanes, dot=dot, by_lane=by_lane)
    return replace(
        _cache_blocks(spec, tile, caps),
        single=_single(spec, tile, caps),
        prefetch=rows > tile.m_tile and not caps.fetches_ahead,
        parallel=caps.cores > 1 and (spec.flops is None or _seconds(spec, caps) > WORTH_TWO_THREADS),
    )


def _single(spec: MatmulSpec, tile: MatmulConfig, caps: Caps) -> int:
    """Panels that the only row reads side by side: as many as hide latencies and fit the registers, and leave few of zeros."""
    if spec.static_m is not None:
        return 0
    panels = -(-spec.n // tile.panel)
    fitting = (caps.vector_registers - _FREE_REGISTERS) // tile.n_vectors
    return next((s for s in range(min(_MOST_STREAMS, fitting), 1, -1) if -panels % s <= panels / _ZERO_PANELS), 0)


def _streaming_tile(spec: MatmulSpec, caps: Caps) -> MatmulConfig | None:
    """The tile for a B that streams from memory once, past all rows; None where it doesn't, or rows are too many.

    The hardware prefetches each page by itself, a few lines ahead: one stream leaves most of memory's rate unused. Measured on
    Zen 3 for one row, 4096 to 25088 steps: 11.5 GB/s of float32 from one panel, 15 from two, 17 from four, 16 from eight; of
    float16 11, 13.3, 14.6 and 14.6. Prefetching in software beside it takes a tenth more time. Eight vectors take 0.9 of the
    time of four, also where widening 16 bits makes LLVM spill one of them.
    """
    rows = spec.static_m
    if rows is None or spec.types.weight.bytes * spec.n * spec.k <= caps.l2_bytes:
        return None
    lanes = spec.types.lanes(caps)
    dot = dot_product_for(spec.types, spec.k, caps)
    by_lane = lane_steps(caps, spec.types.accumulator, dot)
    tiles = register_tiles(caps, *most_tile(spec, caps), temporaries_of(dot), by_lane)
    fitting = {v for p, v in tiles if p == rows}
    if rows == 1:  # no other row needs the weights, so that they take no registers
        fitting |= {v for v in _STREAMING_VECTORS if v + _FREE_REGISTERS <= caps.vector_registers}
    vectors = next((v for v in _STREAMING_VECTORS if v in fitting and v * lanes <= spec.n), None)
    if vectors is None:
        return None
    streams = next(s for s in range(_MOST_STREAMS, 0, -1) if vectors % s == 0)
    pairs = not dot and is_split(spec.types.weight) and spec.k % PAIR == 0
    return MatmulConfig(rows, vectors, lanes, dot=dot, streams=streams, pairs=pairs, by_lane=1 if pairs else by_lane)


def configurations(spec: MatmulSpec, caps: Caps) -> Iterator[MatmulConfig]:
    """Tiles that fit the register file, with and without blocks for the caches, prefetching and threads."""
    streaming = _streaming_tile(spec, caps)
    if streaming is not None:
        yield from (replace(streaming, parallel=parallel) for parallel in caps.thread_choices)
    dot = dot_product_for(spec.types, spec.k, caps)
    by_lane = lane_steps(caps, spec.types.accumulator, dot)
    for points, vectors in register_tiles(caps, *most_tile(spec, caps), temporaries_of(dot), by_lane):
        tile = MatmulConfig(points, vectors, spec.types.lanes(caps), dot=dot, by_lane=by_lane)
        blocked = replace(_cache_blocks(spec, tile, caps), single=_single(spec, tile, caps))
        for blocks in dict.fromkeys((blocked, tile)) if spec.static_m is not None else (blocked,):
            for prefetch in (False,) if caps.fetches_ahead else (False, True):
                for parallel in caps.thread_choices:
                    yield replace(blocks, prefetch=prefetch, parallel=parallel)


def most_tile(spec: MatmulSpec, caps: Caps) -> tuple[int, int]:
    """Most vectors and rows of a register tile."""
    return min(8, -(-spec.n // spec.types.lanes(caps))), spec.static_m or _SYMBOLIC_ROWS


def _seconds(spec: MatmulSpec, caps: Caps) -> float:
    """About how long one core takes: the multiply-adds or, for few rows, the reading of B."""
    return max(
        (spec.flops or 0) / (4 * spec.types.lanes(caps) * CLOCK), spec.types.weight.bytes * spec.n * spec.k / READ_RATE
    )


def _cache_blocks(spec: MatmulSpec, tile: MatmulConfig, caps: Caps) -> MatmulConfig:
    """``tile`` with its blocks of rows, of K, and groups of panels.

    A block of A stays in half of L2 while panels pass. It should have ``_GOOD_ROWS`` rows: reading B again for each block of
    rows must take much less time than the multiplying. Where K is too long for that, it is cut, and the sums of a block of
    rows and a group of panels wait in a quarter of L2. Among the numbers of tasks that fit, the best balanced.
    """
    tiles = _SYMBOLIC_TILES if spec.static_m is None else int(tile_count(split_balanced(spec.static_m, tile.m_tile)))
    panels = -(-spec.n // tile.columns)
    half = caps.l2_bytes // 2 // (spec.types.accumulator.bytes * tile.m_tile)
    good = min(tiles, max(4, _GOOD_ROWS // tile.m_tile))
    if good > 1 and half // good < spec.k:
        pieces = -(-spec.k // max(_LEAST_STEPS, half // good))
        k_block = 0 if pieces == 1 else ceil_div(-(-spec.k // pieces), tile.together) * tile.together
        fitting = good
        group = (
            max(1, caps.l2_bytes // 4 // (spec.types.accumulator.bytes * good * tile.m_tile * tile.panel))
            if pieces > 1
            else 1
        )
    else:
        k_block, fitting, group = 0, max(1, half // spec.k), 1
    if spec.static_m is None:  # there may be one block of rows only: each core shall find a group of panels
        rows_alone = panels < _GOOD_PANELS * caps.cores
        return replace(
            tile,
            m_block=(min(fitting, tiles) if rows_alone else fitting) * tile.m_tile,
            k_block=k_block,
            n_group=min(group, -(-panels // caps.cores)),
        )
    groups = -(-panels // group)
    least = -(-tiles // fitting)

    def makespan(parts: tuple[int, int]) -> float:
        blocks, groups = parts
        per_task = -(-panels // groups) * (-(-tiles // blocks) + _PANEL_LOAD_TILES)
        return -(-blocks * groups // caps.cores) * per_task

    candidates = [
        (b, g)
        for b in range(least, min(tiles, least + 8) + 1)
        for g in range(groups, min(panels, groups + 8 if k_block else groups) + 1)
    ]
    blocks, groups = min(candidates, key=makespan)
    return replace(
        tile,
        m_block=0 if blocks == 1 else -(-tiles // blocks) * tile.m_tile,
        k_block=k_block,
        n_group=-(-panels // groups),
    )


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
    dot = DOT_PRODUCTS.get(config.dot)

    def body(inputs: list[View], operands: list[tirx.Buffer], output: View) -> None:
        a = factors_of(inputs[0], dot, config.lanes, config.parallel)

        def product(spec: MatmulSpec, config: MatmulConfig) -> None:
            _product(spec, config, a, inputs[1], operands, output, epilogue or store_accumulator, style)

        if not config.single or spec.static_m is not None:
            product(spec, config)
            return
        with T.If(spec.m == 1):
            with T.Then():
                product(replace(spec, m=1), _of_one_row(config))
            with T.Else():
                product(spec, config)

    return build_prim_func(
        name,
        [
            ("a", (spec.m, spec.k), spec.types.input),
            (
                "weight",
                packed_weight_shape(spec, config),
                GROUPED if config.pairs else grouped_weight(spec.types.weight, dot),
            ),
        ],
        extras,
        ((spec.m, spec.n), spec.types.output),
        body,
    )


def _of_one_row(config: MatmulConfig) -> MatmulConfig:
    """The tile of a single row over the same panels."""
    return MatmulConfig(
        1,
        config.single * config.n_vectors,
        config.lanes,
        parallel=config.parallel,
        dot=config.dot,
        streams=config.single,
        by_lane=config.by_lane,
    )


def _product(
    spec: MatmulSpec,
    config: MatmulConfig,
    a: View,
    weight: View,
    operands: list[tirx.Buffer],
    output: View,
    complete: EpilogueFn,
    style: StoreStyle,
) -> None:
    """Emits the loops of a product."""
    panels, width = -(-spec.n // config.columns), config.columns
    most_tiles = tiles_per_block(spec, config)
    groups = -(-panels // config.n_group)
    most_panels = -(-panels // groups)
    dot = DOT_PRODUCTS.get(config.dot)
    segments = bind_segments(row_tiles(spec.m, config.m_tile, bind))
    tiles = bind(tile_count(segments))
    symbolic = not isinstance(tiles, int)
    blocks = bind(ceil_div(tiles, most_tiles), symbolic)
    shape = PanelShape(
        spec.k // config.together,
        config.n_vectors,
        config.lanes,
        spec.types.sum,
        config.m_tile,
        most_tiles,
        most_panels,
        config.k_block // config.together,
        dot,
        _widens(spec, config, most_tiles),
        pairs=config.pairs,
        by_lane=config.by_lane,
        most=spec.types.most_added(spec.k),
    )

    def finish(tile: PanelTile, panel: tirx.Expr, row: tirx.Expr) -> None:
        def store(value: tirx.Expr, p: tirx.Expr, column: tirx.Expr) -> None:
            index = (row + p, panel * width + column)
            output.store(complete(value, index, operands), list(index))

        whole, rest = divmod(spec.n, width)
        if rest == 0 or whole == 0:
            tile.store_columns(rest or width, store, style)
            return
        with T.If(panel < whole):
            with T.Then():
                tile.store_columns(width, store, style)
            with T.Else():
                tile.store_columns(rest, store, style)

    reach = PanelOperands(
        a=lambda row, k: a[row, k],
        b=lambda group, k, c: weight[panel_and_column(config, group, k, c)],
        finish=finish,
        following=weight if config.prefetch else None,
    )
    loop = T.parallel if config.parallel else T.serial
    with importing(dot, config.lanes), loop(0, blocks * groups) as flat:
        if symbolic and config.k_block:
            # groups are few and of one size: threads take whole ones, for any number of blocks
            group, block = bind(tirx.floordiv(flat, blocks)), bind(tirx.floormod(flat, blocks))
        else:
            block, group = bind(tirx.floordiv(flat, groups), symbolic), tirx.floormod(flat, groups)
        multiply_panels(shape, reach, segments, share(block, tiles, blocks), share(group, panels, groups))


def _widens(spec: MatmulSpec, config: MatmulConfig, tiles: int) -> bool:
    """Whether narrow panels are widened before tiles read them: enough tiles do, and they find the copy in a near cache.

    Measured on Zen 3: bfloat16, which takes two instructions a vector, gains 4%; float16, which takes one, loses as much.
    """
    steps = min(config.k_block or spec.k, spec.k)
    copied = steps * config.panel * spec.types.accumulator.bytes
    return (
        spec.types.weight.widening > 1
        and config.together == 1
        and tiles >= _TILES_TO_WIDEN
        and copied <= _WIDENED_BYTES
    )
