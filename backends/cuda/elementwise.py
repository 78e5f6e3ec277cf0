"""Nests without a reduction: a thread computes several neighbouring elements, and reads and writes them 16 bytes at a time.

An element's body is written once, over the position of an element among those of its thread. What it reads or writes at
neighbouring places is moved between memory and an array of the thread, whose loops the compiler unrolls, so that the array becomes
registers. All else (broadcast operands, gathers, what is read on a condition) is read element by element.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import TensorLoad, tirx, tvm, tvm_ffi
from graphopt.backends.cuda.addresses import Address, address_of, divided, index_of
from graphopt.backends.cuda.grid import launch, per_thread, positions
from graphopt.backends.tensors.index import flatten, product
from graphopt.backends.tensors.loops import loop, seq, store_all
from graphopt.backends.tensors.schedule import Evaluate, NestBody
from graphopt.backends.tensors.tensor import Expr, as_expr

ACCESS_BYTES = 16
"""The widest load or store of a thread."""
WIDTHS = (16, 8, 4, 2)
MAX_READS = 8
"""Reads of single elements above which a thread computes one element: it would need too many registers."""
BUSY_THREADS = 128
"""Threads a multiprocessor that are worth more than wider accesses."""


def elementwise(shape: tuple[Expr, ...], evaluate: Evaluate, caps: Caps) -> list[Any]:
    """A launch that computes every element of a physical shape."""
    nest = _Nest(shape, evaluate)
    ways = [
        _Way(nest, kept, width) for kept in range(len(nest.axes)) for width in WIDTHS if nest.allows(kept, width, caps)
    ]
    best = min((w for w in ways if w.moved), key=lambda w: w.reads_per_element, default=None)
    if best is None or best.reads_per_element >= nest.reads_of_one:
        return [_thread_an_element(shape, evaluate)]
    return [best.statement()]


def _thread_an_element(shape: tuple[Expr, ...], evaluate: Evaluate) -> Any:
    block, thread = positions()
    total = product(shape)
    blocks, threads = per_thread(total)
    flat = block * threads + thread
    body = seq(store_all(evaluate(_index_of(flat, shape), None)))
    if not isinstance(total, int) or total % threads:
        body = tirx.IfThenElse(flat < as_expr(total), body, None)
    return launch(block, blocks, thread, threads, body)


def _is_one(extent: Expr) -> bool:
    return isinstance(extent, int) and extent == 1


def _index_of(flat: Expr, shape: Sequence[Expr]) -> tuple[Expr, ...]:
    """The index of the element that lies at ``flat``; 0 along axes of extent 1."""
    long = iter(index_of(flat, [d for d in shape if not _is_one(d)]))
    return tuple(0 if _is_one(d) else next(long) for d in shape)


@dataclass(frozen=True)
class _Access:
    """A read or write.

    Attributes:
        buffer: what is accessed.
        address: where, in terms of the positions along the axes; None if that isn't known.
        is_whole: it goes through all of a buffer in the order of the axes, whatever their extents.
        bytes: of an element.
    """

    buffer: Any
    address: Address | None
    is_whole: bool
    bytes: int


class _Nest:
    """The body of a nest, over a variable an axis, and what it accesses.

    Attributes:
        axes: variable and extent of each axis that has more than one position.
        body: bindings and stores.
        accesses: every access once, stores first.
        read, written: which of these are reads and which are stores; state that is updated is both.
        unknown: how many reads there are beside these: conditional ones.
    """

    def __init__(self, shape: tuple[Expr, ...], evaluate: Evaluate) -> None:
        self.shape, self._evaluate = shape, evaluate
        variables = [0 if _is_one(d) else tirx.Var(f"i{a}", "int64") for a, d in enumerate(shape)]
        self.axes: list[tuple[Any, Expr]] = [(v, d) for v, d in zip(variables, shape) if not _is_one(d)]
        self._index = tuple(variables)
        self.body = evaluate(self._index, None)
        self._bound = {target: value for target, value in self.body.scope.binds if isinstance(target, tirx.Var)}
        self.accesses: list[_Access] = []
        self.read: set[int] = set()
        self.written: set[int] = set()
        self.unknown = 0
        self._look()

    def again(self, index: Sequence[Expr]) -> NestBody:
        """The body with an expression for each of the axes."""
        at = iter(index)
        return self._evaluate(tuple(0 if _is_one(d) else next(at) for d in self.shape), None)

    def access(self, buffer: Any, index: Sequence[Expr]) -> _Access:
        """What an access of the body's is."""
        whole = len(buffer.shape) == len(self._index) and all(
            _same(a, b) and _same(i, v) for a, b, i, v in zip(buffer.shape, self.shape, index, self._index)
        )
        address = address_of(buffer.shape, index, self._bound)
        return _Access(buffer, address, whole, tvm.DataType(str(buffer.dtype)).itemsize)

    def known(self, access: _Access) -> int | None:
        """The number of an access among `accesses`."""
        for n, other in enumerate(self.accesses):
            if (
                other.buffer.same_as(access.buffer)
                and other.is_whole == access.is_whole
                and other.address == access.address
            ):
                return n
        return None

    @property
    def reads_of_one(self) -> float:
        """Accesses of an element that is computed alone, as `_Way.reads_per_element` counts them."""
        return len(self.accesses) + self.unknown

    def allows(self, kept: int, width: int, caps: Caps) -> bool:
        """Whether threads may compute ``width`` neighbours along the axes behind the first ``kept`` ones."""
        run = product([d for _, d in self.axes[kept:]])
        if kept and not (isinstance(run, int) and run % width == 0):
            return False
        total = product([d for _, d in self.axes])
        return not isinstance(total, int) or total >= width * caps.cores * BUSY_THREADS or width == WIDTHS[-1]

    def _look(self) -> None:
        def note(buffer: Any, index: Sequence[Expr], among: set[int]) -> None:
            access = self.access(buffer, index)
            if access.address is None and not access.is_whole:
                self.unknown += 1
                return
            known = self.known(access)
            if known is None:
                known = len(self.accesses)
                self.accesses.append(access)
            among.add(known)

        def read(load: Any) -> None:
            if load.source.scope() == "global":
                note(load.source, load.indices, self.read)

        def condition(call: Any) -> Any:
            if not str(getattr(call.op, "name", "")).endswith("if_then_else"):
                return None
            self.unknown += 1
            return tvm_ffi.WalkResult.SKIP

        for buffer, _, index in self.body.stores:
            note(buffer, index, self.written)
        values = [*(value for _, value in self.body.scope.binds), *(value for _, value, _ in self.body.stores)]
        for value in values:
            tvm_ffi.structural_walk(value, [(TensorLoad, read), (tvm.ir.Call, condition)], order="pre")


