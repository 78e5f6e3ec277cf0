"""Nests with a reduction: how threads share outputs and steps.

A thread an output is best where there are many outputs and their operands lie side by side. Else several threads share an output:
neighbours in a warp or a block where the operand lies along the reduction, rows of threads where it lies along the outputs, so that
neighbouring threads read neighbouring elements either way. Where even a block an output leaves multiprocessors idle, several blocks
share one, and a second launch combines what they found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import TensorLoad, tirx, tvm_ffi
from graphopt.backends.cuda.addresses import address_of, divided, index_of
from graphopt.backends.cuda.grid import THREADS, barrier, launch, per_thread, positions
from graphopt.backends.tensors.index import product
from graphopt.backends.tensors.loops import loop, seq, store_all
from graphopt.backends.tensors.reducers import REDUCERS, identity_of
from graphopt.backends.tensors.schedule import Evaluate, Reduction
from graphopt.backends.tensors.tensor import Expr, Index, Scope, as_expr

WARP = 32
FEW_STEPS = 32
"""Steps that a thread takes by itself whatever lies where."""
STEPS_OF_THREAD = 4
"""Steps that a thread has at least where others share its output."""
BUSY_THREADS = 1024
"""Threads of a multiprocessor that keep memory busy."""
MAX_BLOCK = 1024
COMBINED = {
    "sum": "gopt_sum",
    "prod": "gopt_prod",
    "max": "gopt_maximum",
    "min": "gopt_minimum",
    "or": "gopt_any",
    "and": "gopt_every",
}
"""Device functions that combine two values, by the kind of a reduction."""


class Sharing(Enum):
    """Which threads share an output."""

    none = "a thread an output"
    lanes = "neighbouring threads"
    rows = "threads of the same column of a block"


@dataclass(frozen=True)
class Plan:
    """How a reduction is spread.

    Attributes:
        sharing: which threads share an output.
        threads: how many do.
        blocks: how many blocks share an output.
    """

    sharing: Sharing = Sharing.none
    threads: int = 1
    blocks: int = 1


def reduction(shape: tuple[Expr, ...], evaluate: Evaluate, caps: Caps) -> list[Any]:
    """Launches that compute every element of a physical shape, whose body holds a reduction."""
    nest = _Nest(shape, evaluate)
    plan = planned(nest, caps)
    if plan.blocks == 1:
        return [_STATEMENTS[plan.sharing](nest, plan)]
    return _in_two_launches(nest, plan)


class _Nest:
    """A nest's outputs and steps.

    Attributes:
        outputs: how many elements.
        steps: how many are reduced to one.
        reduction: of all of them.
    """

    def __init__(self, shape: tuple[Expr, ...], evaluate: Evaluate) -> None:
        self.shape, self._evaluate = shape, evaluate
        self._variables = [0 if _is_one(d) else tirx.Var(f"o{a}", "int64") for a, d in enumerate(shape)]
        self._probe = evaluate(tuple(self._variables), lambda dt: tirx.const(0, dt))
        assert self._probe.reduction is not None
        self.reduction: Reduction = self._probe.reduction
        self.outputs: Expr = product(shape)
        self.steps: Expr = product(self.reduction.extents)

    @property
    def dtype(self) -> str:
        """Of what is reduced."""
        return self.reduction.dtype

    def index(self, flat: Expr) -> Index:
        """The index of output number ``flat``."""
        long = iter(index_of(flat, [d for d in self.shape if not _is_one(d)]))
        return tuple(0 if _is_one(d) else next(long) for d in self.shape)

    def step(self, flat: Expr) -> Index:
        """The position of step number ``flat`` along the reduced axes."""
        long = iter(index_of(flat, [d for d in self.reduction.extents if not _is_one(d)]))
        return tuple(0 if _is_one(d) else next(long) for d in self.reduction.extents)

    def add(self, total: Any, output: Index, step: Index) -> Any:
        """The statement that takes one step of an output into account."""
        logical = self._evaluate(output, lambda dt: tirx.const(0, dt)).logical
        with Scope() as scope:
            value = self.reduction.body(logical, step)
        zero = as_expr(0)
        combined = REDUCERS[self.reduction.kind](tirx.BufferLoad(total, [zero]), value)
        return seq([*scope.statements(), tirx.BufferStore(total, combined, [zero])])

    def loops(self, total: Any, output: Index) -> Any:
        """All steps of an output."""
        extents = self.reduction.extents
        index = tuple(0 if _is_one(e) else tirx.Var(f"r{i}", "int64") for i, e in enumerate(extents))
        nest = self.add(total, output, index)
        for var, extent in reversed(list(zip(index, extents))):
            if not _is_one(extent):
                nest = loop(var, extent, nest)
        return nest

    def finish(self, output: Index, total: Expr) -> Any:
        """The statement that stores what is made of an output's total."""
        return seq(store_all(self._evaluate(output, lambda _: total)))

    def neighbours(self) -> tuple[int, int]:
        """Operands that lie side by side along the outputs, and along the steps."""
        extents = self.reduction.extents
        variables = [0 if _is_one(e) else tirx.Var(f"r{i}", "int64") for i, e in enumerate(extents)]
        with Scope() as scope:
            value = self.reduction.body(self._probe.logical, tuple(variables))
        bound = {t: v for t, v in (*self._probe.scope.binds, *scope.binds) if isinstance(t, tirx.Var)}
        last_output = next((v for v in reversed(self._variables) if not isinstance(v, int)), None)
        last_step = next((v for v in reversed(variables) if not isinstance(v, int)), None)
        along = [0, 0]

        def see(load: Any) -> None:
            address = address_of(load.source.shape, load.indices, bound)
            for n, variable in enumerate((last_output, last_step)):
                along[n] += address is not None and variable is not None and address.factor(variable) == 1

        for part in (value, *(v for _, v in scope.binds)):
            tvm_ffi.structural_walk(part, [(TensorLoad, see)])
        return along[0], along[1]


