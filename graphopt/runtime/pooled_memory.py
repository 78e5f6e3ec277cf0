"""Memory that TVM keeps for later allocations: of results, and of what only run time knows the size of.

TVM's allocator gives memory away again for requests of the very same size only, and keeps it until the process ends. A model that
is run on ever new shapes would take more and more.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def release() -> None:
    """Give back to the system what nobody uses. Runs that are in progress, also those of other models, allocate again."""
    clear, trim = _functions()
    clear()
    trim(0)


@cache
def _functions() -> tuple[Any, Any]:
    import tvm_ffi

    trim: Any
    try:
        trim = ctypes.CDLL(None).malloc_trim  # glibc keeps freed memory below other blocks in use
    except (AttributeError, OSError, TypeError):
        trim = bool
    return tvm_ffi.get_global_func("vm.builtin.memory_manager.clear"), trim
