"""Launches: a body run by all threads of a grid."""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.tensor import Expr, as_expr

THREADS = 256
"""Threads of a block: enough to hide latency on every architecture, few enough for any register use."""


def launch(block: Any, blocks: Expr, thread: Any, threads: int, body: Any) -> Any:
    """The statement that runs ``body`` on ``blocks`` blocks of ``threads`` threads, numbered by the variables given."""
    return _bound(block, blocks, "blockIdx.x", _bound(thread, threads, "threadIdx.x", body))


def positions() -> tuple[Any, Any]:
    """Variables for `launch`: of a block in its grid and of a thread in its block."""
    return tirx.Var("block", "int64"), tirx.Var("thread", "int64")


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
