"""The generic CPU schedule: parallel outer loops, a vectorised inner loop, accumulators in registers.

It is total over all kernels. Three shapes of nest: without a reduction, the last axis is cut into vectors. With one,
either the last output axis is cut into vectors of accumulators (several of them along the reduction's tile axis,
sharing loads), or, where that axis is short, the innermost reduction axis is, with a horizontal step at the end.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.loops import lane_kind, loop, seq, store_all
from graphopt.backends.tensors.reducers import REDUCERS, identity_of
from graphopt.backends.tensors.schedule import Evaluate, NestBody, Reduction, Schedule
from graphopt.backends.tensors.tensor import Expr, Index, Scope, as_expr, let, operations

PARALLEL_WORK = 16384
"""Scalar operations below which starting threads costs more than it saves (about 2 us against 8 GFLOP/s)."""
CHUNKS_PER_CORE = 4


class CpuSchedule(Schedule):
    """The schedule of every CPU."""

    calls_back = picks_loops = merges_copies = True

    def nest(self, shape: tuple[Expr, ...], evaluate: Evaluate, caps: Caps) -> list[Any]:
        """Statements that compute every element of a physical shape."""
        return _nest(shape, evaluate, caps)

    def serial(self, statements: Sequence[Any]) -> list[Any]:
        """As they are: one thread runs them."""
        return list(statements)


def _nest(shape: tuple[Expr, ...], evaluate: Evaluate, caps: Caps) -> list[Any]:
    """Statements that compute every element of a physical shape."""
    probe = evaluate(tuple(_var(f"p{i}") if _long(d) else 0 for i, d in enumerate(shape)), lambda dt: tirx.const(0, dt))
    reduction = probe.reduction
    dtypes = [str(value.ty.dtype) for _, value, _ in probe.stores]
    lanes = caps.lanes(max(_bytes(str(t)) for t in dtypes))
    if reduction is None:
        return _Plain(shape, evaluate, caps, lanes, _density(probe, lanes)).statements()
    lanes = caps.lanes(_bytes(reduction.dtype))
    last = shape[-1] if shape else 1
    if isinstance(last, int) and last * 2 <= lanes and _reducible_by_lanes(reduction, lanes):
        return _LaneReduction(shape, evaluate, caps, lanes, reduction).statements()
    return _VectorReduction(shape, evaluate, caps, lanes, reduction).statements()


def _density(body: NestBody, lanes: int) -> float:
    """How much dearer an element is than an operation of ``PARALLEL_WORK``.

    Measured with 16 lanes on two cores: two threads draw level at 24 thousand elements of Relu or Add (0.11 ns each), and at
    6 thousand of Sigmoid (0.5 ns for 630 operations, those behind a name counted wherever it is used).
    """
    total = sum(operations(value) for _, value, _ in body.stores) + body.scope.kept_work
    return 0.65 + 0.0035 * total * 16 / lanes


def _reducible_by_lanes(r: Reduction, lanes: int) -> bool:
    if not r.extents or r.kind not in ("sum", "max", "min", "prod") or r.dtype == "bool":
        return False
    inner = r.extents[-1]
    return not isinstance(inner, int) or inner >= lanes


def _long(extent: Expr) -> bool:
    return not (isinstance(extent, int) and extent == 1)


def _bytes(dtype: str) -> int:
    digits = "".join(ch for ch in dtype if ch.isdigit())
    return max(int(digits) // 8, 1) if digits else 1


def _var(name: str) -> Any:
    return tirx.Var(name, "int64")


@dataclass
class _Nest:
    shape: tuple[Expr, ...]
    evaluate: Evaluate
    caps: Caps
    lanes: int
    density: float = 1.0

    @property
    def axes(self) -> list[int]:
        """Axes that need a loop, without the last one."""
        return [i for i, d in enumerate(self.shape[:-1]) if _long(d)]

    def work(self) -> float:
        """Scalar operations, infinite if symbolic."""
        total = self.density
        for d in self.shape:
            total *= d if isinstance(d, int) else math.inf
        return total

    def _outer(
        self, extents: Sequence[tuple[int, Expr]], body: Callable[[dict[int, Expr]], Any], tiles: Expr = 1
    ) -> Any:
        """Fused parallel loops over the axes (axis, extent); ``tiles`` more iterations innermost come as axis -1."""
        many = [(a, d) for a, d in extents if _long(d)]
        if _long(tiles):
            many.append((-1, tiles))
        index: dict[int, Expr] = {a: 0 for a, _ in extents}
        index[-1] = 0
        if not many:
            return body(index)
        total: Expr = 1
        for _, d in many:
            total = total * d
        fused = _var("f")
        rest: Expr = fused
        for i, (axis, d) in enumerate(reversed(many)):
            if i == len(many) - 1:
                index[axis] = rest
            else:
                index[axis] = tirx.floormod(rest, as_expr(d))
                rest = tirx.floordiv(rest, as_expr(d))
        kept = [] if isinstance(total, int) else _through_memory(index)
        parallel = self.caps.cores > 1 and self.work() >= PARALLEL_WORK
        kind = tirx.ForKind.PARALLEL if parallel else tirx.ForKind.SERIAL
        return loop(fused, total, seq([*kept, body(index)]), kind)

    def _segments(self) -> tuple[Expr, list[int], Expr]:
        """The last axis as (full vectors, widths of the remainder's vectors, remaining scalars)."""
        last = self.shape[-1]
        if not isinstance(last, int):
            return tirx.floordiv(last, as_expr(self.lanes)), [], tirx.floormod(last, as_expr(self.lanes))
        full, rest = divmod(last, self.lanes)
        widths, width = [], self.lanes // 2
        while rest:
            if rest >= width:
                widths.append(width)
                rest -= width
            width //= 2
        return full, widths, 0

    def _index(self, outer: dict[int, Expr], last: Expr) -> Index:
        return (*(outer.get(i, 0) for i in range(len(self.shape) - 1)), last)

    def _walk_last_axis(self, vector: Callable[..., Any]) -> list[Any]:
        """Cover the last axis with vectors: ``vector(outer index, first element, width)``."""
        if not self.shape:
            return [vector({}, None, 1)]
        full, widths, scalars = self._segments()
        outer = [(a, self.shape[a]) for a in self.axes]
        done = [0]
        statements = []
        small_outer = (
            math.prod(d if isinstance(d, int) else 1 << 20 for _, d in outer) < CHUNKS_PER_CORE * self.caps.cores
        )
        tail_parts: list[Callable[[dict[int, Expr]], Any]] = []
        start = full * self.lanes if isinstance(full, int) else full * as_expr(self.lanes)
        for width in widths:
            first = start + done[0]
            tail_parts.append(functools.partial(vector, first=first, width=width))
            done[0] += width
        if not isinstance(scalars, int):
            tail_parts.append(lambda o: _serial(scalars, lambda j: vector(o, start + j, 1)))
        has_full = not isinstance(full, int) or full > 0
        if has_full and small_outer and _long(full):
            statements.append(self._outer(outer, lambda o: vector(o, _times(o[-1], self.lanes), self.lanes), full))
            if tail_parts:
                statements.append(self._outer(outer, lambda o: seq([p(o) for p in tail_parts])))
            return statements

        def row(o: dict[int, Expr]) -> Any:
            parts = []
            if has_full and not _long(full):
                parts.append(vector(o, 0, self.lanes))
            elif has_full:
                parts.append(_serial(full, lambda j: vector(o, _times(j, self.lanes), self.lanes)))
            return seq(parts + [p(o) for p in tail_parts])

        return [self._outer(outer, row)]


def _through_memory(index: dict[int, Expr]) -> list[Any]:
    """Statements that put each position into a cell of memory, which ``index`` then reads.

    LLVM turns the cells back into registers. TVM's simplifier looks through variables, but not through memory, and
    takes seconds on divisions by symbolic extents that occur in every index of a body.
    """
    cells = tirx.decl_buffer((len(index),), "int64", "at", scope="local")
    statements: list[Any] = [tirx.AllocBuffer(cells)]
    for place, (axis, value) in enumerate(index.items()):
        if not isinstance(value, int):
            statements.append(tirx.BufferStore(cells, value, [as_expr(place)]))
            index[axis] = tirx.BufferLoad(cells, [as_expr(place)])
    return statements


def _times(index: Expr, factor: int) -> Expr:
    return index * factor


def _serial(extent: Expr, body: Callable[[Any], Any]) -> Any:
    var = _var("j")
    return loop(var, extent, body(var))


class _Plain(_Nest):
    """Element-wise nests."""

    def statements(self) -> list[Any]:
        return self._walk_last_axis(self._vector)

    def _vector(self, outer: dict[int, Expr], first: Expr, width: int) -> Any:
        if not self.shape:
            return seq(store_all(self.evaluate((), None)))
        if width == 1:
            return seq(store_all(self.evaluate(self._index(outer, first), None)))
        lane = _var("lane")
        index = self._index(outer, first + lane)
        body = self.evaluate(index, None)
        return loop(lane, width, seq(store_all(body)), lane_kind(body.scope))


class _VectorReduction(_Nest):
    """Reductions with a vector of accumulators along the last output axis."""

    def __init__(
        self, shape: tuple[Expr, ...], evaluate: Evaluate, caps: Caps, lanes: int, reduction: Reduction
    ) -> None:
        super().__init__(shape, evaluate, caps, lanes)
        self.reduction = reduction
        self.tile_axis, self.tile = self._choose_tile()

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
            t = _var("t") if self.tile > 1 else 0
            lane = _var("lane") if width > 1 else 0
            last = first + lane if width > 1 else first
            scope, statements = make(self._index_at(outer, t, last), t, lane)
            body = seq(statements)
            if width > 1:
                body = loop(lane, width, body, lane_kind(scope))
            return loop(t, self.tile, body, tirx.ForKind.UNROLLED) if self.tile > 1 else body

        def start(_: Index, t: Expr, lane: Expr) -> tuple[Scope, list[Any]]:
            return Scope(), [tirx.BufferStore(acc, r.init, [as_expr(t), as_expr(lane)])]

        ridx = tuple(_var(f"r{i}") if _long(e) else 0 for i, e in enumerate(r.extents))

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
            if _long(extent):
                inner = loop(var, extent, inner)
        return tirx.SeqStmt([tirx.AllocBuffer(acc), lanes_of(start), inner, lanes_of(finish)])


class _LaneReduction(_Nest):
    """Reductions vectorised along their innermost axis."""

    def __init__(
        self, shape: tuple[Expr, ...], evaluate: Evaluate, caps: Caps, lanes: int, reduction: Reduction
    ) -> None:
        super().__init__(shape, evaluate, caps, lanes)
        self.reduction = reduction

    def work(self) -> float:
        return super().work() * math.prod(e if isinstance(e, int) else math.inf for e in self.reduction.extents)

    def statements(self) -> list[Any]:
        axes = [(i, d) for i, d in enumerate(self.shape) if _long(d)]
        return [self._outer(axes, self._one)]

    def _one(self, outer: dict[int, Expr]) -> Any:
        index: Index = tuple(outer.get(i, 0) for i in range(len(self.shape)))
        r, lanes = self.reduction, self.lanes
        vector = tirx.decl_buffer((lanes,), r.dtype, "acc", scope="local")
        total = tirx.decl_buffer((1,), r.dtype, "total", scope="local")
        zero = as_expr(0)
        *outer_extents, inner = r.extents
        outer_vars = tuple(_var(f"r{i}") if _long(e) else 0 for i, e in enumerate(outer_extents))
        logical = self.evaluate(index, lambda dt: tirx.const(0, dt)).logical

        def add(target: Any, at: Expr, last: Expr) -> tuple[Scope, Any]:
            with Scope() as scope:
                value = let(r.body(logical, (*outer_vars, last)))
            old = tirx.BufferLoad(target, [as_expr(at)])
            return scope, seq(
                [*scope.statements(), tirx.BufferStore(target, REDUCERS[r.kind](old, value), [as_expr(at)])]
            )

        lane, chunk, rest = _var("lane"), _var("k"), _var("k")
        full = inner // lanes if isinstance(inner, int) else tirx.floordiv(inner, as_expr(lanes))
        left = inner % lanes if isinstance(inner, int) else tirx.floormod(inner, as_expr(lanes))
        scope, step = add(vector, lane, chunk * lanes + lane)
        body = [loop(chunk, full, loop(lane, lanes, step, lane_kind(scope)))]
        if not isinstance(left, int) or left:
            body.append(loop(rest, left, add(total, 0, full * lanes + rest)[1]))
        nest = seq(body)
        for var, extent in reversed(list(zip(outer_vars, outer_extents))):
            if _long(extent):
                nest = loop(var, extent, nest)
        lane0, lane1 = _var("lane"), _var("lane")
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
