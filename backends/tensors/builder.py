"""Builds the PrimFunc of one fused kernel out of lazy tensors, pending reductions and raw stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dim_names import DimNames
from graphopt.backends.base.tvm_api import tirx, tvm
from graphopt.backends.tensors.checks import ask_for
from graphopt.backends.tensors.dim_expr import dim_expr
from graphopt.backends.tensors.index import flatten, i64, row_major
from graphopt.backends.tensors.reducers import identity_of
from graphopt.backends.tensors.schedule import NestBody, Reduction, Schedule
from graphopt.backends.tensors.tensor import Expr, Index, Scope, Tensor, as_expr
from graphopt.backends.tensors.uneven import Uneven
from graphopt.backends.tensors.walk import emit_walk, flat_alias, is_whole, reordered, walk_of
from graphopt.errors import InternalError
from graphopt.ir.dims import Dim, SymExpr, as_symbol
from graphopt.ir.layout import PLAIN, Layout

SCRATCH = "scratch memory of a kernel"
"""What a kernel calls the memory that it asks for."""


class Accumulate:
    """While a nest's stores are evaluated: which pending reduction may be computed in the same loops."""

    def __init__(self, shape: Sequence[Expr], index: Index, accumulator: Callable[[str], Expr]) -> None:
        self.shape = tuple(shape)
        self.index = index
        self.accumulator = accumulator
        self.chosen: Reduction | None = None

    def offer(self, reduction: Reduction, index: Index) -> Expr | None:
        """The accumulator if the reduction is aligned with the nest and no other one was chosen."""
        if self.chosen is not None and self.chosen is not reduction:
            return None
        if len(index) != len(self.index) or not all(_same(a, b) for a, b in zip(index, self.index)):
            return None
        if not all(_same(a, b) for a, b in zip(reduction.shape, self.shape)):
            return None
        self.chosen = reduction
        return self.accumulator(reduction.dtype)


def _same(a: Expr, b: Expr) -> bool:
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return bool(a.same_as(b))


@dataclass
class Output:
    """A kernel result: a logical tensor stored to a buffer.

    Attributes:
        layout: the order of its elements in the buffer.
        begin: where in a larger buffer the tensor starts (physical), None if it fills the buffer.
    """

    tensor: Tensor
    buffer: Any
    layout: Layout = PLAIN
    begin: Index | None = None

    def place(self, index: Index) -> Index:
        """Where the element at a physical index goes."""
        if self.begin is None:
            return index or _scalar_index(self.buffer)
        return tuple(b + i for b, i in zip(self.begin, index))


