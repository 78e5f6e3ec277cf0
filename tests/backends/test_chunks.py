"""Parallel loops cut into chunks: what is computed, and what the pool is told."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import tirx

from graphopt.backends.build.chunks import CHUNK_NS, LARGEST_COUNT, chunk_count, with_duration
from graphopt.backends.build.kernel_object import KernelSource, compile_kernel
from graphopt.backends.build.link import find_linker
from graphopt.backends.build.pool import pool_objects
from graphopt.backends.build.shared_library import link_objects
from graphopt.backends.targets.grammar import parse_target

_CHUNK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int32)
_FOR = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int32, _CHUNK, ctypes.c_void_p)


@pytest.mark.parametrize(
    ("duration", "threads", "count"),
    [
        (None, 2, 8), (1, 2, 2), (CHUNK_NS, 3, 3), (10 * CHUNK_NS, 4, 12), (10 * CHUNK_NS + 1, 4, 12),
        (10**12, 2, LARGEST_COUNT), (1, 1, 1),
    ],
)  # fmt: skip
def test_number_of_chunks(duration: int | None, threads: int, count: int) -> None:
    assert chunk_count(duration, threads) == count


def test_kernels_of_about_the_same_duration_stay_equal() -> None:
    function = _scaled(8)
    assert tvm_ffi.structural_equal(with_duration(function, 1.1e-5), with_duration(function, 1.2e-5))
    assert not tvm_ffi.structural_equal(with_duration(function, 1.1e-5), with_duration(function, 1.2e-3))


def _scaled(extent: int | str, first: int = 0, dtype: str = "int64") -> Any:
    """``B[i] += 2 * A[i]`` for ``first <= i < first + extent``, the loop in a branch and in another loop of two iterations."""
    n = tirx.Var("n", "int64") if isinstance(extent, str) else extent + first
    a, b = tirx.decl_buffer((n,), "float32", "A"), tirx.decl_buffer((n,), "float32", "B")
    i, again = tirx.Var("i", dtype), tirx.Var("again", "int32")
    value = tirx.BufferLoad(b, [i]) + tirx.BufferLoad(a, [i]) * tirx.const(2.0, "float32")
    many = n - first if isinstance(extent, str) else tirx.const(extent, dtype)
    loop = tirx.For(i, tirx.const(first, dtype), many, tirx.ForKind.PARALLEL, tirx.BufferStore(b, value, [i]))
    branch = tirx.IfThenElse(tirx.BufferLoad(a, [tirx.const(0, "int64")]) < tirx.const(1e9, "float32"), loop, None)
    two = tirx.const(2, "int32")
    outer = tirx.For(again, tirx.const(0, "int32"), two, tirx.ForKind.SERIAL, branch)
    function = tirx.PrimFunc([a, b], outer).with_attr("global_symbol", "scaled")
    return function.with_attr("s_tir", True)


def _loaded(function: Any, folder: Path, threads: int) -> tuple[Any, ctypes.CDLL]:
    target = parse_target("native", threads)
    source = KernelSource.of("scaled", function)
    assert source is not None
    path = folder / "library.so"
    link_objects([compile_kernel(source, target), *pool_objects(target.triple)], path, find_linker(target))
    return tvm_ffi.load_module(str(path), keep_module_alive=False), ctypes.CDLL(str(path))


def _record(library: ctypes.CDLL, order: Callable[[int], list[int]]) -> tuple[list[int], Any]:
    """The numbers of chunks that loops are started with; each chunk runs once, in ``order(number)``."""
    seen: list[int] = []

    @_FOR
    def parallel_for(_: Any, chunks: int, chunk: Any, context: Any) -> int:
        seen.append(chunks)
        return sum(abs(chunk(context, i)) for i in order(chunks))

    library.graphopt_set_parallel_for(parallel_for, None)
    return seen, parallel_for


@pytest.mark.parametrize("extent", [0, 1, 2, 5, 8, 97, 1000])
@pytest.mark.parametrize("symbolic", [False, True])
def test_chunks_cover_the_loop(tmp_path: Path, extent: int, symbolic: bool) -> None:
    first = 3
    function = _scaled("n" if symbolic else extent, first)
    module, library = _loaded(function, tmp_path, 2)
    a = np.arange(extent + first, dtype=np.float32) + 1
    expected = np.where(np.arange(extent + first) < first, 0, 4 * a)
    for order in (lambda n: list(range(n)), lambda n: list(range(n))[::-1]):
        seen, keep = _record(library, order)
        b = np.zeros_like(a)
        module["scaled"](tvm.runtime.tensor(a), out := tvm.runtime.tensor(b))
        assert np.array_equal(out.numpy(), expected)
        assert set(seen) <= {max(min(extent, 8), 1)}, "4 chunks for each thread where the duration is unknown"
        del keep
    library.graphopt_set_parallel_for(None, None)
    module["scaled"](tvm.runtime.tensor(a), out := tvm.runtime.tensor(np.zeros_like(a)))
    assert np.array_equal(out.numpy(), expected)


def test_duration_decides_the_number(tmp_path: Path) -> None:
    module, library = _loaded(with_duration(_scaled(1000, dtype="int32"), 20 * CHUNK_NS * 1e-9), tmp_path, 2)
    seen, _keep = _record(library, lambda n: list(range(n)))
    a = np.ones(1000, np.float32)
    module["scaled"](tvm.runtime.tensor(a), out := tvm.runtime.tensor(np.zeros_like(a)))
    assert np.array_equal(out.numpy(), 4 * a)
    assert seen == [36, 36], "2 ** 20 ns, that is 35 chunks, rounded up to a multiple of the threads"
    library.graphopt_set_parallel_for(None, None)


def test_failure_of_a_chunk_is_an_error(tmp_path: Path) -> None:
    module, library = _loaded(_scaled(100), tmp_path, 2)

    @_FOR
    def fails(_: Any, chunks: int, chunk: Any, context: Any) -> int:
        return 1

    library.graphopt_set_parallel_for(fails, None)
    a = np.ones(100, np.float32)
    with pytest.raises(RuntimeError, match="a part of a parallel loop failed"):
        module["scaled"](tvm.runtime.tensor(a), tvm.runtime.tensor(a))
    library.graphopt_set_parallel_for(None, None)
