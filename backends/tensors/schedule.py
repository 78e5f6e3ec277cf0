"""The generic schedule of a kind of target: how the loops run that compute lazy tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dialect import Dialect, llvm_for
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.tensor import Expr, Index, Scope, as_expr


@dataclass
class Reduction:
    """``out[i] = reduce over r of body(i, r)``.

    Attributes:
        extents: iteration space of r, outermost first.
        tile_axis: output axis along which several accumulators share loads, or None.
    """

    shape: tuple[Expr, ...]
    dtype: str
    extents: tuple[Expr, ...]
    body: Callable[[Index, Index], Expr]
    kind: str
    init: Expr
    tile_axis: int | None = None


@dataclass
class NestBody:
    """What one evaluation of a nest at an index gives: bindings, stores and the reduction that feeds them."""

    scope: Scope
    stores: list[tuple[Any, Expr, Index]]
    reduction: Reduction | None
    logical: Index = ()


class Evaluate(Protocol):
    """Gives the body of a nest at one physical index."""

    def __call__(
        self, index: Index, accumulator: Callable[[str], Expr] | None, lane: tuple[Expr, int] | None = None, /
    ) -> NestBody:
        """The body.

        Args:
            index: physical.
            accumulator: ``accumulator(dtype)`` stands for the reduction's result.
            lane: number and extent of the iterations of the loop around the body, if that may be vectorised though the body's
                steps go through memory.
        """
        ...


@dataclass(frozen=True)
class StridedCopy:
    """``target[write_offset + i * write] = source[read_offset + i * read]`` for every ``i`` in ``extents``.

    Attributes:
        source, target: buffers of one dimension.
        extents: those of dimensions that could be merged are.
        read, write: strides, in elements.
    """

    source: Any
    target: Any
    read_offset: Expr
    write_offset: Expr
    extents: Index
    read: Index
    write: Index


class Schedule(ABC):
    """Turns what a kernel computes into loops. Total: every operator that has a lowering then runs on the target.

    Attributes:
        calls_back: kernels can call functions of the process that runs them, to refuse what they are given or to ask before
            they allocate. Where they can't, they clamp.
        picks_loops: a kernel may hold two sets of loops and pick one at run time (`graphopt.backends.tensors.uneven`).
        merges_copies: a tensor that lies in a buffer already is copied by loops over merged dimensions, in tiles where it is
            transposed; else an element at a time like any other.
        spreads_work: there are so many threads that work which only they can do at once is better than less work one after the
            other: counting what comes before each element beats sorting.
    """

    calls_back: ClassVar[bool]
    picks_loops: ClassVar[bool]
    merges_copies: ClassVar[bool]
    spreads_work: ClassVar[bool] = False

    def dialect(self, caps: Caps) -> Dialect:
        """The language that loops are compiled from, for a processor of these capabilities."""
        return llvm_for(caps)

    @abstractmethod
    def nest(self, shape: tuple[Expr, ...], evaluate: Evaluate, caps: Caps) -> list[Any]:
        """Statements that compute every element of a physical shape."""

    def copy(self, copy: StridedCopy, caps: Caps) -> list[Any] | None:
        """Statements that do a copy with merged dimensions; None to have them made of `nest`, by tiles that suit caches."""
        return None

    def together(self, statements: Sequence[Any]) -> list[Any]:
        """What `nest` and `copy` made, several times, of things that don't depend on one another."""
        return list(statements)

    def each(self, variables: Sequence[Any], extents: Sequence[Expr], body: Any) -> Any:
        """A loop of `serial` statements over all positions, which may run in any order."""
        for var, extent in reversed(list(zip(variables, extents))):
            body = tirx.For(var, as_expr(0), as_expr(extent), tirx.ForKind.SERIAL, body)
        return body

    @abstractmethod
    def serial(self, statements: Sequence[Any]) -> list[Any]:
        """Hand-written statements whose order counts, made to run one after the other."""
