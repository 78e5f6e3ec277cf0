"""Loops over one row that lies contiguously in memory: vectors, several accumulators, no predicates.

The row is passed over as often as an operator needs, on the understanding that after the first pass it is in cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.backends.base import dialect
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.prefetch import prefetch
from graphopt.backends.cpu.kernels.register_tile import ON_STACK
from graphopt.backends.templates.operand import View
from graphopt.backends.tensors.scalar import is_nan, maximum, minimum
from graphopt.backends.tensors.tensor import Expr, Scope, let, weight

CHAINS = 4
"""Independent accumulators, as many as hide the latency of an addition at a load or two a cycle."""

INTO_L2 = 2
"""LLVM's name for the second-level cache as the goal of a prefetch."""


_LONG = 24
"""Operations of a value that take longer than the additions wait for one another."""


def _chains(value: Expr) -> int:
    """Accumulators of a reduction: of long values fewer where their constants take registers too.

    A core that starts instructions in order computes no faster what is spilled less: a Cortex-A55 takes 26 modelled cycles for four
    values of a softmax by four accumulators, 31 by two, a Neoverse N1 14 and 11.
    """
    target = dialect.current()
    return 2 if target.register_operands and not target.in_order and weight(value) > _LONG else CHAINS


def _or_nan(
    better: Callable[[Expr, Expr], Expr], at_once: Callable[[Expr, Expr], Expr]
) -> Callable[[Expr, Expr], Expr]:
    def combine(total: Expr, v: Expr) -> Expr:
        if dialect.current().nan_minmax:
            return at_once(total, v)
        v = let(v)
        return tirx.Select(tirx.Or(better(v, total), is_nan(v)), v, total)

    return combine


def _larger(total: Expr, v: Expr) -> Expr:
    return maximum(total, v) if dialect.current().nan_minmax else tirx.Select(v > total, v, total)


COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "sum": lambda total, v: total + v,
    # a NaN may be left out: whoever reduces to a maximum meets it again
    "max": _larger,
    "max or nan": _or_nan(lambda v, total: v > total, maximum),
    "min or nan": _or_nan(lambda v, total: v < total, minimum),
}
"""How a value joins a total."""
NEUTRAL = {"sum": 0.0, "max": float("-inf"), "max or nan": float("-inf"), "min or nan": float("inf")}
"""What totals begin with."""


