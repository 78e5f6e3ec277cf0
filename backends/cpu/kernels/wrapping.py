"""Vectors of 32-bit integers that wrap around: TVM marks its own additions and products of them as free of overflow.

LLVM and TVM's simplifier rely on that mark. The functions here are LLVM IR without it, inlined into the kernel that imports them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T

_OPERATIONS = ("add", "sub", "mul")


@dataclass(frozen=True)
class Wrapping:
    """A vector modulo 2^32.

    Attributes:
        value: of type ``int32`` and ``lanes`` lanes.
        lanes: how many; one is a scalar.
    """

    value: tirx.Expr
    lanes: int

    def __add__(self, other: Wrapping) -> Wrapping:
        return self._call("add", other.value)

    def __sub__(self, other: Wrapping) -> Wrapping:
        return self._call("sub", other.value)

    def __rmul__(self, factor: int) -> Wrapping:
        return self._call("mul", tirx.Broadcast(tirx.const(factor, "int32"), self.lanes))

    def _call(self, operation: str, other: tirx.Expr) -> Wrapping:
        result = tirx.call_extern(f"int32x{self.lanes}", _name(operation, self.lanes), self.value, other)
        return Wrapping(result, self.lanes)


def _name(operation: str, lanes: int) -> str:
    return f"graphopt_wrapping_{operation}_{lanes}"


@contextmanager
def wrapping_imported(lanes: int) -> Iterator[None]:
    """Emits what is written inside with the operations on vectors of ``lanes`` integers at hand."""
    vector = f"<{lanes} x i32>"
    text = "\n".join(
        f"define {vector} @{_name(operation, lanes)}({vector} %a, {vector} %b) alwaysinline {{\n"
        f"  %r = {operation} {vector} %a, %b\n  ret {vector} %r\n}}"
        for operation in _OPERATIONS
    )
    with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", text):
        yield
