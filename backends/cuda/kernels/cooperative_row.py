"""Rows that neighbouring threads share: each reads a part of a row once, 16 bytes at a time, and keeps it in registers.

Threads of a row are part of a warp or a whole block. What they find is combined by device functions (``threads.cuh``), so that
all of them have it. Rows too long for registers, or of unknown length, are read anew in every pass: caches hold most of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.backends.base.dialect import CUDA_C, written_in
from graphopt.backends.base.element_type import ElementType
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cuda.kernels.thread_block import WARP, address, call
from graphopt.backends.templates.operand import Parameter, View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.tensors.reducers import REDUCERS, identity_of
from graphopt.backends.tensors.tensor import Expr, as_expr

ACCESS_BYTES = 16
"""The widest load or store of a thread."""
BLOCK = 128
"""Threads of a block in which several rows share one."""
ELEMENTS = 16
"""Elements of a row that a thread keeps, where the row is long enough."""
MOST_THREADS = 1024
MOST_ELEMENTS = 32
"""What a thread of the largest block has registers for beside those of its arithmetic, and what a warp may have for its row."""
FEWEST_THREADS = 4
COMBINED = {"sum": "gopt_sum", "max": "gopt_maximum", "min": "gopt_minimum"}


@dataclass(frozen=True)
class RowThreads:
    """How threads share rows.

    Attributes:
        threads: of a row, a power of two.
        width: elements that a thread reads or writes at once.
        held: accesses whose elements a thread keeps in registers; 0 if it reads the row anew in every pass.
    """

    threads: int
    width: int
    held: int

    @property
    def block(self) -> int:
        """Threads of a block."""
        return max(self.threads, BLOCK)

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return self.block // self.threads if self.threads <= WARP else 1


def row_threads(length: Expr, *types: ElementType) -> RowThreads:
    """How to share rows of elements that are read and written as ``types`` are stored."""
    if not isinstance(length, int):
        return RowThreads(2 * BLOCK, 1, 0)
    width = ACCESS_BYTES // max(type_.bytes for type_ in types)
    while length % width:
        width //= 2
    accesses = length // width
    threads = FEWEST_THREADS
    while threads < MOST_THREADS and threads * ELEMENTS < length:
        threads *= 2
    if threads > WARP and length <= WARP * MOST_ELEMENTS:
        threads = WARP  # which needs no barrier
    held = -(-accesses // threads)
    return RowThreads(threads, width, held if held * width <= MOST_ELEMENTS else 0)


class CooperativeRow:
    """One row, as its threads see it.

    Args:
        x: the matrix.
        row: number of the row.
        lane: number of the thread among those of the row.
        inside: whether there is such a row; None if there certainly is.
        length: elements of the row.
        config: how threads share it.
        dtype: what is computed in.
    """

    def __init__(
        self, x: View, row: Expr, lane: Expr, inside: Expr | None, length: Expr, config: RowThreads, dtype: str
    ) -> None:
        self.x, self.row, self.length, self.dtype = x, row, length, dtype
        self._lane, self._inside, self._config = lane, inside, config
        self._shared = T.alloc_buffer((WARP,), dtype, scope="shared")
        self._kept = None
        if config.held:
            self._kept = T.alloc_buffer((config.held * config.width,), dtype, scope="local")
            kept = self._kept
            self._accesses(lambda n, first: self.read(x, [row], first, kept, n * config.width))

    def each(self, body: Callable[[Expr, Callable[[Expr], Expr]], None]) -> None:
        """Emits ``body(first, element)`` for each access of this thread; ``element(e)`` is the row's element ``first + e``."""
        width = self._config.width

        def visit(n: Expr, first: Expr) -> None:
            if self._kept is not None:
                kept = self._kept
                body(first, lambda e: kept[n * width + e])
                return
            read = T.alloc_buffer((width,), self.dtype, scope="local")
            self.read(self.x, [self.row], first, read, 0)
            body(first, lambda e: read[e])

        self._accesses(visit)

    def keep(self, value: Callable[[Expr], Expr]) -> bool:
        """Emits that ``value(element)`` takes the place of every element; False, and nothing, where elements are read anew."""
        if self._kept is None:
            return False
        kept, width = self._kept, self._config.width

        def replace(n: Expr, _: Expr) -> None:
            with T.unroll(0, width) as e:
                T.buffer_store(kept, value(kept[n * width + e]), [n * width + e])

        self._accesses(replace)
        return True

    def total(self, kind: str, value: Callable[[Expr], Expr]) -> Expr:
        """Emits the reduction of ``value(element)`` over the whole row, which all threads then have.

        Args:
            kind: a key of `COMBINED`.
            value: of an element.
        """
        cell = T.alloc_buffer((1,), self.dtype, scope="local")
        T.buffer_store(cell, identity_of(kind, self.dtype), [0])

        def add(_: Expr, element: Callable[[Expr], Expr]) -> None:
            with T.unroll(0, self._config.width) as e:
                T.buffer_store(cell, REDUCERS[kind](cell[0], value(element(e))), [0])

        self.each(add)
        c_type = {"float32": "float", "float64": "double"}[self.dtype]
        combine = f"gopt_of_threads<{COMBINED[kind]}, {self._config.threads}, {c_type}>"
        return self.scalar(tirx.call_extern(self.dtype, combine, cell[0], address(self._shared, 0)))

    def scalar(self, value: Expr) -> Expr:
        """Emits ``value`` into a register of its own."""
        cell = T.alloc_buffer((1,), str(value.ty.dtype), scope="local")
        T.buffer_store(cell, value, [0])
        return cell[0]

    def read(self, view: View, outer: Sequence[Expr], first: Expr, to: tirx.Buffer, at: Expr) -> None:
        """Emits the reading of an access's elements ``[*outer, first + e]`` into ``to[at + e]``, to compute with."""
        width = self._config.width
        if width == 1:
            T.buffer_store(to, view.load([*outer, first]), [at])
            return
        raw = View(T.alloc_buffer((width,), view.type.storage, scope="local"), view.type)
        call(f"gopt_move<{width * view.type.bytes}>", address(raw.buffer, 0), address(view.buffer, *outer, first))
        with T.unroll(0, width) as e:
            T.buffer_store(to, raw.load([e]), [at + e])

    def write(self, view: View, outer: Sequence[Expr], first: Expr, value: Callable[[Expr], Expr]) -> None:
        """Emits the writing of ``value(e)`` to ``[*outer, first + e]`` for an access's elements."""
        width = self._config.width
        if width == 1:
            view.store(value(as_expr(0)), [*outer, first])
            return
        raw = View(T.alloc_buffer((width,), view.type.storage, scope="local"), view.type)
        with T.unroll(0, width) as e:
            raw.store(value(e), [e])
        call(f"gopt_move<{width * view.type.bytes}>", address(view.buffer, *outer, first), address(raw.buffer, 0))

    def only_one(self, body: Callable[[], None]) -> None:
        """Emits ``body()`` for one thread of the row."""
        first = tirx.EQ(self._lane, as_expr(0))
        with T.If(first if self._inside is None else tirx.And(first, self._inside)), T.Then():
            body()

    def _accesses(self, visit: Callable[[Expr, Expr], None]) -> None:
        """Emits ``visit(number, first element)`` for each access of this thread."""
        threads, width, held = self._config.threads, self._config.width, self._config.held
        span = threads * width
        count = held or tirx.floordiv(as_expr(self.length) + (span - 1), as_expr(span))
        with (T.unroll if held else T.serial)(0, count) as n:
            first = (n * threads + self._lane) * width
            ragged = not isinstance(self.length, int) or self.length % span != 0
            conditions = [*([first < self.length] if ragged else []), *([] if self._inside is None else [self._inside])]
            if not conditions:
                visit(n, first)
                return
            with T.If(conditions[0] if len(conditions) == 1 else tirx.And(*conditions)), T.Then():
                visit(n, first)


