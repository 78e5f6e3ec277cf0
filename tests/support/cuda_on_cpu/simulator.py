"""One kernel on numpy arrays: every access checked, in several orders of threads."""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.support.cuda_on_cpu.finding import SCHEDULES, Finding
from tests.support.cuda_on_cpu.toolchain import kernel_library, runtime

Array = npt.NDArray[Any]
_ALIGNMENT = 256
_MOST_PARAMETERS = 256


@dataclass(frozen=True)
class Counters:
    """What a launch did, in one order of threads.

    Attributes:
        blocks: blocks that ran.
        barriers: barriers of blocks, each counted once a block.
        warp_barriers: calls of ``__syncwarp``, once a warp.
        products: ``mma`` instructions, once a warp.
        matrix_loads: ``ldmatrix`` instructions, once a warp.
        matrix_conflicts: rows of ``ldmatrix`` that lie in the banks of another row of the same matrix.
        copies: asynchronous copies, of every thread.
        accesses: checked accesses to shared and global memory, of every thread.
        wide_accesses: those of 16 bytes.
    """

    blocks: int
    barriers: int
    warp_barriers: int
    products: int
    matrix_loads: int
    matrix_conflicts: int
    copies: int
    accesses: int
    wide_accesses: int


class Kernels:
    """The kernels of a CUDA source.

    Args:
        source: CUDA C; functions of ``primitives.cuh`` need no include.
        arch: compute capability times ten, which ``__CUDA_ARCH__`` says.
        checked: False runs several times faster and finds nothing but wrong results and threads that wait for ever.
        contract: whether products and sums may become fused multiply-adds.

    Raises:
        ToolError: the source doesn't compile.
    """

    def __init__(self, source: str, *, arch: int = 80, checked: bool = True, contract: bool = False) -> None:
        library = kernel_library(source, arch=arch, checked=checked, contract=contract)
        self._simulator = _simulator()
        self._image = self._simulator.sim_load(str(library).encode())
        if not self._image:
            raise _finding(self._simulator)
        self._source = source

    def launch(
        self,
        name: str,
        arguments: Sequence[Array | np.generic],
        *,
        grid: int | tuple[int, ...] = 1,
        block: int | tuple[int, ...] = 32,
        shared: int = 0,
        schedules: Sequence[int] = SCHEDULES,
    ) -> Counters:
        """Run a kernel; arrays are changed in place.

        Args:
            name: of the kernel.
            arguments: arrays for pointers, numpy scalars of the right type for others.
            grid: blocks along x, y, z.
            block: threads along x, y, z.
            shared: bytes of dynamic shared memory.
            schedules: orders of threads; arrays must come out with the same bits in all.

        Raises:
            Finding: what is wrong.
        """
        sizes = (ctypes.c_int * _MOST_PARAMETERS)()
        count = self._simulator.sim_parameters(self._image, name.encode(), sizes, _MOST_PARAMETERS)
        given = [8 if isinstance(a, np.ndarray) else a.itemsize for a in arguments]
        if count < 0:
            raise KeyError(f"no kernel {name}")
        if given != list(sizes[:count]):
            raise TypeError(f"{name} takes parameters of {list(sizes[:count])} bytes, not {given}")
        names = self._parameter_names(name, count)
        arrays = [a for a in arguments if isinstance(a, np.ndarray)]
        results: list[list[Array]] = []
        counters = None
        for schedule in schedules:
            copies = [_aligned(a) for a in arrays]
            with self._registered(copies, [n for n, a in zip(names, arguments) if isinstance(a, np.ndarray)]):
                self._run(name, arguments, copies, _three(grid), _three(block), shared, schedule)
            counters = counters or self._counters()
            results.append(copies)
        for schedule, other in zip(schedules[1:], results[1:]):
            for parameter, first, second in zip(names, results[0], other):
                if first.tobytes() != second.tobytes():
                    text = f"{name}: {parameter} has other bits in schedule {schedule} than in {schedules[0]}"
                    raise Finding("schedule", text)
        for array, result in zip(arrays, results[0]):
            array[...] = result
        assert counters is not None
        return counters

    def parameters(self, name: str) -> list[str]:
        """Names of a kernel's parameters."""
        sizes = (ctypes.c_int * _MOST_PARAMETERS)()
        return self._parameter_names(
            name, self._simulator.sim_parameters(self._image, name.encode(), sizes, _MOST_PARAMETERS)
        )

    def _run(
        self,
        name: str,
        arguments: Sequence[Array | np.generic],
        copies: list[Array],
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared: int,
        schedule: int,
    ) -> None:
        remaining = iter(copies)
        values: list[Array] = []
        for argument in arguments:
            is_array = isinstance(argument, np.ndarray)
            values.append(np.array(next(remaining).ctypes.data if is_array else argument))
        places = (ctypes.c_void_p * max(len(values), 1))(*(value.ctypes.data for value in values))
        self._counters()
        triple = ctypes.c_uint * 3
        if self._simulator.sim_launch(
            self._image, name.encode(), triple(*grid), triple(*block), shared, places, schedule
        ):
            raise _finding(self._simulator)

    @contextmanager
    def _registered(self, arrays: list[Array], names: list[str]) -> Iterator[None]:
        places = [array.ctypes.data for array in arrays]
        for place, array, name in zip(places, arrays, names):
            self._simulator.sim_allocate(place, array.nbytes, name.encode())
        try:
            yield
        finally:
            for place in places:
                self._simulator.sim_free(place)

    def _counters(self) -> Counters:
        values = (ctypes.c_long * 9)()
        self._simulator.sim_counters(values, 9)
        return Counters(*values)

    def _parameter_names(self, kernel: str, count: int) -> list[str]:
        found = re.search(rf"\b{kernel}\s*\(([^)]*)\)", self._source)
        names = [re.findall(r"\w+", part)[-1] for part in found[1].split(",")] if found and found[1].strip() else []
        return names if len(names) == count else [f"argument {i}" for i in range(count)]


@functools.cache
def _simulator() -> Any:
    library = ctypes.CDLL(str(runtime()), mode=os.RTLD_GLOBAL | os.RTLD_NOW)
    library.sim_load.restype = ctypes.c_void_p
    library.sim_finding_kind.restype = library.sim_finding_text.restype = ctypes.c_char_p
    library.sim_allocate.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_char_p]
    library.sim_free.argtypes = [ctypes.c_size_t]
    library.sim_parameters.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
    triple = ctypes.POINTER(ctypes.c_uint)
    library.sim_launch.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        triple,
        triple,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_uint,
    ]
    return library


def _finding(simulator: Any) -> Finding:
    return Finding(simulator.sim_finding_kind().decode(), simulator.sim_finding_text().decode(errors="replace"))


def _aligned(array: Array) -> Array:
    """A copy that begins where an allocation of a GPU might."""
    room = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _three(extent: int | tuple[int, ...]) -> tuple[int, int, int]:
    values = (extent,) if isinstance(extent, int) else extent
    x, y, z = (*values, 1, 1)[:3]
    return x, y, z
