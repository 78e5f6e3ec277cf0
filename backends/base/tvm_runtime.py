"""The part of TVM that runs compiled models: all that there is in a runtime-only install, or with ``TVM_USE_RUNTIME_LIB=1``.

`graphopt.backends.base.tvm_api` is the seam for code that compiles; what loading and running reaches imports this one.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm.base import _RUNTIME_ONLY
from tvm.runtime.vm import VirtualMachine

__all__ = ["VirtualMachine", "get_global_func", "has_compiler", "library_folder", "tvm", "tvm_ffi"]


def has_compiler() -> bool:
    """Whether TVM's compiler is in this process: LLVM's tables of processors are part of it."""
    return not _RUNTIME_ONLY


def get_global_func(name: str) -> Any:
    """The registered TVM function ``name``; None when this process's TVM has none of that name."""
    return tvm_ffi.get_global_func(name, allow_missing=True)


def library_folder() -> str:
    """Where TVM's shared libraries lie."""
    from tvm import libinfo

    return str(libinfo.find_libtvm_runtime()).rpartition("/")[0]
