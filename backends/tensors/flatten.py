"""Kernels written for matrices, called on tensors of any rank: parameters seen under another shape, without a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.backends.base.tvm_api import tirx


def with_shapes(func: Any, shapes: Mapping[int, Sequence[Any]], defined: Mapping[Any, Any]) -> Any:
    """``func`` with some parameters declared under other shapes of as many elements.

    Args:
        func: a PrimFunc whose parameters are buffers.
        shapes: new shape by parameter position.
        defined: variables of ``func`` that no parameter's shape binds any more, with their values.
    """
    params, decls = [], [tirx.Bind(var, value) for var, value in defined.items()]
    for i, param in enumerate(func.params):
        if i not in shapes:
            params.append(param)
            continue
        outer = tirx.decl_buffer(
            [tirx.const(d, "int64") if isinstance(d, int) else d for d in shapes[i]],
            str(param.ty.dtype),
            f"{param.name}_nd",
        )
        params.append(outer)
        decls.append(tirx.DeclBuffer(param, data=tirx.buffer_data(outer)))
    return tirx.PrimFunc(params, tirx.SeqStmt([*decls, func.body]), func.ret_type, func.attrs)