def planned(nest: _Nest, caps: Caps) -> Plan:
    """How to spread a reduction."""
    if nest.reduction.kind not in COMBINED or (isinstance(nest.steps, int) and nest.steps <= FEW_STEPS):
        return Plan()
    # unknown extents: steps are many, and outputs as many as it takes
    busy = max(caps.cores, 1) * BUSY_THREADS
    outputs = nest.outputs if isinstance(nest.outputs, int) else busy // 8
    steps = nest.steps if isinstance(nest.steps, int) else 1 << 10
    along_outputs, along_steps = nest.neighbours()
    if along_outputs >= along_steps and outputs >= WARP:
        rows = min(_power_of_two(busy // outputs), _power_of_two(steps // STEPS_OF_THREAD), MAX_BLOCK // WARP)
        return Plan() if rows < 2 else Plan(Sharing.rows, rows)
    threads = min(max(_power_of_two(steps // (2 * STEPS_OF_THREAD)), 8), THREADS)
    while threads < MAX_BLOCK and outputs * threads < busy and steps > 2 * STEPS_OF_THREAD * threads:
        threads *= 2
    blocks = 1
    if threads == MAX_BLOCK and isinstance(nest.outputs, int) and isinstance(nest.steps, int):
        threads = THREADS
        blocks = max(1, min(busy // (outputs * threads), steps // (threads * 4 * STEPS_OF_THREAD)))
        threads = MAX_BLOCK if blocks == 1 else threads
    return Plan(Sharing.lanes, threads, blocks)


def _power_of_two(value: int) -> int:
    """The largest power of two that isn't above ``value``, at least 1."""
    return 1 << max(value.bit_length() - 1, 0)


def _alone(nest: _Nest, _: Plan) -> Any:
    block, thread = positions()
    blocks, threads = per_thread(nest.outputs)
    flat = block * threads + thread
    output = nest.index(flat)
    total = _cell(nest, "acc")
    body: Any = seq([
        tirx.AllocBuffer(total),
        _store(total, nest.reduction.init),
        nest.loops(total, output),
        nest.finish(output, _load(total)),
    ])  # fmt: skip
    if not isinstance(nest.outputs, int) or nest.outputs % threads:
        body = tirx.IfThenElse(flat < as_expr(nest.outputs), body, None)
    return launch(block, blocks, thread, threads, body)


def _of_lanes(nest: _Nest, plan: Plan) -> Any:
    """``plan.threads`` neighbouring threads an output: part of a warp, or whole blocks."""
    block, thread = positions()
    threads = max(plan.threads, THREADS if plan.threads <= WARP else 0)
    outputs = threads // plan.threads
    first = block * outputs
    flat = first + tirx.floordiv(thread, as_expr(plan.threads)) if outputs > 1 else first
    lane = tirx.floormod(thread, as_expr(plan.threads)) if outputs > 1 else thread
    blocks = _ceil(nest.outputs, outputs)
    output = nest.index(flat)
    ragged = not isinstance(nest.outputs, int) or nest.outputs % outputs != 0
    inside = flat < as_expr(nest.outputs) if ragged and outputs > 1 else None

    def body(total: Any) -> Any:
        return _strided(nest, total, output, lane, plan.threads, 0, nest.steps, inside)

    first_lane = tirx.EQ(lane, as_expr(0))
    condition = first_lane if inside is None else tirx.And(first_lane, inside)
    return launch(
        block, blocks, thread, threads,
        _shared_total(nest, plan.threads, body, lambda value: tirx.IfThenElse(condition, nest.finish(output, value), None)),
    )  # fmt: skip


def _of_rows(nest: _Nest, plan: Plan) -> Any:
    """A block of 32 outputs side by side and ``plan.threads`` rows of threads, each of which takes its share of the steps."""
    block, thread = positions()
    rows = plan.threads
    column, row = tirx.floormod(thread, as_expr(WARP)), tirx.floordiv(thread, as_expr(WARP))
    flat = block * WARP + column
    output = nest.index(flat)
    inside = None if isinstance(nest.outputs, int) and nest.outputs % WARP == 0 else flat < as_expr(nest.outputs)
    total, shared = _cell(nest, "acc"), tirx.decl_buffer((rows * WARP,), nest.dtype, "rows", scope="shared")
    other = tirx.Var("other", "int64")
    combined = REDUCERS[nest.reduction.kind](_load(total), tirx.BufferLoad(shared, [other * WARP + column]))
    finish = seq([loop(other, rows, _store(total, combined)), nest.finish(output, _load(total))])
    first_row = tirx.EQ(row, as_expr(0))
    body = seq([
        tirx.AllocBuffer(total),
        tirx.AllocBuffer(shared),
        _store(total, identity_of(nest.reduction.kind, nest.dtype)),
        _strided(nest, total, output, row, rows, 0, nest.steps, inside),
        tirx.BufferStore(shared, _load(total), [thread]),
        barrier(),
        tirx.IfThenElse(
            first_row if inside is None else tirx.And(first_row, inside), seq([_store(total, nest.reduction.init), finish]), None
        ),
    ])  # fmt: skip
    return launch(block, _ceil(nest.outputs, WARP), thread, rows * WARP, body)


def _in_two_launches(nest: _Nest, plan: Plan) -> list[Any]:
    """A launch whose blocks each reduce a part of an output's steps, and one that combines what they found."""
    assert isinstance(nest.steps, int)
    assert isinstance(nest.outputs, int)
    parts = tirx.decl_buffer((nest.outputs * plan.blocks,), nest.dtype, "parts")
    share = _ceil(nest.steps, plan.blocks)
    block, thread = positions()
    flat, part = divided(block, plan.blocks)
    output = nest.index(flat)
    start = part * share
    end = tirx.min(start + share, as_expr(nest.steps))

    def body(total: Any) -> Any:
        return _strided(nest, total, output, thread, plan.threads, start, end, None)

    def keep(value: Expr) -> Any:
        return tirx.IfThenElse(tirx.EQ(thread, as_expr(0)), tirx.BufferStore(parts, value, [block]), None)

    first = launch(
        block,
        nest.outputs * plan.blocks,
        thread,
        plan.threads,
        _shared_total(nest, plan.threads, body, keep, nest.reduction.init),
    )
    return [tirx.AllocBuffer(parts), first, _combined(nest, plan, parts)]


def _combined(nest: _Nest, plan: Plan, parts: Any) -> Any:
    """A warp an output, over what the blocks found."""
    block, thread = positions()
    output = nest.index(block)
    step = tirx.Var("step", "int64")

    def body(total: Any) -> Any:
        at = thread + step * WARP
        combined = REDUCERS[nest.reduction.kind](_load(total), tirx.BufferLoad(parts, [block * plan.blocks + at]))
        return loop(step, _count(thread, WARP, 0, plan.blocks), _store(total, combined))

    def store(value: Expr) -> Any:
        return tirx.IfThenElse(tirx.EQ(thread, as_expr(0)), nest.finish(output, value), None)

    assert isinstance(nest.outputs, int)
    return launch(block, nest.outputs, thread, WARP, _shared_total(nest, WARP, body, store))


def _count(first: Expr, stride: int, start: Expr, end: Expr) -> Expr:
    """How many of ``start + first``, ``start + first + stride``, ... lie before ``end``; ``first`` is below ``stride``."""
    return tirx.floordiv(as_expr(end) - start - first + (stride - 1), as_expr(stride))


def _strided(
    nest: _Nest, total: Any, output: Index, first: Expr, stride: int, start: Expr, end: Expr, inside: Expr | None
) -> Any:
    """Every ``stride``-th step of an output; none where the output isn't ``inside``."""
    step = tirx.Var("step", "int64")
    body = nest.add(total, output, nest.step(start + first + step * stride))
    steps = loop(step, tirx.max(_count(first, stride, start, end), as_expr(0)), body)
    return steps if inside is None else tirx.IfThenElse(inside, steps, None)


def _shared_total(
    nest: _Nest, threads: int, body: Callable[[Any], Any], use: Callable[[Expr], Any], init: Expr | None = None
) -> Any:
    """Statements of threads that each reduce a part and then have the total of all of them."""
    kind = nest.reduction.kind
    total, shared = _cell(nest, "acc"), tirx.decl_buffer((WARP,), nest.dtype, "shared", scope="shared")
    ctype = c_type(nest.dtype)
    address = tirx.address_of(tirx.BufferLoad(shared, [as_expr(0)]))
    whole = tirx.call_extern(
        nest.dtype, f"gopt_of_threads<{COMBINED[kind]}, {threads}, {ctype}>", _load(total), address
    )
    start = nest.reduction.init if init is None else identity_of(kind, nest.dtype)
    return seq([
        tirx.AllocBuffer(total),
        tirx.AllocBuffer(shared),
        _store(total, identity_of(kind, nest.dtype)),
        body(total),
        _store(total, whole),
        _store(total, REDUCERS[kind](start, _load(total))),
        use(_load(total)),
    ])  # fmt: skip


def c_type(dtype: str) -> str:
    """The name of a type in CUDA C."""
    return {"float32": "float", "float64": "double", "float16": "half", "bool": "bool"}.get(dtype, f"{dtype}_t")


def _cell(nest: _Nest, name: str) -> Any:
    return tirx.decl_buffer((1,), nest.dtype, name, scope="local")


def _load(cell: Any) -> Expr:
    return tirx.BufferLoad(cell, [as_expr(0)])


def _store(cell: Any, value: Expr) -> Any:
    return tirx.BufferStore(cell, value, [as_expr(0)])


def _ceil(value: Expr, divisor: int) -> Any:
    return -(-value // divisor) if isinstance(value, int) else tirx.floordiv(value + (divisor - 1), as_expr(divisor))


def _is_one(extent: Expr) -> bool:
    return isinstance(extent, int) and extent == 1


_STATEMENTS: dict[Sharing, Callable[[_Nest, Plan], Any]] = {
    Sharing.none: _alone,
    Sharing.lanes: _of_lanes,
    Sharing.rows: _of_rows,
}
