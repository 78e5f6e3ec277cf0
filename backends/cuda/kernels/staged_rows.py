"""Rows of both operands on their way into shared memory, a stage at a time.

A stage holds 64 bytes of every row. Their four chunks change places with the row, so that the eight rows which a fragment is loaded
from lie in eight different groups of banks (the usual XOR swizzle).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import gcd

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cuda.kernels.gemm_config import CHUNK, ROW_BYTES, GemmConfig
from graphopt.backends.cuda.kernels.thread_block import INDEX, address, bound, call, number, quotient, registers, rest
from graphopt.backends.specs.implicit_gemm import ImplicitGemmSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.tensors.tensor import Expr

CHUNKS = ROW_BYTES // CHUNK
_OUTSIDE = -(2**30)
"""Where the window of a row begins that isn't there."""
_COPIED = (16, 8, 4)
_BANK_GROUPS = 8
"""Of 16 bytes, which memory hands out at once."""


def place(row: Expr, chunk: Expr) -> Expr:
    """Where a chunk of a row lies in a stage, in bytes."""
    moved = tirx.bitwise_xor(chunk, tirx.bitwise_and(tirx.shift_right(row, number(1)), number(CHUNKS - 1)))
    return row * ROW_BYTES + moved * CHUNK


def place_in_rows(row: Expr, chunk: Expr, columns: int) -> Expr:
    """Where a chunk of a row of ``columns`` 16-bit elements lies in a stage, in bytes; rows are steps of the reduction."""
    chunks = columns * 2 // CHUNK
    turn = row if chunks >= _BANK_GROUPS else quotient(row, number(_BANK_GROUPS // chunks))
    moved = tirx.bitwise_xor(chunk, tirx.bitwise_and(turn, number(min(chunks, _BANK_GROUPS) - 1)))
    return (row * chunks + moved) * CHUNK


class Copier:
    """Shares the chunks of a tile out among the threads of a block: a thread has one chunk of every ``threads / 4``-th row."""

    def __init__(self, config: GemmConfig, rows: int, thread: Expr, shared: tirx.Buffer) -> None:
        self._rows, self._shared = rows, shared
        self._apart = config.threads // CHUNKS
        self.own = -(-rows // self._apart)
        self.chunk = bound(rest(thread, number(CHUNKS)))
        self.first = bound(quotient(thread, number(CHUNKS)))

    def each(self, body: Callable[[Expr, Expr], None]) -> None:
        """Emits ``body(i, row)`` for the thread's rows."""
        with T.unroll(0, self.own) as i:
            row = self.first + i * self._apart
            with ExitStack() as stack:
                if self._rows % self._apart:
                    stack.enter_context(T.If(row < self._rows))
                    stack.enter_context(T.Then())
                body(i, row)

    def target(self, stage: Expr, row: Expr, byte: int = 0) -> Expr:
        """Address in shared memory."""
        return address(self._shared, stage + place(row, self.chunk) + byte)


class WeightRows(Copier):
    """Rows of the weights: ``(groups, columns, depth)``, filled up so that every chunk is whole."""

    def __init__(
        self, config: GemmConfig, weight: View, thread: Expr, shared: tirx.Buffer, group: Expr, first_column: Expr
    ) -> None:  # fmt: skip
        super().__init__(config, config.block_columns, thread, shared)
        _, columns, self._depth = (int(d) for d in weight.shape)
        self._weight = T.decl_buffer((group_size(weight),), weight.type.storage, data=weight.buffer.data)
        self._columns, self._group, self._first_column = columns, group, first_column
        self._step, self._size = config.step, config.kind.element

    def copy(self, k_tile: Expr, stage: Expr) -> None:
        """Emits the copy of a step of the reduction."""
        k = bound(k_tile * self._step + self.chunk * (CHUNK // self._size))

        def row(_: Expr, row: Expr) -> None:
            column = self._first_column + row
            at = (self._group * self._columns + column) * self._depth + k
            call("gopt_copy_async16", self.target(stage, row), address(self._weight, at), column < self._columns)

        self.each(row)


def side_by_side(together: int, size: int) -> int:
    """Elements of ``size`` bytes that can be copied at once where runs of ``together`` bytes begin at multiples of themselves."""
    return next((width // size for width in _COPIED if together % width == 0), 1)


def group_size(weight: View) -> int:
    """Elements of an operand of known shape."""
    total = 1
    for extent in weight.shape:
        total *= int(extent)
    return total


class DataRows(Copier):
    """Rows of the data as a convolution's windows take them, zeros where these lie outside."""

    def __init__(
        self, spec: ImplicitGemmSpec, config: GemmConfig, data: View, thread: Expr, shared: tirx.Buffer,
        group: Expr, first_row: Expr, moved: Sequence[Expr] = (),
    ) -> None:  # fmt: skip
        """See the class; ``moved`` is how much further windows begin, by spatial axis."""
        super().__init__(config, config.block_rows, thread, shared)
        self._spec, self._step, self._size = spec, config.step, config.kind.element
        total: Expr = number(1)
        for extent in spec.data_shape:
            total = total * number(extent)
        self._data = T.decl_buffer((total,), data.type.storage, data=data.buffer.data)
        self._storage = data.type.storage
        self._strides, self._channel_stride = _strides(spec)
        axes = len(spec.windows)
        self._starts = [registers(self.own, INDEX) for _ in range(max(axes, 1))]
        self._bases = registers(self.own, INDEX)
        channels = number(group * spec.group_channels)

        def prepare(i: Expr, row: Expr) -> None:
            point = bound(first_row + row)
            there = point < number(spec.rows)
            image, places = unravelled(spec, point)
            base = image * number(_image_stride(spec)) + channels * number(self._channel_stride)
            for axis, (window, at) in enumerate(zip(spec.windows, places)):
                start = at * window.stride - window.lead
                if moved:
                    start = start + moved[axis]
                base = base + start * number(self._strides[axis])
                if axis == 0:
                    start = tirx.Select(there, start, number(_OUTSIDE))
                T.buffer_store(self._starts[axis], start, [i])
            if not spec.windows:
                T.buffer_store(self._starts[0], tirx.Select(there, number(0), number(_OUTSIDE)), [i])
            T.buffer_store(self._bases, base, [i])

        self.each(prepare)

    @property
    def vector(self) -> int:
        """Elements that lie side by side wherever they begin at a multiple of as many; 1 if they are gathered one by one."""
        spec = self._spec
        if not spec.data_last and spec.windows:
            return 1
        together = gcd(spec.group_channels, spec.in_channels) * self._size
        return side_by_side(together, self._size)

    def copy(self, k_tile: Expr, stage: Expr) -> None:
        """Emits the copy of a step of the reduction."""
        elements, vector = CHUNK // self._size, self.vector
        k = bound(k_tile * self._step + self.chunk * elements)
        if vector * self._size < _COPIED[-1]:  # narrower than any copy
            self._gather(k, stage, elements)
            return
        for part in range(0, elements, vector):
            self._copy_part(k, stage, part, vector)

    def _copy_part(self, k: Expr, stage: Expr, part: int, vector: int) -> None:
        """Emits the copy of ``vector`` elements of every chunk, from the ``part``-th on."""
        inside, shift, steps = self._tap(k + part)

        def row(i: Expr, row: Expr) -> None:
            source = address(self._data, self._bases[i] + shift)
            target = self.target(stage, row, part * self._size)
            call(f"gopt_copy_async{vector * self._size}", target, source, self._meets(i, steps, inside))

        self.each(row)

    def _gather(self, k: Expr, stage: Expr, elements: int) -> None:
        """Emits the same one element at a time, through registers."""
        taps = [self._tap(k + part) for part in range(elements)]

        def row(i: Expr, row: Expr) -> None:
            chunk = registers(elements, self._storage)
            for part, (inside, shift, steps) in enumerate(taps):
                value = self._data[self._bases[i] + shift]
                meets = self._meets(i, steps, inside)
                T.buffer_store(chunk, tirx.if_then_else(meets, value, tirx.const(0, self._storage)), [part])
            call("gopt_move16", self.target(stage, row), address(chunk, 0))

        self.each(row)

    def _tap(self, k: Expr) -> tuple[Expr, Expr, list[Expr]]:
        """Of a place along the reduction: whether it is one, how far its element is from the window's first, steps along axes."""
        spec = self._spec
        if spec.taps == 1:
            return k < spec.depth, bound(k * self._channel_stride), [number(0) for _ in spec.windows]
        tap, channel = bound(quotient(k, spec.group_channels)), rest(k, spec.group_channels)
        shift: Expr = channel * self._channel_stride
        steps: list[Expr] = []
        for axis in reversed(range(len(spec.windows))):
            window = spec.windows[axis]
            step = bound((rest(tap, window.kernel) if axis else tap) * window.dilation)
            tap = quotient(tap, window.kernel)
            steps.insert(0, step)
            shift = shift + step * number(self._strides[axis])
        return k < spec.depth, bound(shift), steps

    def _meets(self, i: Expr, steps: list[Expr], inside: Expr) -> Expr:
        """Whether an element of the thread's ``i``-th row is one of the data."""
        spec = self._spec
        meets = inside
        if not spec.windows:
            return tirx.And(meets, self._starts[0][i] >= 0)
        for axis, (window, trail) in enumerate(zip(spec.windows, spec.trails)):
            if axis and spec.phases is None and window.lead <= 0 and trail <= 0:
                continue
            at = self._starts[axis][i] + steps[axis]
            # one unsigned comparison, which TVM's simplifier would make a division of
            meets = tirx.And(meets, tirx.call_pure_extern("bool", "gopt_inside", at, number(window.extent)))
        return meets


def unravelled(spec: ImplicitGemmSpec, point: Expr) -> tuple[Expr, list[Expr]]:
    """The image of a row, and its place along the spatial axes of the result."""
    places: list[Expr] = []
    for extent in reversed(spec.outputs):
        divisor = number(extent)
        places.insert(0, rest(point, divisor))
        point = quotient(point, divisor)
    return point, places


def _strides(spec: ImplicitGemmSpec) -> tuple[list[Expr], Expr]:
    """Elements between neighbours along each spatial axis of the data, and along its channels."""
    stride: Expr = spec.in_channels if spec.data_last else 1
    strides: list[Expr] = []
    for window in reversed(spec.windows):
        strides.insert(0, stride)
        stride = stride * window.extent
    return strides, 1 if spec.data_last else stride


def _image_stride(spec: ImplicitGemmSpec) -> Expr:
    total: Expr = spec.in_channels
    for window in spec.windows:
        total = total * window.extent
    return total
