"""Kernels whose data may start anywhere: arrays of the caller need not lie on cache lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.backends.base.tvm_api import tirx, tvm_ffi


def accept_unaligned(function: Any, positions: Sequence[int]) -> Any:
    """``function`` with loads from some parameters, and from buffers declared over them, that assume no alignment but an element's.

    Costs nothing where a vector load of aligned data is as fast as an aligned load, which is so on processors of this century's
    second decade.

    Args:
        function: a PrimFunc.
        positions: of the parameters.
    """
    loose: dict[int, Any] = {}

    def loosen(buffer: Any) -> None:
        loose[hash(buffer)] = buffer, _unaligned(buffer)

    for position in positions:
        loosen(function.params[position])

    def alias(declared: Any) -> None:
        if any(hash(var) in loose for var in _vars(declared.data)):
            loosen(declared.buffer)

    tvm_ffi.structural_walk(function.body, [(tirx.DeclBuffer, alias)])

    def replaced(var: Any) -> Any:
        old, new = loose.get(hash(var), (None, None))
        return new if old is not None and var.same_as(old) else var

    body = tvm_ffi.structural_map(function.body, [(tirx.Var, replaced)])
    return tirx.PrimFunc([replaced(p) for p in function.params], body, function.ret_type, function.attrs)


def _vars(expr: Any) -> list[Any]:
    found: list[Any] = []
    if expr is not None:
        tvm_ffi.structural_walk(expr, [(tirx.Var, found.append)])
    return found


def _unaligned(buffer: Any) -> Any:
    """A buffer like ``buffer`` that is only known to start at an element."""
    kind = buffer.ty
    dtype = str(kind.dtype)
    digits = "".join(c for c in dtype if c.isdigit())
    return tirx.decl_buffer(
        list(kind.shape), dtype, buffer.name, strides=list(kind.strides), elem_offset=kind.elem_offset,
        scope=kind.storage_scope, data_alignment=max(int(digits or 8) // 8, 1), offset_factor=kind.offset_factor,
        layout=kind.layout,
    )  # fmt: skip
