"""Kernels that do nothing useful at full speed: what the machine can reach with code of the kind that templates emit.

The streams are those of McCalpin's STREAM benchmark (1995), cut into one contiguous chunk a thread; the scaled copy stands for
its copy, which LLVM would turn into a library call. Stores are plain ones, so a written line is read first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import IRBuilder
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.register_tile import ON_STACK
from graphopt.backends.specs.types import SINGLE

STREAMS = ("read", "write", "copy", "triad")
_UNROLL = 4
"""Vectors a step of a stream: enough independent loads or sums to cover their latency."""
STEP = 6 * _UNROLL
"""Vectors that halves and thirds of which are whole steps."""


def fma_chains(caps: Caps) -> int:
    """Independent accumulators: more than latency times throughput of any current core, all in registers."""
    return 12 if caps.vector_registers < 32 else 24


def fma_flops(caps: Caps, steps: int, threads: int) -> int:
    """Operations of one call of `emit_fma`."""
    return 2 * SINGLE.lanes(caps) * fma_chains(caps) * steps * threads


def emit_fma(caps: Caps, steps: int, threads: int) -> Any:
    """``fma(seed: (2, lanes), out: (threads, chains, lanes))``: ``x = x * seed[0] + seed[1]``, ``steps`` times for every chain."""
    lanes, chains = SINGLE.lanes(caps), fma_chains(caps)

    def body(seed: Any, out: Any) -> None:
        with _threads(threads) as thread:
            registers = T.alloc_buffer((chains, lanes), SINGLE.sum, scope="local", annotations=ON_STACK)
            with T.unroll(0, chains) as c, T.vectorized(0, lanes) as lane:
                T.buffer_store(registers, seed[1, lane], [c, lane])
            with T.serial(0, steps), T.unroll(0, chains) as c, T.vectorized(0, lanes) as lane:
                T.buffer_store(registers, registers[c, lane] * seed[0, lane] + seed[1, lane], [c, lane])
            with T.unroll(0, chains) as c, T.vectorized(0, lanes) as lane:
                T.buffer_store(out, registers[c, lane], [thread, c, lane])

    return _function("fma", [("seed", (2, lanes)), ("out", (threads, chains, lanes))], body)


def stream_bytes(kind: str, elements: int) -> int:
    """Bytes that one pass of `emit_stream` reads and writes together, float32: those of every stream are the whole buffer."""
    streams = {"read": 1, "write": 1, "copy": 2, "triad": 3}[kind]
    return 4 * (elements // streams) * streams


def emit_stream(kind: str, caps: Caps, elements: int, threads: int, passes: int = 1) -> Any:
    """``stream(data: (elements,), out: (threads, 4, lanes))``: passes over ``data``, a chunk of it a thread.

    Args:
        kind: one of ``STREAMS``. A copy scales one half into the other; a triad sums two thirds into the last.
        elements: float32 in ``data``, a multiple of ``STEP`` vectors a thread.
        passes: over the same data, for sizes that stay in a cache.
    """
    lanes = SINGLE.lanes(caps)
    part = {"read": 1, "write": 1, "copy": 2, "triad": 3}[kind]
    chunk = elements // threads
    share = chunk // part
    block = _UNROLL * lanes
    if elements % (STEP * lanes * threads):
        raise ValueError(f"{elements} elements are no multiple of {STEP * lanes * threads}")

    def body(data: Any, out: Any) -> None:
        with _threads(threads) as thread:
            sums = T.alloc_buffer((_UNROLL, lanes), SINGLE.sum, scope="local", annotations=ON_STACK)
            with T.unroll(0, _UNROLL) as u, T.vectorized(0, lanes) as lane:
                T.buffer_store(sums, out[thread, u, lane], [u, lane])
            first = thread * chunk
            with T.serial(0, passes) as step, T.serial(0, share // block) as i:
                with T.unroll(0, _UNROLL) as u, T.vectorized(0, lanes) as lane:
                    at = first + i * block + u * lanes + lane
                    if kind == "read":
                        T.buffer_store(sums, sums[u, lane] + data[at], [u, lane])
                    elif kind == "write":
                        T.buffer_store(data, sums[u, lane], [at])
                    elif kind == "copy":
                        T.buffer_store(data, data[at] * sums[u, lane], [at + share])
                    else:
                        T.buffer_store(data, data[at] + data[at + share] * sums[u, lane], [at + 2 * share])
                del step
            with T.unroll(0, _UNROLL) as u, T.vectorized(0, lanes) as lane:
                T.buffer_store(out, sums[u, lane], [thread, u, lane])

    return _function("stream", [("data", (elements,)), ("out", (threads, _UNROLL, lanes))], body)


def _threads(count: int) -> Any:
    return T.serial(0, 1) if count == 1 else T.parallel(0, count)


def _function(name: str, parameters: list[tuple[str, tuple[int, ...]]], body: Callable[[Any, Any], None]) -> Any:
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "global_symbol": name})
        body(*(T.arg(label, T.buffer(shape, SINGLE.sum)) for label, shape in parameters))
    return builder.get()