def bound(make: Callable[[], Expr]) -> Expr:
    """What ``make`` returns, the variables that it binds within the expression."""
    with Scope(inline=True) as scope:
        value = make()
    return scope.wrap(value)


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        length: elements, at least ``lanes``.
        lanes: elements per vector.
        dtype: of totals.
        whole: whether the length is known to be a multiple of ``lanes``.
    """

    length: tirx.Expr | int
    lanes: int
    dtype: str
    whole: bool = False

    @property
    def rest(self) -> tirx.Expr | int:
        """Elements behind the last whole vector."""
        if self.whole:
            return 0
        return self.length % self.lanes if isinstance(self.length, int) else tirx.floormod(self.length, self.lanes)

    @property
    def vectors(self) -> tirx.Expr | int:
        """Whole vectors."""
        return self.length // self.lanes if isinstance(self.length, int) else tirx.floordiv(self.length, self.lanes)

    def reduce(
        self,
        value: Callable[[Expr], Expr],
        kind: str = "sum",
        keep: Callable[[Expr, Expr], Expr] | None = None,
        ahead: tuple[View, Expr] | None = None,
    ) -> Expr:
        """Emits the reduction of ``value(i)`` over the row and returns where the result is.

        Args:
            value: of element ``i``, which may be asked for twice near the end of the row.
            kind: a key of `COMBINE`.
            keep: emits a store of ``(i, value)`` and returns an expression that reads it back. It must not overwrite what
                ``value`` reads, unless the row is ``whole``.
            ahead: matrix and number of a row to fetch in the meantime.
        """
        combine, neutral = COMBINE[kind], tirx.const(NEUTRAL[kind], self.dtype)
        chains = _chains(bound(lambda: value(tirx.const(0, "int64"))))
        sums = T.alloc_buffer((chains, self.lanes), self.dtype, scope="local", annotations=ON_STACK)

        def add(chain: Expr, lane: Expr, at: Expr, counts: Expr | None = None) -> None:
            v = bound(lambda: value(at))
            if keep is not None:
                v = keep(at, v)
            if counts is not None:
                v = tirx.Select(counts, v, neutral)
            T.buffer_store(sums, bound(lambda: combine(sums[chain, lane], v)), [chain, lane])

        with T.unroll(0, chains) as chain, T.vectorized(0, self.lanes) as lane:
            T.buffer_store(sums, neutral, [chain, lane])
        step = chains * self.lanes
        # LLVM moves nothing across a prefetch, so that where it decides what runs side by side, they come first
        first_of_all = dialect.current().register_operands
        with T.serial(0, _div(self.vectors, chains)) as i:
            if ahead is not None and first_of_all:
                with T.unroll(0, chains) as chain:
                    prefetch(ahead[0], (ahead[1], i * step + chain * self.lanes), INTO_L2)
            with T.unroll(0, chains) as chain:
                first = i * step + chain * self.lanes
                if ahead is not None and not first_of_all:
                    prefetch(ahead[0], (ahead[1], first), INTO_L2)
                with T.vectorized(0, self.lanes) as lane:
                    add(chain, lane, first + lane)
        left = _mod(self.vectors, chains)
        first = self.vectors * self.lanes - left * self.lanes
        if isinstance(left, int):
            with T.unroll(0, left) as chain, T.vectorized(0, self.lanes) as lane:
                add(chain, lane, first + chain * self.lanes + lane)
        else:
            with T.serial(0, left) as i, T.vectorized(0, self.lanes) as lane:
                add(0, lane, first + i * self.lanes + lane)
        if not (isinstance(self.rest, int) and self.rest == 0):
            # the last whole vector of the row once more, of which only the elements left over count
            with T.vectorized(0, self.lanes) as lane:
                add(1, lane, self.length - self.lanes + lane, lane >= self.lanes - self.rest)
        return self._across(sums, chains, combine)

    def _across(self, sums: tirx.Buffer, chains: int, combine: Callable[[Expr, Expr], Expr]) -> Expr:
        """Emits the reduction of the accumulators to ``sums[0, 0]``, by halves."""

        def join(chain: Expr, lane: Expr, other_chain: Expr, other_lane: Expr) -> None:
            value = bound(lambda: combine(sums[chain, lane], sums[other_chain, other_lane]))
            T.buffer_store(sums, value, [chain, lane])

        while chains > 1:
            chains //= 2
            with T.unroll(0, chains) as chain, T.vectorized(0, self.lanes) as lane:
                join(chain, lane, chain + chains, lane)
        width = self.lanes // 2
        while width:
            if width == 1:
                join(0, 0, 0, 1)
            else:
                with T.vectorized(0, width) as lane:
                    join(0, lane, 0, lane + width)
            width //= 2
        return sums[0, 0]

    def each(self, store: Callable[[Expr], None]) -> None:
        """Emits ``store(i)`` once for every element: whole vectors, then ever narrower ones."""
        with T.serial(0, self.vectors) as i, T.vectorized(0, self.lanes) as lane:
            store(i * self.lanes + lane)
        done = self.vectors * self.lanes
        if not isinstance(self.rest, int):
            with T.serial(0, self.rest) as i:
                store(done + i)
            return
        rest, width = self.rest, self.lanes // 2
        while rest:
            if rest >= width:
                if width == 1:
                    store(done)
                else:
                    with T.vectorized(0, width) as lane:
                        store(done + lane)
                done, rest = done + width, rest - width
            width //= 2


def with_row(length: tirx.Expr | int, lanes: int, dtype: str, body: Callable[[Row], None]) -> None:
    """Emits ``body(row)`` for rows of a length known now or at run time; short rows get narrower vectors."""
    if isinstance(length, int):
        while lanes > length:
            lanes //= 2
        body(Row(length, max(lanes, 1), dtype))
        return
    with T.If(length >= lanes):
        with T.Then():
            body(Row(length, lanes, dtype))
        with T.Else():
            body(Row(length, 1, dtype))


def _div(a: Expr, b: int) -> Expr:
    return a // b if isinstance(a, int) else tirx.floordiv(a, b)


def _mod(a: Expr, b: int) -> Expr:
    return a % b if isinstance(a, int) else tirx.floormod(a, b)