@dataclass
class KernelBuilder:
    """Collects the stages of one kernel.

    Attributes:
        symbols: TVM variables of the model's symbolic dimensions.
        known_dims: expressions to use for whole dimensions, where a template has them already.
        names: dimensions that have a symbol of their own.
        schedule: how loops run on the target.
        uneven: whether operands may be broadcast in the loops being emitted.
        scratch: what holds the elements of a buffer of hand-written stages, which has a second name.
        named: how many variables of hand-written stages have a name: the same kernel has the same names in every process.
    """

    caps: Caps
    schedule: Schedule
    symbols: Mapping[str, Any]
    known_dims: dict[Dim, Expr] = field(default_factory=dict)
    names: DimNames | None = None
    statements: list[Any] = field(default_factory=list)
    allocations: list[Any] = field(default_factory=list)
    used_symbols: dict[str, Any] = field(default_factory=dict)
    uneven: Uneven = field(default_factory=Uneven)
    scratch: dict[Any, Any] = field(default_factory=dict)
    named: int = 0
    _accumulate: Accumulate | None = None
    _staged: dict[int, Tensor] = field(default_factory=dict)
    _alive: list[object] = field(default_factory=list)
    _counter: int = 0
    _flat: dict[Any, Any] = field(default_factory=dict)

    # -- dimensions ---------------------------------------------------------------------------------------------
    def dim(self, dim: Dim) -> Expr:
        """A dimension as int or TVM int64 expression.

        Raises:
            InternalError: a symbol has no definition at run time.
        """
        if isinstance(dim, int):
            return int(dim)
        if dim in self.known_dims:
            return self.known_dims[dim]
        name = None if self.names is None else self.names.name(dim)
        return dim_expr(dim, self._symbol) if name is None else self._symbol(name)

    def shape(self, dims: Sequence[Dim]) -> tuple[Expr, ...]:
        """A shape as TVM expressions."""
        return tuple(self.dim(d) for d in dims)

    def name_dims(self, dims: Sequence[Dim]) -> None:
        """Give computed dimensions of a parameter a variable each, which the parameter's shape defines.

        Index arithmetic is then over variables alone: TVM's simplifier takes tens of seconds on a padded depthwise convolution
        over ``(h + 3) // 4`` rows, and shapes are recognised as the same one.
        """
        for dim in dims:
            if isinstance(dim, SymExpr) and as_symbol(dim) is None and not (self.names and self.names.name(dim)):
                self.known_dims.setdefault(dim, tirx.Var(f"n{len(self.known_dims)}", "int64"))

    def _symbol(self, name: str) -> Any:
        if name not in self.symbols:
            raise InternalError(f"dimension {name} is not defined at run time")
        self.used_symbols[name] = self.symbols[name]
        return self.symbols[name]

    # -- stages -------------------------------------------------------------------------------------------------
    def reduce(
        self,
        shape: Sequence[Expr],
        dtype: str,
        extents: Sequence[Expr],
        body: Callable[[Index, Index], Expr],
        kind: str = "sum",
        *,
        init: Expr | None = None,
        tile_axis: int | None = None,
    ) -> Tensor:
        """A reduction, computed in the loops of its consumer where they are aligned, else in loops of its own."""
        start = identity_of(kind, dtype) if init is None else init
        pending = Reduction(tuple(shape), dtype, tuple(extents), body, kind, start, tile_axis)

        def read(*index: Expr) -> Expr:
            computed = (
                self.uneven.even and id(pending) in self._staged
            )  # the loops for the other case needed it in memory
            if self._accumulate is not None and not computed:
                found = self._accumulate.offer(pending, index)
                if found is not None:
                    return found
            return self._materialise(pending)(*index)

        return Tensor(shape, dtype, read)

    def _materialise(self, pending: Reduction) -> Tensor:
        if id(pending) not in self._staged:
            self._alive.append(pending)
            outer, self._accumulate = self._accumulate, None
            stack, Scope._stack = Scope._stack, []

            def result(*index: Expr) -> Expr:
                assert self._accumulate is not None
                found = self._accumulate.offer(pending, index)
                if found is None:
                    raise InternalError("a reduction is not aligned with its own loops")
                return found

            self._staged[id(pending)] = self.stage(Tensor(pending.shape, pending.dtype, result))
            self._accumulate, Scope._stack = outer, stack
        return self._staged[id(pending)]

    def stage(self, tensor: Tensor, layout: Layout = PLAIN) -> Tensor:
        """Compute ``tensor`` into a workspace buffer now, in the order of ``layout``, and return a tensor that reads it."""
        buffer = self.workspace(layout.physical_shape(tensor.shape), tensor.dtype)
        self.emit([Output(tensor, buffer, layout)])
        return reader(buffer, tensor.shape, tensor.dtype, layout)

    def workspace(self, shape: Sequence[Expr], dtype: str) -> Any:
        """A scratch buffer that lives as long as the kernel runs."""
        self._counter += 1
        # TVM has no zero-dimensional or empty allocations
        extents = [max(d, 1) if isinstance(d, int) else d for d in shape] or [1]
        buffer = tirx.decl_buffer(extents, dtype, f"work{self._counter}")
        if self.schedule.calls_back and not all(isinstance(d, int) for d in extents):
            sizes = [i64(d).astype("float64") for d in extents]
            itemsize = -(-tvm.DataType(dtype).bits // 8)
            self.allocations.append(ask_for(sizes, itemsize, SCRATCH))
        self.allocations.append(tirx.AllocBuffer(buffer))
        return buffer

    def output(self, tensor: Tensor, layout: Layout, shape: Sequence[Expr], dtype: str, name: str) -> tuple[Any, bool]:
        """A buffer for a result of the kernel, and whether hand-written stages have left the result in it.

        They write to memory of their own; where a result is just that, it is the memory that the caller gives: nothing is copied.
        """
        walk = tensor.walk
        held = (
            None if walk is None or not layout.is_plain or not is_whole(walk) else self.scratch.pop(walk.buffer, None)
        )
        buffer = tirx.decl_buffer(shape, dtype, name)
        if held is None or str(held.dtype) != dtype:
            return buffer, False
        self.allocations = [
            tirx.DeclBuffer(held, data=buffer.data) if isinstance(s, tirx.AllocBuffer) and s.buffer.same_as(held) else s
            for s in self.allocations
        ]
        return buffer, True

    def raw(self, *statements: Any) -> None:
        """Append hand-built TIR, to run one statement after the other."""
        self.statements.extend(self.schedule.serial(statements))

    def emit(self, outputs: Sequence[Output]) -> None:
        """Emit loops that compute outputs; those of one physical shape share their loops."""
        rest = list(outputs)
        while rest:
            head = rest[0]
            physical = head.layout.physical_shape(head.tensor.shape)
            alike = [o for o in rest if o.layout == head.layout and _same_shape(o.tensor.shape, head.tensor.shape)]
            rest = [o for o in rest if not any(o is a for a in alike)]
            if any(isinstance(d, int) and d == 0 for d in physical):
                continue
            if len(alike) == 1 and (self._emit_parts(head) or self._emit_walk(head)):
                continue

            scalar: list[bool] = []  # whether the bodies evaluated so far branch: the first is the nest's probe

            def evaluate(
                index: Index,
                accumulator: Callable[[str], Expr] | None,
                lane: tuple[Expr, int] | None = None,
                alike: list[Output] = alike,
                scalar: list[bool] = scalar,
            ) -> NestBody:
                logical = alike[0].layout.logical_index(index)
                outer = self._accumulate
                self._accumulate = (
                    Accumulate(alike[0].tensor.shape, logical, accumulator) if accumulator is not None else None
                )
                with Scope(scalar=any(scalar) and lane is None, lane=lane) as scope:
                    stores = [(o.buffer, o.tensor(*logical), o.place(index)) for o in alike]
                scalar.append(scope.branches)
                chosen = self._accumulate.chosen if self._accumulate else None
                self._accumulate = outer
                return NestBody(scope, stores, chosen, logical)

            def loops(
                physical: tuple[Expr, ...] = physical, evaluate: Any = evaluate, scalar: list[bool] = scalar
            ) -> list[Any]:
                scalar.clear()
                return self.schedule.nest(physical, evaluate, self.caps)

            self.statements.extend(self.uneven.versions(loops, twice=self.schedule.picks_loops))

    def _emit_parts(self, output: Output) -> bool:
        """Store a tensor part by part, where parts don't cut through blocks."""
        parts, layout = output.tensor.parts, output.layout
        if parts is None:
            return False
        cut = dict.fromkeys(axis for axis, _ in layout.blocks)
        if not all(layout.is_aligned(a, o[a]) and layout.is_aligned(a, t.shape[a]) for t, o in parts for a in cut):
            return False
        start, single = len(self.statements), True
        for tensor, begin in parts:
            at = layout.physical_index(begin)
            if output.begin is not None:
                at = tuple(a + b for a, b in zip(output.begin, at))
            before = len(self.statements)
            self.emit([Output(tensor, output.buffer, layout, at)])
            single = single and len(self.statements) == before + 1  # nothing was computed first that the loops read
        if single:
            self.statements[start:] = self.schedule.together(self.statements[start:])
        return True

    def _emit_walk(self, output: Output) -> bool:
        """Store a tensor that lies in a buffer already as a copy with merged dimensions."""
        walk = output.tensor.walk
        if walk is None or not self.schedule.merges_copies:
            return False
        if walk.layout != output.layout:
            walk = reordered(walk, output.tensor.shape, output.layout)
            if walk is None:
                return False
        if output.begin is None:
            emit_walk(self, walk, output.buffer, 0, row_major(walk.extents))
            return True
        if not _same_shape(walk.extents, output.layout.physical_shape(output.tensor.shape)):
            return False
        strides = row_major([_plain(d) for d in output.buffer.shape])
        emit_walk(self, walk, output.buffer, flatten(output.begin, [_plain(d) for d in output.buffer.shape]), strides)
        return True

    def flat(self, buffer: Any) -> Any:
        """A buffer as one dimension."""
        if len(buffer.shape) == 1:
            return buffer
        if buffer not in self._flat:
            self._flat[buffer], statement = flat_alias(buffer)
            self.allocations.append(statement)
        return self._flat[buffer]

    def finish(self, params: Sequence[Any], name: str) -> Any:
        """The PrimFunc over ``params`` (buffers, then symbol variables that no buffer shape binds)."""
        statements = [*self.allocations, *(self.statements or self.schedule.serial([tirx.Evaluate(0)]))]
        body = statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)
        func = tirx.PrimFunc(list(params), body)
        return func.with_attr({"global_symbol": name, "tirx.noalias": True, "s_tir": True})


def _same_shape(a: Sequence[Expr], b: Sequence[Expr]) -> bool:
    return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b))


def _plain(dim: Expr) -> Expr:
    return int(dim) if isinstance(dim, tirx.IntImm) else dim


def reader(buffer: Any, shape: Sequence[Expr], dtype: str, layout: Layout = PLAIN) -> Tensor:
    """A tensor that loads from a buffer."""
    walk = walk_of(buffer, shape, layout)
    if layout.is_plain:
        return Tensor(shape, dtype, lambda *i: tirx.BufferLoad(buffer, _indices(i or _scalar_index(buffer))), walk=walk)
    return Tensor(shape, dtype, lambda *i: tirx.BufferLoad(buffer, _indices(layout.physical_index(i))), walk=walk)


def _scalar_index(buffer: Any) -> Index:
    """Where the only element of a scalar is: parameters are zero-dimensional, scratch can't be."""
    return (0,) * len(buffer.shape)


def _indices(index: Sequence[Expr]) -> list[Expr]:
    return [as_expr(i) for i in index]
