"""Vectors that LLVM computes where the code says, between loads and stores that keep their order; pinning them is no instruction.

Otherwise LLVM merges equal loads of one basic block, and its scheduler starts loads early and arithmetic late, as if the register
file had no end: what doesn't fit it is written to the stack and read again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T

REGISTERS = "w"
"""LLVM's name for the vector registers of 64-bit ARM."""
_FENCE = "graphopt_fence"
_ELEMENTS = {"float32": "float", "float16": "half"}


@contextmanager
def pinned_imported(dtype: str, lanes: int) -> Iterator[None]:
    """Emits what is written inside with `pinned` at hand for one type of vectors."""
    vector = f"<{lanes} x {_ELEMENTS[dtype]}>"
    text = (
        f"define {vector} @{_name(dtype, lanes)}({vector} %x) alwaysinline {{\n"
        f'  %r = call {vector} asm sideeffect "", "={REGISTERS},0,~{{memory}}"({vector} %x)\n'
        f"  ret {vector} %r\n}}"
    )
    with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", text):
        yield


def pinned(value: tirx.Expr, dtype: str, lanes: int) -> tirx.Expr:
    """A vector for 64-bit ARM that is computed after all loads and stores before it, and before all that follow."""
    return tirx.call_extern(f"{dtype}x{lanes}", _name(dtype, lanes), value)


@contextmanager
def fence_imported() -> Iterator[None]:
    """Emits what is written inside with `fence` at hand."""
    text = f'define void @{_FENCE}() alwaysinline {{\n  call void asm sideeffect "", "~{{memory}}"()\n  ret void\n}}'
    with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", text):
        yield


def fence() -> None:
    """Emits what no load or store is moved across; no instruction either."""
    T.evaluate(tirx.call_extern("void", _FENCE))


def _name(dtype: str, lanes: int) -> str:
    return f"graphopt_pinned_{dtype}_{lanes}"
