"""The generic GPU schedule: one thread an element, reductions serial in a register. Total over all kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dialect import CUDA_C
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cuda.elementwise import elementwise
from graphopt.backends.cuda.one_thread import in_one_thread
from graphopt.backends.tensors.loops import loop, seq, store_all
from graphopt.backends.tensors.reducers import REDUCERS
from graphopt.backends.tensors.schedule import Evaluate, Schedule
from graphopt.backends.tensors.tensor import Expr, Index, Scope, as_expr

THREADS = 256
"""Threads of a block: enough to hide latency on every architecture, few enough for any register use."""


class CudaSchedule(Schedule):
    """The schedule of GPUs: kernels can't call the process that launches them, nor choose among launches."""

    calls_back = picks_loops = merges_copies = False
    dialect = CUDA_C

    def nest(self, shape: tuple[Expr, ...], evaluate: Evaluate, caps: Caps) -> list[Any]:
        """A launch with a thread an element."""
        return _nest(shape, evaluate, caps)

    def serial(self, statements: Sequence[Any]) -> list[Any]:
        """A launch of one thread."""
        return in_one_thread(statements)


def _nest(shape: tuple[Expr, ...], evaluate: Evaluate, caps: Caps) -> list[Any]:
    """Statements that compute every element of a physical shape, the last axis along neighbouring threads."""
    index = tuple(0 if isinstance(d, int) and d == 1 else tirx.Var(f"p{a}", "int64") for a, d in enumerate(shape))
    if evaluate(index, lambda dt: tirx.const(0, dt)).reduction is None:
        return elementwise(shape, evaluate, caps)
    total: Expr = math.prod(shape) if all(isinstance(d, int) for d in shape) else _product(shape)
    threads = min(THREADS, caps.max_threads_per_block or THREADS)
    if isinstance(total, int):
        threads = min(threads, max(total, 1))
    block, thread = tirx.Var("block", "int64"), tirx.Var("thread", "int64")
    flat = block * threads + thread
    index: list[Expr] = []
    rest: Expr = flat
    for d in reversed(shape):
        if isinstance(d, int) and d == 1:
            index.append(0)
            continue
        index.append(tirx.floormod(rest, as_expr(d)))
        rest = tirx.floordiv(rest, as_expr(d))
    body = _element(tuple(reversed(index)), evaluate)
    blocks = -(-total // threads) if isinstance(total, int) else tirx.floordiv(total + (threads - 1), as_expr(threads))
    if not isinstance(total, int) or total % threads:
        body = tirx.IfThenElse(flat < as_expr(total), body, None)
    return [_bound(block, blocks, "blockIdx.x", _bound(thread, threads, "threadIdx.x", body))]


def _element(index: Index, evaluate: Evaluate) -> Any:
    probe = evaluate(index, lambda dt: tirx.const(0, dt))
    r = probe.reduction
    if r is None:
        return seq(store_all(evaluate(index, None)))
    acc = tirx.decl_buffer((1,), r.dtype, "acc", scope="local")
    zero = as_expr(0)
    ridx = tuple(tirx.Var(f"r{i}", "int64") if not _is_one(e) else 0 for i, e in enumerate(r.extents))
    with Scope() as scope:
        value = r.body(probe.logical, ridx)
    step = tirx.BufferStore(acc, REDUCERS[r.kind](tirx.BufferLoad(acc, [zero]), value), [zero])
    nest = seq([*scope.statements(), step])
    for var, extent in reversed(list(zip(ridx, r.extents))):
        if not _is_one(extent):
            nest = loop(var, extent, nest)
    finish = store_all(evaluate(index, lambda _: tirx.BufferLoad(acc, [zero])))
    return tirx.SeqStmt([tirx.AllocBuffer(acc), tirx.BufferStore(acc, r.init, [zero]), nest, *finish])


def _bound(var: Any, extent: Expr, tag: str, body: Any) -> Any:
    axis = tirx.IterVar(None, tirx.Var(tag.replace(".", "_"), "int64"), tirx.IterVar.ThreadIndex, tag)
    return tirx.For(var, as_expr(0), as_expr(extent), tirx.ForKind.THREAD_BINDING, body, thread_binding=axis)


def _product(shape: tuple[Expr, ...]) -> Expr:
    total: Expr = tirx.const(1, "int64")
    for d in shape:
        total = total * d
    return total


def _is_one(extent: Expr) -> bool:
    return isinstance(extent, int) and extent == 1
