"""The generic CPU schedule: parallel outer loops, a vectorised inner loop, accumulators in registers.

It is total over all kernels. Three shapes of nest: without a reduction, the last axis is cut into vectors. With one,
either the last output axis is cut into vectors of accumulators (several of them along the reduction's tile axis,
sharing loads), or, where that axis is short, the innermost reduction axis is, with a horizontal step at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.nest_loops import Nest, is_long, position
from graphopt.backends.cpu.nest_reductions import LaneReduction, VectorReduction
from graphopt.backends.tensors.loops import lane_kind, loop, seq, store_all
from graphopt.backends.tensors.merged_axes import with_merged_axes
from graphopt.backends.tensors.schedule import Evaluate, NestBody, Reduction, Schedule
from graphopt.backends.tensors.tensor import Expr, operations


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
    if not all(isinstance(d, int) for d in shape):
        last = shape[-1]
        shape, evaluate = with_merged_axes(shape, evaluate, last=not isinstance(last, int) or last % caps.lanes(4) != 0)
    probe = evaluate(
        tuple(position(f"p{i}") if is_long(d) else 0 for i, d in enumerate(shape)), lambda dt: tirx.const(0, dt)
    )
    reduction = probe.reduction
    dtypes = [str(value.ty.dtype) for _, value, _ in probe.stores]
    lanes = caps.lanes(max(_bytes(str(t)) for t in dtypes))
    if reduction is None:
        density = _density(probe, lanes)
        return _Plain(shape, evaluate, caps, lanes * _vectors_at_once(probe, shape, caps), density).statements()
    lanes = caps.lanes(_bytes(reduction.dtype))
    last = shape[-1] if shape else 1
    if isinstance(last, int) and last * 2 <= lanes and _reducible_by_lanes(reduction, lanes):
        return LaneReduction(shape, evaluate, caps, lanes, reduction).statements()
    return VectorReduction(shape, evaluate, caps, lanes, reduction).statements()


_LIGHT = 220
"""Operations of an element, those behind a name counted wherever it is used, up to which four vectors fit 32 registers."""


def _vectors_at_once(body: NestBody, shape: Sequence[Expr], caps: Caps) -> int:
    """Registers that make up a vector of an element-wise nest.

    A loop over one of 128 bits counts and branches as often as it computes: Relu takes 16 instructions for 16 values on Neoverse N1
    by one register, 13 by four, HardSwish 40 and 29. Where only run time tells the length, what is left over is computed
    element by element, and is better short.
    """
    if not caps.register_operands or not shape or not isinstance(shape[-1], int):
        return 1
    return 4 if sum(operations(value) for _, value, _ in body.stores) + body.scope.kept_work <= _LIGHT else 2


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


def _bytes(dtype: str) -> int:
    digits = "".join(ch for ch in dtype if ch.isdigit())
    return max(int(digits) // 8, 1) if digits else 1


class _Plain(Nest):
    """Element-wise nests."""

    def statements(self) -> list[Any]:
        return self._walk_last_axis(self._vector)

    def _vector(self, outer: dict[int, Expr], first: Expr, width: int) -> Any:
        if not self.shape:
            return seq(store_all(self.evaluate((), None)))
        if width == 1:
            return seq(store_all(self.evaluate(self._index(outer, first), None)))
        lane = position("lane")
        index = self._index(outer, first + lane)
        body = self.evaluate(index, None)
        if body.scope.branches:
            # what takes many operations goes through memory: with an element for each lane it is vectorised all the same
            by_lane = self.evaluate(index, None, (lane, width))
            body = body if by_lane.scope.branches else by_lane
        return loop(lane, width, seq(store_all(body)), lane_kind(body.scope))
