"""Launches: a body run by all threads of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.loops import seq
from graphopt.backends.tensors.tensor import Expr, as_expr

THREADS = 256
"""Threads of a block: enough to hide latency on every architecture, few enough for any register use."""


def launch(block: Any, blocks: Expr, thread: Any, threads: int, body: Any) -> Any:
    """The statement that runs ``body`` on ``blocks`` blocks of ``threads`` threads, numbered by the variables given."""
    return _bound(block, blocks, "blockIdx.x", _bound(thread, threads, "threadIdx.x", body))


def positions() -> tuple[Any, Any]:
    """Variables for `launch`: of a block in its grid and of a thread in its block."""
    return tirx.Var("block", "int64"), tirx.Var("thread", "int64")


def side_by_side(launches: Sequence[Any]) -> Any:
    """One launch in place of several that don't depend on one another: each has a run of its blocks."""
    block, thread = positions()
    threads = max(int(inner.extent.value) for inner in (outer.body for outer in launches))
    first: Expr = 0
    parts = []
    for outer in launches:
        inner, extent = outer.body, _plain(outer.extent)
        own = seq([tirx.Bind(outer.loop_var, block - first), tirx.Bind(inner.loop_var, thread), inner.body])
        if int(inner.extent.value) < threads:
            own = tirx.IfThenElse(thread < inner.extent, own, None)
        first = first + extent
        parts.append((first, own))
    statement = parts[-1][1]
    for end, own in reversed(parts[:-1]):
        statement = tirx.IfThenElse(block < as_expr(end), own, statement)
    return launch(block, first, thread, threads, statement)


def is_launch(statement: Any) -> bool:
    """Whether a statement is what `launch` makes."""
    bound = tirx.ForKind.THREAD_BINDING
    return isinstance(statement, tirx.For) and statement.kind == bound and isinstance(statement.body, tirx.For)


def _plain(extent: Any) -> Expr:
    return int(extent.value) if isinstance(extent, tirx.IntImm) else extent


def barrier() -> Any:
    """The statement at which all threads of a block wait for one another."""
    return tirx.Evaluate(tirx.call_extern("void", "__syncthreads"))


def per_thread(count: Expr, threads: int = THREADS) -> tuple[Expr, int]:
    """Blocks, and threads of each, of a grid with at least ``count`` threads; few threads make one small block."""
    if isinstance(count, int):
        threads = min(threads, max(count, 1))
        return -(-count // threads), threads
    return tirx.floordiv(count + (threads - 1), as_expr(threads)), threads


def _bound(var: Any, extent: Expr, tag: str, body: Any) -> Any:
    axis = tirx.IterVar(None, tirx.Var(tag.replace(".", "_"), "int64"), tirx.IterVar.ThreadIndex, tag)
    return tirx.For(var, as_expr(0), as_expr(extent), tirx.ForKind.THREAD_BINDING, body, thread_binding=axis)
