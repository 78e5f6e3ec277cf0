"""Attention of a few queries, as when a language model makes one token after another: keys and values are read where they lie.

Copies into panels pay where many queries read them. For a few, each key is a vector that is multiplied with each query and summed
across, and each value one that is added, weighted, to each result: keys and values pass from memory once, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.attention_finish import Finish
from graphopt.backends.cpu.kernels.attention_scores import Scores
from graphopt.backends.cpu.kernels.prefetch import LINE_BYTES, prefetch
from graphopt.backends.cpu.kernels.register_tile import ON_STACK, RegisterTile, bind
from graphopt.backends.cpu.kernels.row import Row, bound
from graphopt.backends.cpu.kernels.tiling import split_balanced
from graphopt.backends.specs.attention import AttentionSpec
from graphopt.backends.specs.window import ceil_div
from graphopt.backends.templates.operand import View
from graphopt.backends.tensors.tensor import Expr

Stored: TypeAlias = "Callable[[Sequence[Any]], Sequence[Any]]"
"""Where an element of a tensor lies, by its index."""

MOST_ROWS = 8
"""Queries of a task up to which keys and values are read where they lie: so many sums fit the registers."""
_SUMS = 8
"""Sums of products with keys that are made side by side, to hide the latency of an addition."""
_RESULTS = 12
"""Sums of weighted values that stay in registers."""
_ROWS_AHEAD = 24
"""How many keys or values ahead one is fetched: some kilobytes, a trip to memory."""


@dataclass(frozen=True)
class RowsTask:
    """Emits the work of one task: all queries of some heads that share keys and values.

    Attributes:
        spec: the problem; its queries are known, and a vector of lanes divides the sizes of keys and values.
        lanes: elements per vector.
        heads: heads that share keys and values.
        q, k, v, mask: the operands.
        finish: what is done with a result.
    """

    spec: AttentionSpec
    lanes: int
    heads: int
    q: View
    k: View
    v: View
    mask: View | None
    finish: Finish

    @property
    def rows(self) -> int:
        """Rows of scores."""
        assert isinstance(self.spec.queries, int)
        return self.heads * self.spec.queries

    def emit(self, batch: Expr, first_head: Expr) -> None:
        """Emits the task of the heads from ``first_head``."""
        spec = self.spec
        kv_head = tirx.floordiv(first_head, spec.heads // spec.kv_heads)
        length = bind(tirx.max(ceil_div(spec.keys, self.lanes), 1) * self.lanes)
        scores = Scores.allocated(spec, self.mask, self.rows, length)
        together = max(1, _SUMS // self.rows)
        whole = bind(tirx.floordiv(spec.keys, together))
        with T.serial(0, whole) as i:
            self._score(scores, (batch, first_head, kv_head), bind(i * together), together)
        if together > 1:
            with T.serial(0, spec.keys - whole * together) as i:
                self._score(scores, (batch, first_head, kv_head), bind(whole * together + i), 1)
        with T.serial(0, length - spec.keys) as i, T.serial(0, self.rows) as p:
            T.buffer_store(scores.rows, scores.nothing, [p, spec.keys + i])
        with T.serial(0, self.rows) as p:
            scores.exponentials(Row(length, self.lanes, spec.types.sum, whole=True), p)
        for segment in split_balanced(spec.v_size // self.lanes, max(1, _RESULTS // self.rows)):
            with T.serial(0, segment.count) as i:
                first = (segment.start + i * segment.tile) * self.lanes
                self._weigh(scores, (batch, first_head, kv_head), bind(first), segment.tile)

    def _place(self, first_head: Expr, row: Expr) -> tuple[Expr, Expr]:
        """Head and query of a row."""
        queries = self.spec.queries
        return first_head + tirx.floordiv(row, queries), tirx.floormod(row, queries)

    def _score(self, scores: Scores, at: tuple[Expr, Expr, Expr], first: Expr, count: int) -> None:
        """Emits the scores of ``count`` keys from ``first``."""
        spec, lanes, rows = self.spec, self.lanes, self.rows
        batch, first_head, kv_head = at
        stored = spec.key_layout.physical_index
        sums = T.alloc_buffer((count * rows, lanes), spec.types.sum, scope="local", annotations=ON_STACK)
        with T.unroll(0, count * rows) as i, T.vectorized(0, lanes) as lane:
            T.buffer_store(sums, tirx.const(0.0, spec.types.sum), [i, lane])
        for t in range(count):
            self._fetch(self.k, spec.key_layout.physical_index, (batch, kv_head, first + t), spec.size)
        with T.serial(0, spec.size // lanes) as part:
            for t in range(count):
                for p in range(rows):
                    head, query = self._place(first_head, T.int64(p))
                    with T.vectorized(0, lanes) as lane:
                        i = part * lanes + lane
                        key = self.k[stored(spec.at(batch, kv_head, first + t, i, spec.size))]
                        product = self.q[spec.at(batch, head, query, i, spec.size)] * key
                        T.buffer_store(sums, sums[t * rows + p, lane] + product, [t * rows + p, lane])
        width = lanes // 2
        while width:
            with T.unroll(0, count * rows) as i, T.vectorized(0, width) as lane:
                T.buffer_store(sums, _halves(sums, i, lane, width), [i, lane])
            width //= 2
        for t in range(count):
            for p in range(rows):
                head, query = self._place(first_head, T.int64(p))
                value = scores.score(sums[t * rows + p, 0], batch, head, query, first + t)
                T.buffer_store(scores.rows, value, [p, first + t])

    def _fetch(self, operand: View, stored: Stored, at: tuple[Expr, Expr, Expr], size: int, first: Expr = 0) -> None:
        """Emits the prefetch of ``size`` elements, from ``first``, of a key or value some positions after the one at hand."""
        batch, kv_head, position = at
        full = self.spec.size if operand is self.k else self.spec.v_size
        for i in range(0, size, LINE_BYTES // operand.type.bytes):
            prefetch(operand, stored(self.spec.at(batch, kv_head, position + _ROWS_AHEAD, first + i, full)))

    def _weigh(self, scores: Scores, at: tuple[Expr, Expr, Expr], first: Expr, vectors: int) -> None:
        """Emits the columns of the results from ``first``."""
        spec, (batch, first_head, kv_head) = self.spec, at
        stored = spec.value_layout.physical_index
        tile = RegisterTile(self.rows, vectors, self.lanes, spec.types.sum)
        tile.clear()
        with T.serial(0, spec.keys) as key:
            self._fetch(self.v, stored, (batch, kv_head, key), vectors * self.lanes, first)
            tile.multiply_add(
                lambda p: scores.rows[p, key],
                lambda c: self.v[stored(spec.at(batch, kv_head, key, first + c, spec.v_size))],
            )

        def store(value: Expr, p: Expr, c: Expr) -> None:
            head, query = self._place(first_head, p)
            self.finish.store(value * scores.inverse[p], spec.at(batch, head, query, c, spec.v_size))

        tile.store_vectors(first, spec.v_size, store, self.finish.style)


def _halves(sums: tirx.Buffer, i: Expr, lane: Expr, width: int) -> Expr:
    """A lane of a sum and the one ``width`` lanes on, added up."""
    return bound(lambda: sums[i, lane] + sums[i, lane + width])
