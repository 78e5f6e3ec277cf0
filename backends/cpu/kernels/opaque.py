"""Numbers that LLVM knows nothing of, though they are known: they are no instructions, but for a register that holds them.

Without them LLVM loads from one place once, and copies what it loaded from register to register, which takes a place in the queues
of arithmetic; and it computes each address from the start of a tensor where several lie within reach of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.register_tile import bind

_NAME = "graphopt_opaque"


@contextmanager
def opaque_imported() -> Iterator[None]:
    """Emits what is written inside with `opaque` at hand."""
    text = (
        f"define i64 @{_NAME}(i64 %x) alwaysinline {{\n"
        f'  %r = call i64 asm sideeffect "", "=r,0"(i64 %x)\n'
        f"  ret i64 %r\n}}"
    )
    with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", text):
        yield


def opaque(value: tirx.Expr | int) -> tirx.Expr:
    """Emits an integer of 64 bits as a scalar whose value LLVM can't tell."""
    return bind(
        tirx.call_extern("int64", _NAME, tirx.Cast("int64", value) if not isinstance(value, int) else T.int64(value))
    )
