"""Parallel loops cut into chunks, for the thread pool of compiled models (`graphopt.backends.build.pool`).

The last step before code generation replaces ``for i in parallel(0, extent)`` by a parallel loop over chunks with a serial loop
over one chunk inside. The number of chunks is a variable, and the first one that the parallel loop mentions: code generation
puts the variables that a loop captures into a structure in that order, so the pool finds the number at its beginning. With
TVM's own pool such a loop computes the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from graphopt.backends.base.tvm_api import tirx, tvm

DURATION = "graphopt.duration"
"""Attribute of a PrimFunc: nanoseconds that it is predicted to take on one thread."""
CHUNK_NS = 30_000
"""What a chunk should take: claiming one costs tens of nanoseconds, and a thread that loses its CPU holds one up."""
LARGEST_COUNT = 1024
UNKNOWN_PER_THREAD = 4
"""Chunks for each thread where nothing is known of a loop's duration."""


def with_duration(function: Any, seconds: float) -> Any:
    """The PrimFunc of a CPU with its predicted duration on one thread noted."""
    # A power of two, so that kernels of the same code stay equal when their predictions differ by little.
    return function.with_attr(DURATION, 1 << int(1e9 * seconds).bit_length())


def chunk_count(duration: int | None, threads: int) -> int:
    """How many chunks a loop should have at most.

    Args:
        duration: nanoseconds on one thread, None if not known.
        threads: that may take part.
    """
    if duration is None:
        return UNKNOWN_PER_THREAD * threads
    wanted = min(max(-(-duration // CHUNK_NS), threads), LARGEST_COUNT)
    return -(-wanted // threads) * threads


@cache
def chunked_pipeline(threads: int) -> str:
    """Name of TVM's default lowering pipeline with the loops of ``threads`` threads cut into chunks."""
    name = f"graphopt_{threads}"

    def pipeline() -> Any:
        lower, finalize_host, finalize_device = tirx.get_tir_pipeline("default")
        return tvm.transform.Sequential([lower, _chunk_pass(threads)]), finalize_host, finalize_device

    tirx.register_tir_pipeline(name, pipeline)
    return name


def _chunk_pass(threads: int) -> Any:
    def apply(module: Any, _: Any) -> Any:
        return tvm.IRModule({var: chunked(f, threads) for var, f in module.functions.items()}, attrs=module.attrs)

    return tvm.transform.module_pass(apply, opt_level=0, name="graphopt.ChunkLoops")


def chunked(function: Any, threads: int) -> Any:
    """A PrimFunc whose parallel loops, and those alone, are replaced.

    Args:
        function: as TVM lowers it.
        threads: that may take part in a loop.
    """
    found: list[Any] = []
    _each_parallel(function.body, found)
    if not found:
        return function
    attributes = function.attrs or {}
    duration = int(attributes[DURATION]) // len(found) if DURATION in attributes else None
    return function.with_body(_replaced(function.body, chunk_count(duration, threads)))


def _each_parallel(statement: Any, found: list[Any]) -> None:
    if isinstance(statement, tirx.For) and statement.kind == tirx.ForKind.PARALLEL:
        found.append(statement)
        return
    for child in _children(statement):
        _each_parallel(child, found)


def _children(statement: Any) -> list[Any]:
    if isinstance(statement, tirx.SeqStmt):
        return list(statement.seq)
    if isinstance(statement, tirx.IfThenElse):
        return [s for s in (statement.then_case, statement.else_case) if s is not None]
    if isinstance(statement, (tirx.For, tirx.AttrStmt, tirx.While)):
        return [statement.body]
    return []


def _replaced(statement: Any, most: int) -> Any:
    if isinstance(statement, tirx.SeqStmt):
        return tirx.SeqStmt([_replaced(s, most) for s in statement.seq])
    if isinstance(statement, tirx.IfThenElse):
        otherwise = None if statement.else_case is None else _replaced(statement.else_case, most)
        return tirx.IfThenElse(statement.condition, _replaced(statement.then_case, most), otherwise)
    if isinstance(statement, tirx.AttrStmt):
        return tirx.AttrStmt(statement.node, statement.attr_key, statement.value, _replaced(statement.body, most))
    if isinstance(statement, tirx.While):
        return tirx.While(statement.condition, _replaced(statement.body, most))
    if not isinstance(statement, tirx.For):
        return statement
    if statement.kind == tirx.ForKind.PARALLEL:
        return _in_chunks(statement, most)
    return tirx.For(
        statement.loop_var, statement.min, statement.extent, statement.kind, _replaced(statement.body, most),
        statement.thread_binding, statement.annotations, statement.step,
    )  # fmt: skip


def _in_chunks(loop: Any, most: int) -> Any:
    """Chunk c of n has ``extent // n`` iterations, the first ``extent % n`` chunks one more."""
    dtype = str(loop.loop_var.ty.dtype)

    def number(value: int) -> Any:
        return tirx.const(value, dtype)

    bindings: list[Any] = []

    def named(name: str, value: Any) -> Any:
        variable = tirx.Var(name, str(value.ty.dtype))
        bindings.append(tirx.Bind(variable, value))
        return variable

    extent = loop.extent
    if isinstance(extent, tirx.IntImm):
        n = max(min(int(extent), most), 1)
        count = named("chunks", tirx.const(n, "int32"))
        each, more = number(int(extent) // n), number(int(extent) % n)
    else:
        extent = named("extent", extent)
        wide = named("wide", tirx.max(tirx.min(extent, number(most)), number(1)))
        count = named("chunks", wide.astype("int32"))
        each, more = named("each", tirx.truncdiv(extent, wide)), named("more", tirx.truncmod(extent, wide))
    chunk = tirx.Var("chunk", "int32")
    position = chunk.astype(dtype)
    first = loop.min + position * each + tirx.min(position, more)
    size = each + (position < more).astype(dtype)
    inside = tirx.For(
        loop.loop_var, first, size, tirx.ForKind.SERIAL, loop.body, None, loop.annotations, loop.step
    )  # fmt: skip
    zero = tirx.const(0, "int32")
    return tirx.SeqStmt([*bindings, tirx.For(chunk, zero, count, tirx.ForKind.PARALLEL, inside)])
