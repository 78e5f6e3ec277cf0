"""The loops around the body of a generic nest: outer axes shared among threads, the last one cut into vectors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.index import i64, product
from graphopt.backends.tensors.loops import loop, seq
from graphopt.backends.tensors.schedule import Evaluate
from graphopt.backends.tensors.tensor import Expr, Index, as_expr

PARALLEL_WORK = 16384
"""Scalar operations below which starting threads costs more than it saves (about 2 us against 8 GFLOP/s)."""
CHUNKS_PER_CORE = 4
ON_STACK = {"disable_lower_builtin": tirx.const(True, "bool")}
"""Keeps TVM from making a heap workspace of scratch that is a few numbers."""


def is_long(extent: Expr) -> bool:
    return not (isinstance(extent, int) and extent == 1)


def position(name: str) -> Any:
    return tirx.Var(name, "int64")


@dataclass
class Nest:
    shape: tuple[Expr, ...]
    evaluate: Evaluate
    caps: Caps
    lanes: int
    density: float = 1.0

    @property
    def reduced(self) -> Sequence[Expr]:
        """Extents of what each element is reduced from."""
        return ()

    @property
    def axes(self) -> list[int]:
        """Axes that need a loop, without the last one."""
        return [i for i, d in enumerate(self.shape[:-1]) if is_long(d)]

    def work(self) -> float:
        """Scalar operations, infinite if symbolic."""
        total = self.density
        for d in self.shape:
            total *= d if isinstance(d, int) else math.inf
        return total

    def _outer(
        self,
        extents: Sequence[tuple[int, Expr]],
        step: Expr,
        body: Callable[[dict[int, Expr]], Any],
        tiles: Expr = 1,
    ) -> Any:
        """Parallel loops over the axes (axis, extent).

        Args:
            extents: axis and extent.
            step: elements that one evaluation of the body computes.
            body: what is done at an index along the axes.
            tiles: so many more iterations innermost, which come as axis -1.
        """
        many = [(a, d) for a, d in extents if is_long(d)]
        if is_long(tiles):
            many.append((-1, tiles))
        index: dict[int, Expr] = {a: 0 for a, _ in extents}
        index[-1] = 0
        if not many:
            return body(index)
        total = product([d for _, d in many])
        if not isinstance(total, int):
            return self._symbolic_outer(many, index, step, body)
        parallel = self.caps.cores > 1 and self.work() >= PARALLEL_WORK
        inner: tuple[Any, Expr] | None = None
        if self._keeps_a_loop(many, total, parallel):
            axis, extent = many.pop()
            inner = (position("i"), extent)
            index[axis] = inner[0]
            total = product([d for _, d in many])
        fused = position("f")
        rest: Expr = fused
        for i, (axis, d) in enumerate(reversed(many)):
            if i == len(many) - 1:
                index[axis] = rest
            else:
                index[axis] = tirx.floormod(rest, as_expr(d))
                rest = tirx.floordiv(rest, as_expr(d))
        kind = tirx.ForKind.PARALLEL if parallel else tirx.ForKind.SERIAL
        nest = body(index) if inner is None else loop(*inner, body(index))
        return loop(fused, total, nest, kind)

    def _keeps_a_loop(self, many: Sequence[tuple[int, Expr]], total: int, parallel: bool) -> bool:
        """Whether the innermost of several axes has a loop of its own.

        Where the others stand is then computed once a loop, by divisions, which take longer than the work on a vector of 128 bits.
        """
        if not self.caps.register_operands or len(many) < 2:
            return False
        extent = int(many[-1][1])
        return extent >= 4 and (not parallel or total // extent >= CHUNKS_PER_CORE * self.caps.cores)

    def _symbolic_outer(
        self,
        many: Sequence[tuple[int, Expr]],
        index: dict[int, Expr],
        step: Expr,
        body: Callable[[dict[int, Expr]], Any],
    ) -> Any:
        """Loops of symbolic extents: as many tasks as the work is worth, each a range of the positions along all axes together.

        The last axis has a plain loop around the body. Where the other axes stand is computed once for each of its loops:
        divisions by what only run time knows take longer than a vector of elements.
        """
        at = {axis: position(f"i{n}") for n, (axis, _) in enumerate(many)}
        if self.caps.cores == 1:
            nest = body({**index, **at})
            for axis, extent in reversed(many):
                nest = loop(at[axis], extent, nest)
            return nest
        *slow, (fast, extent) = many
        extent, total = i64(extent), i64(product([d for _, d in many]))
        worth = tirx.floordiv(
            total * i64(step) * i64(product(self.reduced)), i64(max(int(PARALLEL_WORK / self.density), 1))
        )
        tasks = tirx.max(tirx.min(worth, i64(CHUNKS_PER_CORE * self.caps.cores)), i64(1))
        task, row = position("task"), position("row")
        of_task, of_row = _Cells(), _Cells()
        start = of_task.put(tirx.floordiv(task * total, tasks))
        stop = of_task.put(tirx.floordiv((task + 1) * total, tasks))
        long = tirx.max(extent, i64(1))  # nothing may be divided by an extent of 0
        low = of_task.put(tirx.floordiv(start, long))
        rows = of_task.put(tirx.floordiv(stop + (long - 1), long) - low)
        where = of_row.put(low + row)
        first = of_row.put(tirx.max(start - where * extent, i64(0)))
        places, rest = dict(index), where
        for n, (axis, d) in enumerate(reversed(slow)):
            if n == len(slow) - 1:
                places[axis] = rest
            else:
                places[axis] = of_row.put(tirx.floormod(rest, as_expr(d)))
                rest = of_row.put(tirx.floordiv(rest, as_expr(d)))
        count = tirx.min(stop - where * extent, extent) - first
        inner = loop(at[fast], count, body({**places, fast: at[fast] + first}))
        task_body = seq([*of_task.statements, loop(row, rows, seq([*of_row.statements, inner]))])
        return loop(task, tasks, task_body, tirx.ForKind.PARALLEL)

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
            tail_parts.append(lambda o: serially(scalars, lambda j: vector(o, start + j, 1)))
        has_full = not isinstance(full, int) or full > 0
        if has_full and small_outer and is_long(full):
            tiled = self._outer(outer, self.lanes, lambda o: vector(o, _times(o[-1], self.lanes), self.lanes), full)
            statements.append(tiled)
            if tail_parts:
                statements.append(self._outer(outer, self.lanes, lambda o: seq([p(o) for p in tail_parts])))
            return statements

        def row(o: dict[int, Expr]) -> Any:
            parts = []
            if has_full and not is_long(full):
                parts.append(vector(o, 0, self.lanes))
            elif has_full:
                parts.append(serially(full, lambda j: vector(o, _times(j, self.lanes), self.lanes)))
            return seq(parts + [p(o) for p in tail_parts])

        return [self._outer(outer, self.shape[-1], row)]


class _Cells:
    """Whole numbers in memory, which LLVM turns back into registers.

    TVM's simplifier looks through variables, but not through memory, and takes seconds on divisions by symbolic extents that occur
    in every index of a body.
    """

    def __init__(self) -> None:
        self.statements: list[Any] = []

    def put(self, value: Expr) -> Expr:
        """The value read back from a cell of its own."""
        cell = tirx.decl_buffer((1,), "int64", "at", scope="local")
        self.statements.append(tirx.AllocBuffer(cell, annotations=ON_STACK))
        self.statements.append(tirx.BufferStore(cell, value, [as_expr(0)]))
        return tirx.BufferLoad(cell, [as_expr(0)])


def _times(index: Expr, factor: int) -> Expr:
    return index * factor


def serially(extent: Expr, body: Callable[[Any], Any]) -> Any:
    var = position("j")
    return loop(var, extent, body(var))
