"""From sums in shared memory to results in memory, through the epilogue: several neighbours of a row at a time.

What the epilogue reads at the same places as the result, or channel by channel, is loaded as widely as the result is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from graphopt.backends.base.element_type import ElementType
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cuda.kernels.thread_block import LARGEST_POSITION, address, call, number, registers
from graphopt.backends.specs.implicit_gemm import ImplicitGemmSpec
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


def store_width(spec: ImplicitGemmSpec, tile_columns: int) -> int:
    """Neighbouring channels that a thread finishes and stores at once; 1 where channels aren't neighbours."""
    if not spec.result_last:
        return 1
    widest = _WIDEST // spec.types.output.bytes
    for count in (widest, widest // 2, widest // 4):
        fits = count % 4 == 0 and tile_columns % count == 0
        if count > 1 and fits and spec.columns % count == 0:
            return count
    return 1


@dataclass(frozen=True)
class Finish:
    """How neighbouring sums become results.

    Attributes:
        spec: the product.
        epilogue: ``(sum, logical index, operands) -> value``.
        extras: what the operands are.
        operands: the epilogue's.
        output: the result.
        width: neighbours that are finished at once.
        shape: of the result as the operands have it, whose leading axes may be those that the rows of a matrix stand for.
    """

    spec: ImplicitGemmSpec
    epilogue: EpilogueFn
    extras: Sequence[ExtraOperand]
    operands: Sequence[tirx.Buffer]
    output: View
    width: int
    shape: Sequence[Expr]

    def emit(
        self, sums: Callable[[int], Expr], point: Expr, image: Expr, places: Sequence[Expr], channel: Expr
    ) -> None:  # fmt: skip
        """Emits it for the sums at an address.

        Args:
            point: their row, whose place is the following.
            sums: address of the i-th of them in shared memory.
            image: the batch element.
            places: along spatial axes.
            channel: the first of them.
        """
        spec, width, type_ = self.spec, self.width, self.output.type
        own = registers(width, spec.types.sum)
        if width % 4 == 0:
            for start in range(0, width, 4):
                call("gopt_move16", address(own, start), sums(start))
        else:
            call("gopt_move4", address(own, 0), sums(0))
        operands = [self._near(extra, operand, point, channel) for extra, operand in zip(self.extras, self.operands)]
        logical = (image, channel, *places)
        if width == 1:
            value = self.epilogue(own[0], logical, operands)
            self.output.store(value, self._physical(image, places, channel))
            return
        results = registers(width, type_.storage)
        with T.unroll(0, width) as i:
            value = self.epilogue(own[i], (image, channel + i, *places), operands)
            T.buffer_store(results, type_.stored(value), [i])
        target = self._physical(image, places, channel)
        move(
            width, type_.bytes,
            lambda at: address(self.output.buffer, *target[:-1], target[-1] + at), lambda at: address(results, at),
        )  # fmt: skip

    def _physical(self, image: Expr, places: Sequence[Expr], channel: Expr) -> list[Expr]:
        return [image, *places, channel] if self.spec.result_last else [image, channel, *places]

    def _near(self, extra: ExtraOperand, operand: tirx.Buffer, point: Expr, channel: Expr) -> tirx.Buffer:
        """An operand, or a view of registers with the elements of it that are needed here."""
        if self.width == 1 or not _is_aligned(extra.type, self.width):
            return operand
        shape = tuple(extra.shape)
        if _same(shape, self.shape):
            at = point * self.spec.out_channels + channel
        elif len(shape) == 1 and isinstance(shape[0], int) and shape[0] == self.spec.out_channels:
            at = channel
        else:
            return operand
        flat = T.decl_buffer((number(LARGEST_POSITION),), extra.type.storage, data=operand.data)
        own = registers(self.width, extra.type.storage)
        move(
            self.width, extra.type.bytes,
            lambda i: address(own, i), lambda i: address(flat, at + i),
        )  # fmt: skip
        strides = [*(number(0) for _ in shape[:-1]), number(1)]
        return T.decl_buffer(
            shape, extra.type.storage, data=own.data, strides=strides, elem_offset=number(0) - channel, scope="local"
        )  # fmt: skip


def _is_aligned(type_: ElementType, width: int) -> bool:
    return type_.bytes * width % _MOVES[-1] == 0


def _same(a: Sequence[Expr], b: Sequence[Expr]) -> bool:
    return len(a) == len(b) and all(
        x is y or (isinstance(x, int) and isinstance(y, int) and x == y) for x, y in zip(a, b)
    )


def guarded(stack: ExitStack, condition: Expr | None) -> None:
    """Puts what ``stack`` spans under a condition."""
    if condition is not None:
        stack.enter_context(T.If(condition))
        stack.enter_context(T.Then())
