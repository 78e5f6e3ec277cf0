"""The accumulators of a micro-kernel, and the frame of the PrimFunc around them.

A tile is a local buffer that is only ever indexed by constants once its loops are unrolled, which is what lets LLVM
keep it in registers: nothing here may index it with a run-time value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

from graphopt.backends.base.dot_product import DotProduct
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.side_by_side import vectors_side_by_side
from graphopt.backends.cpu.kernels.tiling import Segment
from graphopt.backends.templates.operand import GROUPED
from graphopt.backends.templates.storing import StoreStyle

ON_STACK = {"disable_lower_builtin": True}
"""Keeps TVM from turning a local buffer into a heap workspace, which LLVM couldn't keep in registers.

Effective only under ``tvm_api.cpu_pass_context``; without it the code is correct but slower.
"""


class RegisterTile:
    """``points`` x ``vectors`` accumulators of ``lanes`` elements; a point is an output pixel or a matrix row.

    Args:
        points, vectors, lanes: its extents.
        dtype: in which products are added up.
        most: so many of them, whose sums are added up in memory; 0 for all. `accumulate` keeps to it within one call,
            who calls it several times says with `settle` that so many products have come together.
        added_in: in which these sums are added up.

    Attributes:
        dtype: of finished sums.
        most: as given.
    """

    def __init__(
        self, points: int, vectors: int, lanes: int, dtype: str, most: int = 0, added_in: str = "float32"
    ) -> None:
        self.points = points
        self.vectors = vectors
        self.lanes = lanes
        self.dtype = added_in if most else dtype
        self.most = most
        self._added = dtype
        self._registers = T.alloc_buffer((points, vectors, lanes), dtype, scope="local", annotations=ON_STACK)
        if most:
            self._sums = T.alloc_buffer((points, vectors, lanes), self.dtype, scope="local", annotations=ON_STACK)

    def clear(self) -> None:
        """Emits the zeroing of every accumulator."""
        self._each(lambda p, v, lane: T.buffer_store(self._registers, tirx.const(0, self._added), [p, v, lane]))
        if self.most:
            self._each(lambda p, v, lane: T.buffer_store(self._sums, tirx.const(0, self.dtype), [p, v, lane]))

    def resume(self, value: Callable[[tirx.Expr, tirx.Expr], tirx.Expr]) -> None:
        """Emits the setting of every accumulator to ``value(point, column)``, a sum so far in ``dtype``."""
        sums = self._sums if self.most else self._registers
        self._each(lambda p, v, lane: T.buffer_store(sums, value(p, v * self.lanes + lane), [p, v, lane]))
        if self.most:
            self._each(lambda p, v, lane: T.buffer_store(self._registers, tirx.const(0, self._added), [p, v, lane]))

    def each_vector(self, change: Callable[[tirx.Expr, str, int], tirx.Expr]) -> None:
        """Emits the replacement of every accumulator vector by ``change(vector, element type, lanes)``."""
        for p, v in product(range(self.points), range(self.vectors)):
            place = [p, v, tirx.Ramp(0, 1, self.lanes)]
            T.buffer_store(self._registers, change(self._registers[tuple(place)], self._added, self.lanes), place)

    def settle(self) -> None:
        """Emits the addition of what was added up so far to the sums in memory, if there are any."""
        if not self.most:
            return

        def add(p: tirx.Expr, v: tirx.Expr, lane: tirx.Expr) -> None:
            T.buffer_store(self._sums, self.finished(p, v, lane), [p, v, lane])
            T.buffer_store(self._registers, tirx.const(0, self._added), [p, v, lane])

        self._each(add)

    def finished(self, point: tirx.Expr, vector: tirx.Expr, lane: tirx.Expr) -> tirx.Expr:
        """The sum of all products, in ``dtype``."""
        added = self._registers[point, vector, lane]
        return self._sums[point, vector, lane] + added.astype(self.dtype) if self.most else added

    def _each(self, emit: Callable[[tirx.Expr, tirx.Expr, tirx.Expr], None]) -> None:
        with T.unroll(0, self.points) as p, T.unroll(0, self.vectors) as v, T.vectorized(0, self.lanes) as lane:
            emit(p, v, lane)

    def multiply_add(
        self,
        scalar: Callable[[tirx.Expr], tirx.Expr],
        vector: Callable[[tirx.Expr], tirx.Expr],
        points: tuple[int, int] | None = None,
        dot: DotProduct | None = None,
        by_lane: bool = False,
        begin: bool = False,
    ) -> None:
        """Emits ``accumulator[p, c] += scalar(p) * vector(c)``.

        Args:
            scalar: the value of point ``p``, broadcast over the lanes.
            vector: the value of column ``c``, in ``[0, vectors * lanes)``.
            points: the half-open range of points to update; all of them if None.
            dot: the instruction to do it with; values are then groups of elements in 32 bits.
            by_lane: whether scalars are lanes of vectors that wait in registers: then a vector of columns meets all points
                before the next is loaded, so that one register holds it.
            begin: with ``by_lane``, whether accumulators become the product instead.
        """
        start, stop = points or (0, self.points)

        def combine(p: tirx.Expr, v: tirx.Expr) -> None:
            assert dot is not None
            place = [p, v, tirx.Ramp(0, 1, self.lanes)]
            columns = vector(tirx.Ramp(v * self.lanes, 1, self.lanes))
            sums = dot(self._registers[tuple(place)], tirx.Broadcast(scalar(p), self.lanes), columns, self.lanes)
            T.buffer_store(self._registers, sums, place)

        if by_lane:
            with T.unroll(0, self.vectors) as v, T.unroll(start, stop) as p:
                if dot is not None:
                    combine(p, v)
                else:
                    with T.vectorized(0, self.lanes) as lane:
                        one = scalar(p) * vector(v * self.lanes + lane)
                        total = one if begin else self._registers[p, v, lane] + one
                        T.buffer_store(self._registers, total, [p, v, lane])
            return
        if dot is not None:
            with T.unroll(start, stop) as p, T.unroll(0, self.vectors) as v:
                combine(p, v)
            return
        with T.unroll(start, stop) as p, T.unroll(0, self.vectors) as v, T.vectorized(0, self.lanes) as lane:
            one = scalar(p) * vector(v * self.lanes + lane)
            T.buffer_store(self._registers, self._registers[p, v, lane] + one, [p, v, lane])

    def multiply_add_by_lane(
        self,
        scalar: Callable[[tirx.Expr, tirx.Expr], tirx.Expr],
        vector: Callable[[int, tirx.Expr], tirx.Expr],
        steps: int,
        points: tuple[int, int] | None = None,
        dot: DotProduct | None = None,
    ) -> None:
        """Emits ``accumulator[p, c] += scalar(p, s) * vector(s, c)`` for ``steps`` neighbouring steps.

        The factors of a point come with one load, whose lanes the multiply-adds take one by one.

        Args:
            scalar: the value of point ``p`` at step ``s``, in vectors along the steps.
            vector: the value of column ``c`` at step ``s``, in ``[0, vectors * lanes)``.
            steps: a vector's elements.
            points: the half-open range of points to update; all of them if None.
            dot: the instruction to do it with, as for `multiply_add`.
        """
        start, stop = points or (0, self.points)
        factors = self.factors(lambda p, s: scalar(p + start, s), steps, stop - start, dot)

        def one(step: int) -> None:
            self.multiply_add(
                lambda p: factors[p - start, step], lambda c: vector(step, c), (start, stop), dot, by_lane=True
            )

        for step in range(steps):
            one(step)

    def factors(
        self, scalar: Callable[[tirx.Expr, tirx.Expr], tirx.Expr], steps: int, count: int, dot: DotProduct | None = None
    ) -> tirx.Buffer:
        """Emits the loading of ``scalar(p, s)`` for ``count`` points and ``steps`` neighbouring steps, a vector a point.

        Returns:
            a buffer (count, steps) to be indexed by constants, whose vectors stay in registers.
        """
        dtype = self._added if dot is None else GROUPED.storage
        held = T.alloc_buffer((count, steps), dtype, scope="local", annotations=ON_STACK)
        with T.unroll(0, count) as p, T.vectorized(0, steps) as s:
            T.buffer_store(held, scalar(p, s), [p, s])
        return held

    def accumulate(
        self,
        steps: tirx.Expr | int,
        scalar: Callable[[tirx.Expr, tirx.Expr], tirx.Expr],
        vector: Callable[[tirx.Expr, tirx.Expr], tirx.Expr],
        *,
        together: int = 1,
        points: tuple[int, int] | None = None,
        dot: DotProduct | None = None,
        before: Callable[[tirx.Expr], None] | None = None,
    ) -> None:
        """Emits the loop ``accumulator[p, c] += scalar(p, k) * vector(k, c)`` over ``k``.

        Args:
            steps: of the loop.
            scalar: the value of point ``p`` at step ``k``.
            vector: the value of column ``c`` at step ``k``.
            together: steps whose factors of a point are neighbours in memory and are loaded as a vector; 1 for one by one.
            points: the half-open range of points to update; all of them if None.
            dot: the instruction to do it with, as for `multiply_add`.
            before: emits what each step does besides, such as a prefetch.
        """

        def single(k: tirx.Expr) -> None:
            if before is not None:
                before(k)
            self.multiply_add(lambda p: scalar(p, k), lambda c: vector(k, c), points, dot)

        if self.most and not (isinstance(steps, int) and steps <= self.most):
            self._accumulate_parts(steps, scalar, vector, together, points, before)
            return
        if together == 1:
            with T.serial(0, steps) as k:
                single(k)
            return
        whole = steps // together if isinstance(steps, int) else bind(tirx.floordiv(steps, together))
        with T.serial(0, whole) as turn:
            first = turn * together
            if before is not None:
                for step in range(together):
                    before(first + step)
            self.multiply_add_by_lane(
                lambda p, s: scalar(p, first + s), lambda s, c: vector(first + s, c), together, points, dot
            )
        if isinstance(steps, int) and steps % together == 0:
            return
        with T.serial(0, steps - whole * together) as k:
            single(whole * together + k)

    def _accumulate_parts(
        self,
        steps: tirx.Expr | int,
        scalar: Callable[[tirx.Expr, tirx.Expr], tirx.Expr],
        vector: Callable[[tirx.Expr, tirx.Expr], tirx.Expr],
        together: int,
        points: tuple[int, int] | None,
        before: Callable[[tirx.Expr], None] | None,
    ) -> None:
        """`accumulate` of more steps than may be added up at once: as many as may, then those that are left."""
        each = self.most // together * together
        parts = steps // each if isinstance(steps, int) else bind(tirx.floordiv(steps, each))

        def part(first: tirx.Expr | int, count: tirx.Expr | int) -> None:
            whole = RegisterTile.accumulate
            most, self.most = self.most, 0
            whole(
                self,
                count,
                lambda p, k: scalar(p, first + k),
                lambda k, c: vector(first + k, c),
                together=together,
                points=points,
                before=None if before is None else lambda k: before(first + k),
            )
            self.most = most

        with T.serial(0, parts) as number:
            part(number * each, each)
            self.settle()
        rest = steps - parts * each
        if not (isinstance(rest, int) and rest == 0):
            part(parts * each, rest)

    def store_vectors(
        self,
        first_column: tirx.Expr,
        columns: int,
        store: Callable[[tirx.Expr, tirx.Expr, tirx.Expr], None],
        style: StoreStyle = StoreStyle.unrolled,
        width: int | None = None,
    ) -> None:
        """Emits ``store(accumulator, point, column)`` lane by lane in vectors, for the columns below ``columns``.

        Args:
            first_column: column of the tile's first lane, a multiple of ``width``.
            columns: valid columns, a multiple of ``width``.
            store: emits one (vectorised) store.
            style: how the loops around the stores are written.
            width: lanes stored together, a divisor of ``lanes``, or a multiple that divides a row; ``lanes`` by default.
        """
        width = width or self.lanes
        count = self.vectors * self.lanes // width
        ragged = columns % (self.vectors * self.lanes) != 0
        if style is StoreStyle.unrolled:
            joined = self.staged() if width > self.lanes else None
            with T.unroll(0, count) as u:
                base = first_column + u * width
                within = base < columns if ragged else None
                with guarded(within), T.unroll(0, self.points) as p, T.vectorized(0, width) as lane:
                    vector, place = tirx.floordiv(u * width, self.lanes), tirx.floormod(u * width, self.lanes)
                    sums = self.finished(p, vector, place + lane) if joined is None else joined[p, u * width + lane]
                    store(sums, p, base + lane)
            return
        staged = self.staged()
        with T.serial(0, count) as u:
            base = first_column + u * width
            with guarded(base < columns if ragged else None):
                if style is StoreStyle.rolled:
                    vectors_side_by_side(
                        self.points, width, lambda p, lane: store(staged[p, u * width + lane], p, base + lane)
                    )
                else:
                    with T.serial(0, self.points) as p, T.serial(0, width) as lane:
                        store(staged[p, u * width + lane], p, base + lane)

    def staged(
        self,
        points: int = 0,
        finish: Callable[[tirx.Expr, tirx.Expr, tirx.Expr], tirx.Expr] | None = None,
        dtype: str = "",
    ) -> tirx.Buffer:
        """A copy of the accumulators that may be indexed with run-time values: memory, not the registers themselves.

        Args:
            points: rows of the copy, if there should be more than the tile has; those hold anything.
            finish: ``(accumulator, point, column)`` to the value that is copied, vectorised over columns.
            dtype: of the copy; that of finished sums by default.
        """
        rows = max(points, self.points)
        shape = (rows, self.vectors * self.lanes)
        staged = T.alloc_buffer(shape, dtype or self.dtype, scope="local", annotations=ON_STACK)
        with T.unroll(0, self.points) as p, T.unroll(0, self.vectors) as v, T.vectorized(0, self.lanes) as lane:
            value, column = self.finished(p, v, lane), v * self.lanes + lane
            T.buffer_store(staged, finish(value, p, column) if finish else value, [p, column])
        return staged

    def store_scalars(
        self,
        first_column: tirx.Expr,
        columns: int,
        store: Callable[[tirx.Expr, tirx.Expr, tirx.Expr], None],
    ) -> None:
        """As `store_vectors`, one element at a time: for any number of columns."""
        width, staged = self.vectors * self.lanes, self.staged()
        valid = width if columns % width == 0 else tirx.min(width, columns - first_column)
        with T.serial(0, valid) as column, T.serial(0, self.points) as p:
            store(staged[p, column], p, first_column + column)


@contextmanager
def guarded(condition: tirx.Expr | None) -> Iterator[None]:
    """Emits its body under ``condition``, or plainly when there is none."""
    if condition is None:
        yield
        return
    with T.If(condition), T.Then():
        yield


def for_each_tile(index: tirx.Expr, segments: Sequence[Segment], body: Callable[[tirx.Expr, Segment], None]) -> None:
    """Emits ``body(first element, segment)`` for the tile number ``index`` of ``segments``.

    One branch a segment, since tiles of each width are code of their own.
    """
    segment, *rest = segments
    symbolic = not all(isinstance(bound, int) for part in segments for bound in (part.start, part.count))
    if not rest:
        body(bind(segment.start + index * segment.tile, symbolic), segment)
        return
    with T.If(index < segment.count):
        with T.Then():
            body(bind(segment.start + index * segment.tile, symbolic), segment)
        with T.Else():
            for_each_tile(bind(index - segment.count, symbolic), rest, body)


def bind(value: tirx.Expr | int, symbolic: bool = True) -> tirx.Expr | int:
    """Emits ``value`` as a scalar of its own, through memory that LLVM turns back into a register.

    A plain variable binding would do, but TVM's simplifier looks through those, and takes many seconds on the symbolic
    arithmetic of a kernel with dynamic sizes.

    Args:
        value: an integer.
        symbolic: whether dynamic sizes are involved; otherwise it is returned as it is, for the simplifier to fold.
    """
    if isinstance(value, int) or not symbolic:
        return value
    scalar = T.alloc_buffer((1,), str(value.ty.dtype), scope="local", annotations=ON_STACK)
    T.buffer_store(scalar, value, [0])
    return scalar[0]


def bind_segments(segments: Sequence[Segment]) -> list[Segment]:
    """The same segments, their symbolic starts and counts computed once into variables."""
    return [replace(segment, start=bind(segment.start), count=bind(segment.count)) for segment in segments]


def tile_count(segments: Sequence[Segment]) -> tirx.Expr | int:
    """How many tiles the segments hold together."""
    total: tirx.Expr | int = 0
    for segment in segments:
        total = total + segment.count
    return total
