"""From sums in shared memory to results in memory, through the epilogue: several neighbours of a row at a time.

What the epilogue reads at the same places as the result, or channel by channel, is loaded as widely as the result is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.backends.base.element_type import ElementType
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cuda.kernels.thread_block import LARGEST_POSITION, address, call, number, registers
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand
from graphopt.backends.tensors.tensor import Expr

_WIDEST = 16
_MOVES = (16, 8, 4)


def move(count: int, size: int, to: Callable[[int], Expr], source: Callable[[int], Expr]) -> None:
    """Emits the moving of ``count`` elements of ``size`` bytes; both places are aligned to all of them together, or to 16 bytes."""
    total = count * size
    width = next(width for width in _MOVES if total % width == 0)
    for start in range(0, total, width):
        call(f"gopt_move{width}", to(start // size), source(start // size))


def store_width(columns: int, type_: ElementType, tile_columns: int) -> int:
    """Neighbours that a thread finishes and stores at once, of rows of ``columns`` elements that lie side by side in memory."""
    widest = _WIDEST // type_.bytes
    for count in (widest, widest // 2, widest // 4):
        if count > 1 and count % 4 == 0 and tile_columns % count == 0 and columns % count == 0:
            return count
    return 1


@dataclass(frozen=True)
class Place:
    """Where neighbouring results go.

    Attributes:
        logical: logical index of the i-th of them.
        physical: where the first one lies in the result's buffer.
        flat: the same in the result as one dimension.
        channel: position of the first along their own axis.
        condition: whether they are there; None if they certainly are.
    """

    logical: Callable[[Expr], tuple[Expr, ...]]
    physical: Sequence[Expr]
    flat: Expr
    channel: Expr
    condition: Expr | None = None


@dataclass(frozen=True)
class Finish:
    """How neighbouring sums become results.

    Attributes:
        sums: TVM's name of the type of sums.
        epilogue: ``(sum, logical index, operands) -> value``.
        extras: what the operands are.
        operands: the epilogue's.
        output: the result.
        width: neighbours that are finished at once.
        shape: physical shape of the result as the operands have it.
        channels: extent of the axis along which neighbours lie.
    """

    sums: str
    epilogue: EpilogueFn
    extras: Sequence[ExtraOperand]
    operands: Sequence[tirx.Buffer]
    output: View
    width: int
    shape: Sequence[Expr]
    channels: Expr

    def emit(self, sums: Callable[[int], Expr], place: Place) -> None:
        """Emits it.

        Args:
            sums: address of the i-th of them in shared memory.
            place: where they go.
        """
        width, type_ = self.width, self.output.type
        own = registers(width, self.sums)
        if width % 4 == 0:
            for start in range(0, width, 4):
                call("gopt_move16", address(own, start), sums(start))
        else:
            call("gopt_move4", address(own, 0), sums(0))
        operands = [self._near(extra, operand, place) for extra, operand in zip(self.extras, self.operands)]
        if width == 1:
            self.output.store(self.epilogue(own[0], place.logical(0), operands), place.physical)
            return
        results = registers(width, type_.storage)
        with T.unroll(0, width) as i:
            value = self.epilogue(own[i], place.logical(i), operands)
            T.buffer_store(results, type_.stored(value), [i])
        *lead, last = place.physical
        move(
            width, type_.bytes,
            lambda at: address(self.output.buffer, *lead, last + at), lambda at: address(results, at),
        )  # fmt: skip

    def _near(self, extra: ExtraOperand, operand: tirx.Buffer, place: Place) -> tirx.Buffer:
        """An operand, or a view of registers with the elements of it that are needed here."""
        if self.width == 1 or extra.type.bytes * self.width % _MOVES[-1]:
            return operand
        shape = tuple(extra.shape)
        if _same(shape, self.shape):
            at = place.flat
        elif len(shape) == 1 and _same(shape, [self.channels]):
            at = place.channel
        else:
            return operand
        flat = T.decl_buffer((number(LARGEST_POSITION),), extra.type.storage, data=operand.data)
        own = registers(self.width, extra.type.storage)
        move(self.width, extra.type.bytes, lambda i: address(own, i), lambda i: address(flat, at + i))
        strides = [*(number(0) for _ in shape[:-1]), number(1)]
        offset = number(0) - place.channel
        return T.decl_buffer(
            shape, extra.type.storage, data=own.data, strides=strides, elem_offset=offset, scope="local"
        )  # fmt: skip


def _same(a: Sequence[Expr], b: Sequence[Expr]) -> bool:
    return len(a) == len(b) and all(
        x is y or (isinstance(x, int) and isinstance(y, int) and x == y) for x, y in zip(a, b)
    )
