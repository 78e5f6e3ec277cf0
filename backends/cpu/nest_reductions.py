"""Generic nests with a reduction: accumulators in registers along the last axis of the result, or along the reduction's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.nest_loops import Nest, is_long, position
from graphopt.backends.tensors.loops import lane_kind, loop, seq, store_all
from graphopt.backends.tensors.reducers import REDUCERS, identity_of
from graphopt.backends.tensors.schedule import Evaluate, Reduction
from graphopt.backends.tensors.tensor import Expr, Index, Scope, as_expr, let


class VectorReduction(Nest):
    """Reductions with a vector of accumulators along the last output axis."""

    def __init__(
        self, shape: tuple[Expr, ...], evaluate: Evaluate, caps: Caps, lanes: int, reduction: Reduction
    ) -> None:
        super().__init__(shape, evaluate, caps, lanes)
        self.reduction = reduction
        self.tile_axis, self.tile = self._choose_tile()

    @property
    def reduced(self) -> Sequence[Expr]:
        return self.reduction.extents

    def work(self) -> float:
        return super().work() * math.prod(e if isinstance(e, int) else math.inf for e in self.reduction.extents)

    def _choose_tile(self) -> tuple[int, int]:
        axis = self.reduction.tile_axis
        if axis is None or not -len(self.shape) <= axis < len(self.shape) - 1 or len(self.shape) < 2:
            return -1, 1
        axis %= len(self.shape)
        extent = self.shape[axis]
        if axis == len(self.shape) - 1 or not isinstance(extent, int):
            return -1, 1
        limit = max(self.caps.vector_registers // 2, 1)
        return axis, max(t for t in range(1, min(limit, extent) + 1) if extent % t == 0)

    def statements(self) -> list[Any]:
        if self.tile > 1:
            tiled = list(self.shape)
            tiled[self.tile_axis] = tiled[self.tile_axis] // self.tile
            self.shape = tuple(tiled)
        return self._walk_last_axis(self._vector)

    def _index_at(self, outer: dict[int, Expr], t: Expr, last: Expr) -> Index:
        if not self.shape:
            return ()
        index = list(self._index(outer, last))
        if self.tile > 1:
            index[self.tile_axis] = index[self.tile_axis] * self.tile + t
        return tuple(index)

    def _vector(self, outer: dict[int, Expr], first: Expr, width: int) -> Any:
        r = self.reduction
        acc = tirx.decl_buffer((self.tile, width), r.dtype, "acc", scope="local")

        def lanes_of(make: Callable[[Index, Expr, Expr], tuple[Scope, list[Any]]]) -> Any:
            """``make(output index, tile, lane)`` for the whole register tile."""
            t = position("t") if self.tile > 1 else 0
            lane = position("lane") if width > 1 else 0
            last = first + lane if width > 1 else first
            scope, statements = make(self._index_at(outer, t, last), t, lane)
            body = seq(statements)
            if width > 1:
                body = loop(lane, width, body, lane_kind(scope))
            return loop(t, self.tile, body, tirx.ForKind.UNROLLED) if self.tile > 1 else body

        def start(_: Index, t: Expr, lane: Expr) -> tuple[Scope, list[Any]]:
            return Scope(), [tirx.BufferStore(acc, r.init, [as_expr(t), as_expr(lane)])]

        ridx = tuple(position(f"r{i}") if is_long(e) else 0 for i, e in enumerate(r.extents))

        def step(index: Index, t: Expr, lane: Expr) -> tuple[Scope, list[Any]]:
            logical = self.evaluate(index, lambda dt: tirx.const(0, dt)).logical
            with Scope() as scope:
                value = let(r.body(logical, ridx))
            old = tirx.BufferLoad(acc, [as_expr(t), as_expr(lane)])
            store = tirx.BufferStore(acc, REDUCERS[r.kind](old, value), [as_expr(t), as_expr(lane)])
            return scope, [*scope.statements(), store]

        def finish(index: Index, t: Expr, lane: Expr) -> tuple[Scope, list[Any]]:
            body = self.evaluate(index, lambda _: tirx.BufferLoad(acc, [as_expr(t), as_expr(lane)]))
            return body.scope, store_all(body)

        inner = lanes_of(step)
        for var, extent in reversed(list(zip(ridx, r.extents))):
            if is_long(extent):
                inner = loop(var, extent, inner)
        return tirx.SeqStmt([tirx.AllocBuffer(acc), lanes_of(start), inner, lanes_of(finish)])


class LaneReduction(Nest):
    """Reductions vectorised along their innermost axis."""

    def __init__(
        self, shape: tuple[Expr, ...], evaluate: Evaluate, caps: Caps, lanes: int, reduction: Reduction
    ) -> None:
        super().__init__(shape, evaluate, caps, lanes)
        self.reduction = reduction

    @property
    def reduced(self) -> Sequence[Expr]:
        return self.reduction.extents

    def work(self) -> float:
        return super().work() * math.prod(e if isinstance(e, int) else math.inf for e in self.reduction.extents)

    def statements(self) -> list[Any]:
        axes = [(i, d) for i, d in enumerate(self.shape) if is_long(d)]
        return [self._outer(axes, 1, self._one)]

    def _one(self, outer: dict[int, Expr]) -> Any:
        index: Index = tuple(outer.get(i, 0) for i in range(len(self.shape)))
        r, lanes = self.reduction, self.lanes
        vector = tirx.decl_buffer((lanes,), r.dtype, "acc", scope="local")
        total = tirx.decl_buffer((1,), r.dtype, "total", scope="local")
        zero = as_expr(0)
        *outer_extents, inner = r.extents
        outer_vars = tuple(position(f"r{i}") if is_long(e) else 0 for i, e in enumerate(outer_extents))
        logical = self.evaluate(index, lambda dt: tirx.const(0, dt)).logical

        def add(target: Any, at: Expr, last: Expr) -> tuple[Scope, Any]:
            with Scope() as scope:
                value = let(r.body(logical, (*outer_vars, last)))
            old = tirx.BufferLoad(target, [as_expr(at)])
            return scope, seq(
                [*scope.statements(), tirx.BufferStore(target, REDUCERS[r.kind](old, value), [as_expr(at)])]
            )

        lane, chunk, rest = position("lane"), position("k"), position("k")
        full = inner // lanes if isinstance(inner, int) else tirx.floordiv(inner, as_expr(lanes))
        left = inner % lanes if isinstance(inner, int) else tirx.floormod(inner, as_expr(lanes))
        scope, step = add(vector, lane, chunk * lanes + lane)
        body = [loop(chunk, full, loop(lane, lanes, step, lane_kind(scope)))]
        if not isinstance(left, int) or left:
            body.append(loop(rest, left, add(total, 0, full * lanes + rest)[1]))
        nest = seq(body)
        for var, extent in reversed(list(zip(outer_vars, outer_extents))):
            if is_long(extent):
                nest = loop(var, extent, nest)
        lane0, lane1 = position("lane"), position("lane")
        combine = REDUCERS[r.kind](tirx.BufferLoad(total, [zero]), tirx.BufferLoad(vector, [lane1]))
        return tirx.SeqStmt([
            tirx.AllocBuffer(vector),
            tirx.AllocBuffer(total),
            loop(lane0, lanes, tirx.BufferStore(vector, identity_of(r.kind, r.dtype), [lane0]), tirx.ForKind.VECTORIZED),
            tirx.BufferStore(total, r.init, [zero]),
            nest,
            loop(lane1, lanes, tirx.BufferStore(total, combine, [zero])),
            *store_all(self.evaluate(index, lambda _: tirx.BufferLoad(total, [zero]))),
        ])  # fmt: skip
