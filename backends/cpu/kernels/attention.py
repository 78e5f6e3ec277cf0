"""``softmax(scale * q kT + mask) v`` of one head after another, scores never leaving the cache.

A task takes one head and a share of its queries. It copies keys and values into panels once; then each register tile of
queries makes its rows of scores, their exponentials and the product with the values, while these rows are in cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.backends.base.dot_product import DOT_PRODUCTS, DotProduct, importing
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.attention_finish import Finish
from graphopt.backends.cpu.kernels.attention_rows import RowsTask
from graphopt.backends.cpu.kernels.attention_scores import Scores
from graphopt.backends.cpu.kernels.matmul_tile import row_tiles
from graphopt.backends.cpu.kernels.pack_panel import PanelCopy
from graphopt.backends.cpu.kernels.panel_product import PanelTile, Store
from graphopt.backends.cpu.kernels.register_tile import bind, bind_segments, for_each_tile, tile_count
from graphopt.backends.cpu.kernels.row import Row
from graphopt.backends.cpu.kernels.task_loops import share
from graphopt.backends.cpu.kernels.tiling import Segment
from graphopt.backends.cpu.kernels.widened import widened
from graphopt.backends.specs.attention import AttentionSpec
from graphopt.backends.specs.window import ceil_div
from graphopt.backends.templates.operand import GROUPED, View, grouped
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle, store_accumulator
from graphopt.backends.tensors.tensor import Expr


@dataclass(frozen=True)
class AttentionConfig:
    """How to compute it.

    Attributes:
        m_tile: queries per register tile.
        n_vectors: accumulator vectors of a tile of scores.
        v_vectors: of a tile of results.
        lanes: elements per vector.
        shares: tasks that the queries of a head are divided among.
        parallel: whether tasks are shared among threads.
        together: heads of a task whose few queries read keys and values where they lie (`attention_rows`); 0 for copies of these in
            panels.
        dot: name of the dot product that makes scores of groups of elements; none by default.
        by_lane: elements of a query, and scores, that come with one load, for multiply-adds by lane; 1 for one at a time.
    """

    m_tile: int
    n_vectors: int
    v_vectors: int
    lanes: int
    shares: int = 1
    parallel: bool = True
    together: int = 0
    dot: str = ""
    by_lane: int = 1


def emit(
    spec: AttentionSpec,
    config: AttentionConfig,
    epilogue: EpilogueFn | None = None,
    extras: Sequence[ExtraOperand] = (),
    name: str = "attention",
    style: StoreStyle = StoreStyle.unrolled,
) -> tirx.PrimFunc:
    """Emits ``name(q, k, v, [mask,] *extras, output)`` with shapes as in `AttentionSpec`.

    Args:
        spec: the problem.
        config: tiles and tasks.
        epilogue: maps a result at its index in the output to the stored value.
        extras: further inputs for the epilogue.
        name: global symbol of the function.
        style: how the loops around the epilogue are written.
    """
    has_mask = spec.mask_shape is not None
    masks = [] if spec.mask_shape is None else [("mask", spec.mask_shape, spec.mask_type)]
    dtype = spec.types.sum
    dot = DOT_PRODUCTS.get(config.dot)
    size = spec.size if dot is None else spec.size // dot.group
    stored_keys, stored_values = spec.key_layout.physical_index, spec.value_layout.physical_index
    key_shape, value_shape = (
        spec.shape(spec.kv_heads, spec.keys, spec.size),
        spec.shape(spec.kv_heads, spec.keys, spec.v_size),
    )

    def body(inputs: list[View], operands: list[tirx.Buffer], output: View) -> None:
        q = widened(inputs[0], config.lanes, config.parallel) if dot is None else grouped(inputs[0], dot)
        k = inputs[1] if dot is None else grouped(inputs[1], dot)
        v = inputs[2]
        mask = inputs[3] if has_mask else None
        finish = Finish(epilogue or store_accumulator, operands, output, style)
        if config.together:
            rows = RowsTask(spec, config.lanes, config.together, q, k, v, mask, finish)
            groups = spec.heads // config.together
            with (T.parallel if config.parallel else T.serial)(0, spec.batch * groups) as flat:
                batch = bind(tirx.floordiv(flat, groups), not isinstance(spec.batch, int))
                rows.emit(batch, tirx.floormod(flat, groups) * config.together)
            return
        segments = bind_segments(row_tiles(spec.queries, config.m_tile, bind))
        tiles = bind(tile_count(segments))
        heads = spec.heads * config.shares
        with importing(dot, config.lanes), (T.parallel if config.parallel else T.serial)(0, spec.batch * heads) as flat:
            batch = bind(tirx.floordiv(flat, heads), not isinstance(spec.batch, int))
            head = tirx.floordiv(tirx.floormod(flat, heads), config.shares)
            first, count = share(tirx.floormod(flat, config.shares), tiles, config.shares)
            kv_head = tirx.floordiv(head, spec.heads // spec.kv_heads)
            keys = _Panels(config.n_vectors, config.lanes, size, spec.keys, dtype, config.by_lane, dot)
            keys.fill(lambda i, c: k[stored_keys(spec.at(batch, kv_head, c, i, size))], transposed=True)
            values = _Panels(config.v_vectors, config.lanes, spec.keys, spec.v_size, dtype, config.by_lane)
            values.fill(lambda i, c: v[stored_values(spec.at(batch, kv_head, i, c, spec.v_size))], transposed=False)
            padded = keys.count * keys.width
            scores = Scores.allocated(spec, mask, config.m_tile, padded)
            work = _Work(spec, config, (batch, head), keys, values, scores)

            def tile_of(row: Expr, segment: Segment) -> None:
                work.score(q, row, segment)
                with T.serial(0, segment.tile) as p:
                    scores.exponentials(Row(padded, config.lanes, dtype, whole=True), p)
                work.weigh(row, segment, finish)

            with T.serial(0, count) as i:
                for_each_tile(first + i, segments, tile_of)

    return build_prim_func(
        name,
        [
            ("q", spec.shape(spec.heads, spec.queries, spec.size), spec.types.input),
            ("k", spec.key_layout.physical_shape(key_shape), spec.types.weight),
            ("v", spec.value_layout.physical_shape(value_shape), spec.value_type),
            *masks,
        ],
        extras,
        (spec.shape(spec.heads, spec.queries, spec.v_size), spec.types.output),
        body,
    )


class _Panels:
    """A matrix of ``k`` rows copied into panels, its columns filled up with zeros."""

    def __init__(
        self, vectors: int, lanes: int, k: Expr, columns: Expr, dtype: str, by_lane: int, dot: DotProduct | None = None
    ) -> None:
        self.k, self.columns, self.vectors, self.lanes, self.by_lane, self.dot = (
            k,
            columns,
            vectors,
            lanes,
            by_lane,
            dot,
        )
        self.dtype = dtype if dot is None else GROUPED.storage
        self.width = vectors * lanes
        self.count = bind(ceil_div(columns, self.width))
        self.buffer = T.alloc_buffer((self.count, k, self.width), self.dtype, scope="local")

    def fill(self, read: Callable[[Expr, Expr], Expr], transposed: bool) -> None:
        """Emits the copy of ``read(row, column)``."""

        def panel_of(panel: Expr, columns: Expr) -> None:
            PanelCopy(
                lambda i, c: read(i, panel * self.width + c),
                lambda i, c, value: T.buffer_store(self.buffer, value, [panel, i, c]),
                self.k, self.width, self.lanes, self.dtype, transposed,
            ).emit(columns)  # fmt: skip

        self.each(panel_of)

    def each(self, body: Callable[[Expr, Expr], None]) -> None:
        """Emits ``body(panel, columns in it)`` for all panels."""
        if not isinstance(self.columns, int):
            with T.serial(0, self.count) as panel:
                body(panel, bind(tirx.min(self.width, self.columns - panel * self.width)))
            return
        whole, rest = divmod(self.columns, self.width)
        if whole:
            with T.serial(0, whole) as panel:
                body(panel, self.width)
        if rest:
            body(whole, rest)

    def multiply(self, tile: PanelTile, panel: Expr, scalar: Callable[[Expr, Expr], Expr]) -> None:
        """Emits the sums of ``scalar(point, k)`` times the panel."""
        tile.clear()
        by_lane = 1 if self.dot is not None and not self.dot.by_lane else self.by_lane
        tile.accumulate(self.k, scalar, lambda k, c: self.buffer[panel, k, c], together=by_lane, dot=self.dot)

    def store(self, tile: PanelTile, columns: Expr, store: Store, style: StoreStyle) -> None:
        """Emits ``store`` for a tile's columns."""
        if isinstance(columns, int):
            tile.store_columns(columns, store, style)
            return
        with T.If(columns >= self.width):
            with T.Then():
                tile.store_columns(self.width, store, style)
            with T.Else():
                tile.store_some(columns, store)


