"""Which functions of a module launch threads of the GPU: every kernel has to, as nothing schedules it any more."""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.tvm_api import tirx, tvm_ffi
from graphopt.errors import InternalError


def require_bound(mod: Any) -> None:
    """Refuse a module with a kernel that CUDA C can't be written of.

    Raises:
        InternalError: a PrimFunc that launches no threads, or whose name is no C identifier.
    """
    for variable, function in mod.functions.items():
        if not isinstance(function, tirx.PrimFunc):
            continue
        if not variable.name_hint.isidentifier():
            raise InternalError(f"PrimFunc name {variable.name_hint!r} is no C identifier, which CUDA source needs")
        if not is_bound(function):
            raise InternalError(f"kernel {variable.name_hint} launches no threads of the GPU")


def is_bound(func: Any) -> bool:
    """Whether ``func`` launches GPU threads, or belongs on the host."""
    if func.attrs is not None and ("tirx.is_host_func" in func.attrs or "tir.is_host_func" in func.attrs):
        return True
    found = False

    def see_loop(loop: Any) -> None:
        nonlocal found
        found = found or loop.kind == tirx.ForKind.THREAD_BINDING

    def see_attribute(statement: Any) -> None:
        nonlocal found
        found = found or statement.attr_key == "thread_extent"

    tvm_ffi.structural_walk(func.body, [(tirx.For, see_loop), (tirx.AttrStmt, see_attribute)], order="post")
    return found
