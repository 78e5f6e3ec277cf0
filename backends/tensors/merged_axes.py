"""Neighbouring axes of a nest that are one axis in memory, in everything that the nest reads and writes.

Where extents are symbolic, each axis costs a loop of its own, whose last vectors are incomplete, or a division by an extent that
only run time knows. ``relu(x)`` of ``[n, 96, h, w]`` is one loop over ``n * 96 * h * w`` elements, and a product of
``[n, 6, h, w, 16]`` with ``[n, 6, 1, 1, 16]`` one over ``n * 6``, one over ``h * w`` and one over 16.

A merged axis is computed with an index that runs past the last one of its axes, at position 0 of the others: memory is addressed in
row-major order, so that the element is the same.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.backends.base.tvm_api import TensorLoad, tirx, tvm_ffi
from graphopt.backends.tensors.index import product
from graphopt.backends.tensors.schedule import Evaluate, NestBody
from graphopt.backends.tensors.tensor import Expr, Index, as_expr, is_of_data
from graphopt.ir.dims import Dim, floordiv, mod, subs, symbol
from graphopt.ir.intervals import Interval, settled


@dataclass(frozen=True)
class _Access:
    """An element that the nest reads or writes.

    Attributes:
        buffer: where it lies.
        index: its index, as a dimension over the symbols of the nest's axes; None where it is anything else.
        mentioned: numbers of the axes that each part of the index depends on.
    """

    buffer: Any
    index: tuple[Dim | None, ...]
    mentioned: tuple[frozenset[int], ...]


def with_merged_axes(shape: Index, evaluate: Evaluate, last: bool = True) -> tuple[Index, Evaluate]:
    """The nest with fewer axes: shape and body; as it is where nothing can be merged.

    Args:
        shape: extents.
        evaluate: the body at an index.
        last: whether the last axis may be merged with the one before.
    """
    before = _Probe(shape, evaluate)
    if before.accesses is None:
        return shape, evaluate
    for with_last in dict.fromkeys((last, False)):
        groups = _groups(shape, before.accesses, with_last)
        if len(groups) == len(shape):
            continue

        def body(
            index: Index,
            accumulator: Any,
            lane: tuple[Expr, int] | None = None,
            groups: Sequence[Sequence[int]] = groups,
        ) -> NestBody:
            at: list[Expr] = [0] * len(shape)
            for group, position in zip(groups, index):
                at[_walked(group, shape)] = position
            return evaluate(tuple(at), accumulator, lane)

        merged = tuple(product([shape[a] for a in group]) for group in groups)
        if _same_elements(before, shape, groups, _Probe([shape[g[0]] if len(g) == 1 else None for g in groups], body)):
            return merged, body
    return shape, evaluate


def _walked(group: Sequence[int], shape: Index) -> int:
    """The axis of a group whose index runs through all of it: the last one that has more than one position."""
    return next((axis for axis in reversed(group) if not _is_one(shape[axis])), group[-1])


def _groups(shape: Index, accesses: Sequence[_Access], last: bool) -> list[list[int]]:
    """Runs of axes that every access goes through as through one."""
    groups: list[list[int]] = []
    for axis in range(len(shape)):
        joins = bool(groups) and (last or axis < len(shape) - 1)
        if joins and _is_joint(_walked(groups[-1], shape), axis, shape, accesses):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups


class _Probe:
    """The body at an index of variables: what it reads and writes.

    Attributes:
        accesses: all of them in order; None if a position is used for anything but to find an element.
        plain: whether it can be taken apart at all.
    """

    def __init__(self, shape: Sequence[Expr], evaluate: Evaluate) -> None:
        self._variables = [tirx.Var(f"m{i}", "int64") for i in range(len(shape))]
        self._bounds = {_name(i): Interval(0, d - 1) for i, d in enumerate(shape) if isinstance(d, int)}
        body = evaluate(tuple(self._variables), lambda dtype: tirx.const(0, dtype))
        self.plain = body.reduction is None and not body.scope.branches
        self._positions: dict[Any, Expr] = {}
        self.accesses = self._look(body) if self.plain else None

    def _look(self, body: NestBody) -> list[_Access] | None:
        data = [value for target, value in body.scope.binds if not self._is_position(target, value)]
        hidden = {*self._variables, *self._positions}
        found: list[_Access] = []
        used: list[Any] = []

        def read(load: Any) -> Any:
            found.append(self._access(load.source, load.indices))
            return tvm_ffi.WalkResult.SKIP

        def other(variable: Any) -> None:
            if variable in hidden:
                used.append(variable)

        for buffer, _, index in body.stores:
            found.append(self._access(buffer, index))
        for value in (*data, *(value for _, value, _ in body.stores)):
            tvm_ffi.structural_walk(value, [(TensorLoad, read), (tirx.Var, other)], order="pre")
        return None if used else found

    def _is_position(self, target: Any, value: Expr) -> bool:
        """Note a variable that stands for a position."""
        inside: list[Any] = []
        tvm_ffi.structural_walk(value, [(TensorLoad, inside.append), (tirx.Var, inside.append)])
        position = isinstance(target, tirx.Var) and str(target.ty.dtype) == "int64"
        if position and not any(isinstance(i, TensorLoad) or is_of_data(i) for i in inside):
            self._positions[target] = value
            return True
        return False

    def _access(self, buffer: Any, index: Sequence[Expr]) -> _Access:
        places = [self._dim(i) for i in index]
        settled_places = tuple(None if p is None else settled(p, self._bounds) for p in places)
        return _Access(buffer, settled_places, tuple(frozenset(self._axes(i)) for i in index))

    def _axes(self, value: Expr) -> set[int]:
        """Numbers of the axes that an expression depends on."""
        found: set[int] = set()

        def note(variable: Any) -> None:
            if variable in self._positions:
                found.update(self._axes(self._positions[variable]))
            found.update(n for n, v in enumerate(self._variables) if v.same_as(variable))

        tvm_ffi.structural_walk(as_expr(value), (tirx.Var, note))
        return found

    def _dim(self, value: Expr) -> Dim | None:
        """An index as a dimension."""
        if isinstance(value, int):
            return value
        if isinstance(value, tirx.IntImm):
            return int(value.value)
        if isinstance(value, tirx.Var):
            if value in self._positions:
                return self._dim(self._positions[value])
            return next((symbol(_name(n)) for n, v in enumerate(self._variables) if v.same_as(value)), None)
        fn = next((f for node, f in _ARITHMETIC.items() if isinstance(value, node)), None)
        if fn is None:
            return None
        a, b = self._dim(value.a), self._dim(value.b)
        return None if a is None or b is None or (fn in (floordiv, mod) and not isinstance(b, int)) else fn(a, b)


_ARITHMETIC: dict[Any, Callable[[Dim, Dim], Dim]] = {
    tirx.Add: operator.add,
    tirx.Sub: operator.sub,
    tirx.Mul: operator.mul,
    tirx.FloorDiv: floordiv,
    tirx.FloorMod: mod,
}


def _name(axis: int) -> str:
    return f"axis {axis}"


def _is_joint(first: int, second: int, shape: Sequence[Expr], accesses: Sequence[_Access]) -> bool:
    """Whether a step of the first axis is as far, in every access, as all steps of the second one together."""
    if _is_one(shape[first]) or _is_one(shape[second]):
        return True
    for access in accesses:
        outer, inner = ([p for p, m in enumerate(access.mentioned) if axis in m] for axis in (first, second))
        if not outer and not inner:
            continue
        if len(outer) != 1 or len(inner) != 1 or outer[0] >= inner[0]:
            return False
        if access.index[outer[0]] != symbol(_name(first)) or access.index[inner[0]] != symbol(_name(second)):
            return False
        between = access.buffer.shape[outer[0] + 1 : inner[0]]
        if any(not _is_one(d) for d in between) or not _same(access.buffer.shape[inner[0]], shape[second]):
            return False
    return True


def _same_elements(before: _Probe, shape: Index, groups: Sequence[Sequence[int]], after: _Probe) -> bool:
    """Whether the merged body accesses what the other one does: an index that is taken apart on its way doesn't."""
    if before.accesses is None or after.accesses is None or len(before.accesses) != len(after.accesses):
        return False
    env: dict[str, Dim] = {_name(axis): 0 for group in groups for axis in group}
    env.update({_name(_walked(group, shape)): symbol(_name(n)) for n, group in enumerate(groups)})
    numbers = {axis: n for n, group in enumerate(groups) for axis in group}
    for one, other in zip(before.accesses, after.accesses):
        if not one.buffer.same_as(other.buffer) or len(one.index) != len(other.index):
            return False
        for a, b, mentioned, again in zip(one.index, other.index, one.mentioned, other.mentioned):
            if a is None or b is None:
                if {numbers[axis] for axis in mentioned} != again or any(len(groups[n]) > 1 for n in again):
                    return False
            elif subs(a, env) != b:
                return False
    return True


def _number(value: Expr) -> int | None:
    return value if isinstance(value, int) else int(value.value) if isinstance(value, tirx.IntImm) else None


def _is_one(value: Expr) -> bool:
    return _number(value) == 1


def _same(a: Expr, b: Expr) -> bool:
    if _number(a) is not None or _number(b) is not None:
        return _number(a) == _number(b)
    return bool(tvm_ffi.structural_equal(a, b))