def _same(a: Expr, b: Expr) -> bool:
    if isinstance(a, (int, tirx.IntImm)) or isinstance(b, (int, tirx.IntImm)):
        return _number(a) is not None and _number(a) == _number(b)
    return bool(tvm_ffi.structural_equal(a, b))


def _number(e: Expr) -> int | None:
    return e if isinstance(e, int) else int(e.value) if isinstance(e, tirx.IntImm) else None


class _Way:
    """A number of neighbours that a thread computes.

    Attributes:
        kept: how many of the axes in front stay apart; the others are one run of elements.
        width: elements of a thread, neighbours in the run.
        moved: accesses of all of them at once.
    """

    def __init__(self, nest: _Nest, kept: int, width: int) -> None:
        self._nest, self.kept, self.width = nest, kept, width
        self._outer, self._inner = nest.axes[:kept], nest.axes[kept:]
        self._run = product([d for _, d in self._inner])
        self.moved = [n for n, access in enumerate(nest.accesses) if self._is_moved(access)]

    def _is_moved(self, access: _Access) -> bool:
        """Whether it goes through the run element by element, from a place that so many elements are aligned at."""
        if access.bytes * self.width > ACCESS_BYTES:
            return False
        if access.is_whole:
            return self.kept == 0 or all(isinstance(d, int) for _, d in self._inner)
        stride = 1
        assert access.address is not None
        for variable, extent in reversed(self._inner):
            if access.address.factor(variable) != stride or not isinstance(extent, int):
                return False
            stride *= extent
        others = [factor for _, factor in self._steady(access.address)]
        return all(number % self.width == 0 for number in (access.address.constant, *others))

    def _steady(self, address: Address) -> list[tuple[Any, int]]:
        """What an address depends on beside the run: positions along outer axes, and what the host counts."""
        return [(v, f) for v, f in address.factors if not any(v.same_as(inner) for inner, _ in self._inner)]

    @property
    def reads_per_element(self) -> float:
        """Accesses an element, one of all neighbours together counted as one; infinite where they would take too many registers."""
        single = self._nest.unknown
        shared = 0
        for n, access in enumerate(self._nest.accesses):
            if n not in self.moved:
                still = access.address is not None and not any(access.address.factor(v) for v, _ in self._inner)
                shared, single = shared + still, single + (not still)
        if single > MAX_READS:
            return math.inf
        # positions along several axes take divisions for every element that is read by itself
        divisions = 0.5 * (len(self._inner) - 1) if single else 0.0
        return (len(self.moved) + shared) / self.width + single + divisions

    def statement(self) -> Any:
        """The launch."""
        block, thread = positions()
        width, run = self.width, self._run
        chunks = -(-run // width) if isinstance(run, int) else tirx.floordiv(run + (width - 1), as_expr(width))
        count = product([*(d for _, d in self._outer), chunks])
        blocks, threads = per_thread(count)
        flat = block * threads + thread
        row, chunk = divided(flat, chunks) if self.kept else (0, flat)
        at, first = index_of(row, [d for _, d in self._outer]), chunk * width
        body = self._together(at, first)
        if not isinstance(run, int) or run % width:
            step = tirx.Var("left", "int64")
            rest = seq(store_all(self._nest.again(self._position(at, first + step))))
            body = tirx.IfThenElse(
                first + width <= as_expr(run), body, loop(step, tirx.min(as_expr(run) - first, as_expr(width)), rest)
            )
        if not isinstance(count, int) or count % threads:
            body = tirx.IfThenElse(flat < as_expr(count), body, None)
        return launch(block, blocks, thread, threads, body)

    def _position(self, outer: Sequence[Expr], at: Expr) -> list[Expr]:
        """Positions along all axes of element ``at`` of a run."""
        return [*outer, *index_of(at, [d for _, d in self._inner])]

    def _together(self, outer: Sequence[Expr], first: Expr) -> Any:
        """Statements of a thread that computes ``width`` elements from ``first`` on."""
        nest, lane = self._nest, tirx.Var("lane", "int64")
        accesses = [nest.accesses[n] for n in self.moved]
        own = {
            n: tirx.decl_buffer((self.width,), str(a.buffer.dtype), f"own{n}", scope="local")
            for n, a in zip(self.moved, accesses)
        }

        def move(n: int, out: bool) -> Any:
            access = nest.accesses[n]
            memory = tirx.address_of(tirx.BufferLoad(access.buffer, self._place(access, outer, first)))
            array = tirx.address_of(tirx.BufferLoad(own[n], [as_expr(0)]))
            to, origin = (memory, array) if out else (array, memory)
            return tirx.Evaluate(tirx.call_extern("void", f"gopt_move<{access.bytes * self.width}>", to, origin))

        def array_of(buffer: Any, index: Sequence[Expr]) -> Any:
            known = nest.known(nest.access(buffer, index)) if buffer.scope() == "global" else None
            return None if known is None else own.get(known)

        def read(load: Any) -> Any:
            array = array_of(load.source, load.indices)
            return load if array is None else tirx.BufferLoad(array, [lane])

        statements = nest.body.scope.statements()
        statements = [tvm_ffi.structural_map(s, [(TensorLoad, read)]) for s in statements]
        for buffer, value, index in nest.body.stores:
            value = tvm_ffi.structural_map(value, [(TensorLoad, read)])
            array = array_of(buffer, index)
            to, place = (buffer, [as_expr(i) for i in index]) if array is None else (array, [lane])
            statements.append(tirx.BufferStore(to, value, place))
        at = [tirx.Bind(v, as_expr(i)) for (v, _), i in zip(nest.axes, self._position(outer, first + lane))]
        return tirx.SeqStmt([
            *(tirx.AllocBuffer(array) for array in own.values()),
            *(move(n, False) for n in self.moved if n in nest.read),
            loop(lane, self.width, seq([*at, *statements]), tirx.ForKind.UNROLLED),
            *(move(n, True) for n in self.moved if n in nest.written),
        ])  # fmt: skip

    def _place(self, access: _Access, outer: Sequence[Expr], first: Expr) -> list[Expr]:
        """The index of the first element of what a thread moves."""
        shape = [d if (number := _number(d)) is None else number for d in access.buffer.shape]
        if access.is_whole:
            flat = flatten([*outer, first], [*(d for _, d in self._outer), self._run])
        else:
            assert access.address is not None
            flat = access.address.constant + first
            where = {hash(variable): at for (variable, _), at in zip(self._outer, outer)}
            for variable, factor in self._steady(access.address):
                flat = flat + where.get(hash(variable), variable) * factor
        return [as_expr(i) for i in index_of(flat, shape)]
