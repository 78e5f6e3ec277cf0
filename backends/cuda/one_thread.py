"""Hand-written serial code on a GPU: one thread runs it. Slow, but every operator then works on every target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.backends.base.tvm_api import tirx, tvm_ffi


def in_one_thread(statements: Sequence[Any]) -> list[Any]:
    """The same statements for a GPU.

    Loops that launch threads inside stay on the host, which then launches a kernel an iteration.
    """
    if any(_launches(s) for s in statements):
        return list(statements)
    body = statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))
    body = tvm_ffi.structural_map(body, [(tirx.For, _serial)])
    return [_bound("blockIdx.x", _bound("threadIdx.x", body))]


def _serial(loop: Any) -> Any:
    if loop.kind not in (tirx.ForKind.PARALLEL, tirx.ForKind.VECTORIZED):
        return loop
    return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)


def _launches(statement: Any) -> bool:
    found = False

    def see(loop: Any) -> None:
        nonlocal found
        found = found or loop.kind == tirx.ForKind.THREAD_BINDING

    tvm_ffi.structural_walk(statement, [(tirx.For, see)], order="post")
    return found


def _bound(tag: str, body: Any) -> Any:
    one, zero = tirx.const(1, "int64"), tirx.const(0, "int64")
    axis = tirx.IterVar(None, tirx.Var(tag.replace(".", "_"), "int64"), tirx.IterVar.ThreadIndex, tag)
    kind = tirx.ForKind.THREAD_BINDING
    return tirx.For(tirx.Var(tag[:-2], "int64"), zero, one, kind, body, thread_binding=axis)
