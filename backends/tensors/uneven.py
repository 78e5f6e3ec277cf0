"""Loops for operands of which only run time tells whether they are broadcast: fast ones for when none is, and general ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphopt.backends.base.tvm_api import tirx, tvm_ffi
from graphopt.backends.tensors.loops import seq
from graphopt.backends.tensors.opaque import opaque
from graphopt.backends.tensors.tensor import Expr


class Uneven:
    """Which case the code being emitted is for.

    Attributes:
        even: whether it may assume that no operand is broadcast.
    """

    def __init__(self) -> None:
        self.even = False
        self._conditions: list[Expr] = []

    def assume(self, conditions: Sequence[Expr]) -> bool:
        """Whether the code may assume ``conditions``, under which an operand is not broadcast."""
        if not self.even:
            known = self._conditions
            known += [c for c in conditions if not any(tvm_ffi.structural_equal(c, k) for k in known)]
        return self.even

    def versions(self, emit: Callable[[], list[Any]], *, twice: bool) -> list[Any]:
        """The statements that ``emit`` makes; for both cases if there are two and ``twice`` is set."""
        outer = self.even, self._conditions
        self.even, self._conditions = False, []
        statements = emit()
        if self._conditions and twice:
            self.even = True
            # hidden, because TVM puts 4 for n in the body of "if n == 4", and then can't divide by n // 8
            even = opaque(tirx.all(*self._conditions).astype("int64"))
            condition = tirx.NE(even, tirx.const(0, "int64"))
            statements = [tirx.IfThenElse(condition, seq(emit()), seq(statements))]
        self.even, self._conditions = outer
        return statements
