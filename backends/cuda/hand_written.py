"""Hand-written stages on a GPU: loops whose iterations are independent by a thread an iteration, all else by one thread.

One thread is slow, but every operator then works on every target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.backends.base.tvm_api import tirx, tvm_ffi
from graphopt.backends.cuda.addresses import index_of
from graphopt.backends.cuda.grid import launch, per_thread, positions
from graphopt.backends.tensors.index import product
from graphopt.backends.tensors.loops import seq
from graphopt.backends.tensors.tensor import Expr, as_expr

_INDEPENDENT = "iterations are independent"


def independent(variables: Sequence[Any], extents: Sequence[Expr], body: Any) -> Any:
    """A loop over all positions that `launches` gives a thread each."""
    flat = tirx.Var("flat", "int64")
    bound = [tirx.Bind(v, as_expr(i)) for v, i in zip(variables, index_of(flat, list(extents)))]
    loop = tirx.For(flat, as_expr(0), as_expr(product(extents)), tirx.ForKind.PARALLEL, seq([*bound, body]))
    return tirx.AttrStmt(tirx.const(0, "int32"), _INDEPENDENT, tirx.const(1, "int32"), loop)


def launches(statements: Sequence[Any]) -> list[Any]:
    """The same statements for a GPU.

    Loops that launch threads inside stay on the host, which then launches a kernel an iteration.
    """
    if any(_launches(s) for s in statements):
        return list(statements)
    if all(isinstance(s, tirx.For) or _is_independent(s) for s in statements):
        return [_by_threads(s.body) if _is_independent(s) else _by_one_thread(s) for s in statements]
    return [_by_one_thread(seq(statements))]


def _is_independent(statement: Any) -> bool:
    return isinstance(statement, tirx.AttrStmt) and str(statement.attr_key) == _INDEPENDENT


def _by_threads(loop: Any) -> Any:
    block, thread = positions()
    blocks, threads = per_thread(_plain(loop.extent))
    body = seq([tirx.Bind(loop.loop_var, block * threads + thread), _serial(loop.body)])
    return launch(block, blocks, thread, threads, tirx.IfThenElse(block * threads + thread < loop.extent, body, None))


def _by_one_thread(statement: Any) -> Any:
    block, thread = positions()
    return launch(block, 1, thread, 1, _serial(statement))


def _plain(extent: Any) -> Expr:
    return int(extent.value) if isinstance(extent, tirx.IntImm) else extent


def _serial(statement: Any) -> Any:
    """The statement without loops that other threads would run, and without what marks them."""

    def loop(node: Any) -> Any:
        if node.kind not in (tirx.ForKind.PARALLEL, tirx.ForKind.VECTORIZED):
            return node
        return tirx.For(node.loop_var, node.min, node.extent, tirx.ForKind.SERIAL, node.body)

    def mark(node: Any) -> Any:
        return node.body if _is_independent(node) else node

    return tvm_ffi.structural_map(statement, [(tirx.For, loop), (tirx.AttrStmt, mark)])


def _launches(statement: Any) -> bool:
    found = False

    def see(loop: Any) -> None:
        nonlocal found
        found = found or loop.kind == tirx.ForKind.THREAD_BINDING

    tvm_ffi.structural_walk(statement, [(tirx.For, see)], order="post")
    return found