def row_function(
    name: str,
    inputs: Sequence[Parameter],
    output: tuple[Sequence[Expr], ElementType],
    matrix: tuple[Expr, Expr],
    config: RowThreads,
    body: Callable[[CooperativeRow, list[View], View], None],
) -> tirx.PrimFunc:
    """The function that runs ``body(row, inputs, output)`` for every row of its first input.

    Args:
        name: global symbol.
        inputs: name, shape and element type of each; the first one is the matrix.
        output: shape and element type.
        matrix: rows, and elements of each.
        config: how threads share rows.
        body: emits the code of one row's threads.
    """
    rows, length = matrix

    def write(views: list[View], _: list[tirx.Buffer], result: View) -> None:
        blocks = (
            -(-rows // config.rows) if isinstance(rows, int) else tirx.floordiv(rows + (config.rows - 1), config.rows)
        )
        with (
            T.thread_binding(as_expr(0), as_expr(blocks), thread="blockIdx.x") as block,
            T.thread_binding(as_expr(0), as_expr(config.block), thread="threadIdx.x") as thread,
        ):
            if config.rows == 1:
                row, lane, inside = block, thread, None
            else:
                row = block * config.rows + tirx.floordiv(thread, as_expr(config.threads))
                lane = tirx.floormod(thread, as_expr(config.threads))
                inside = None if isinstance(rows, int) and rows % config.rows == 0 else row < as_expr(rows)
            dtype = views[0].type.compute
            body(CooperativeRow(views[0], row, lane, inside, length, config, dtype), views, result)

    with written_in(CUDA_C):
        return build_prim_func(name, inputs, [], output, write)
