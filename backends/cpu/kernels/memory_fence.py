"""Places in a kernel across which LLVM moves no loads and no stores, and forgets what it has loaded; they are no instructions.

Without them LLVM merges equal loads of one basic block, and its scheduler starts loads early, as if the register file had no end:
what doesn't fit it is written to the stack and read again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T

_NAME = "graphopt_memory_fence"


@contextmanager
def memory_fence_imported() -> Iterator[None]:
    """Emits what is written inside with `memory_fence` at hand."""
    text = f'define void @{_NAME}() alwaysinline {{\n  call void asm sideeffect "", "~{{memory}}"()\n  ret void\n}}'
    with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", text):
        yield


def memory_fence() -> None:
    """Emits one."""
    T.evaluate(tirx.call_extern("void", _NAME))