@dataclass(frozen=True)
class _Work:
    """The three steps of a tile of queries: rows of scores, their exponentials, the weighted values."""

    spec: AttentionSpec
    config: AttentionConfig
    at: tuple[Expr, Expr]
    keys: _Panels
    values: _Panels
    scores: Scores

    def score(self, q: View, row: Expr, segment: Segment) -> None:
        """Emits the scores of the queries from ``row``."""
        spec, (batch, head) = self.spec, self.at
        scores = self.scores

        def panel_of(panel: Expr, columns: Expr) -> None:
            tile = PanelTile(segment.tile, self.config.n_vectors, self.config.lanes, spec.types.sum)
            self.keys.multiply(tile, panel, lambda p, k: q[spec.at(batch, head, row + p, k, int(self.keys.k))])

            # whole vectors are stored faster than some columns; but a mask has none for the padding
            hides_padding = scores.mask is None and not (isinstance(columns, int) and columns == self.keys.width)

            def store(value: Expr, p: Expr, c: Expr) -> None:
                column = panel * self.keys.width + c
                value = scores.score(value, batch, head, row + p, column)
                if hides_padding:
                    value = tirx.Select(column < spec.keys, value, scores.nothing)
                T.buffer_store(scores.rows, value, [p, column])

            if hides_padding:
                tile.store_columns(self.keys.width, store, StoreStyle.unrolled)
                return
            self.keys.store(tile, columns, store, StoreStyle.unrolled)
            if not (isinstance(columns, int) and columns == self.keys.width):
                with T.serial(0, segment.tile) as p, T.serial(0, self.keys.width - columns) as c:
                    column = panel * self.keys.width + columns + c
                    T.buffer_store(scores.rows, scores.nothing, [p, column])

        self.keys.each(panel_of)

    def weigh(self, row: Expr, segment: Segment, finish: Finish) -> None:
        """Emits the products with the values, divided by the sums, into the output."""
        spec, (batch, head) = self.spec, self.at

        def panel_of(panel: Expr, columns: Expr) -> None:
            tile = PanelTile(segment.tile, self.config.v_vectors, self.config.lanes, spec.types.sum)
            self.values.multiply(tile, panel, lambda p, k: self.scores.rows[p, k])

            def store(value: Expr, p: Expr, c: Expr) -> None:
                index = spec.at(batch, head, row + p, panel * self.values.width + c, spec.v_size)
                finish.store(value * self.scores.inverse[p], index)

            self.values.store(tile, columns, store, finish.style)

        self.values.each(panel_of)
