"""Where the buffers lie whose size follows from the extents of the inputs, for the extents that came last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.runtime.constant_tensors import ALIGNMENT
from graphopt.runtime.interpreter_lock import InterpreterLock

_KEPT = 8
"""Sets of extents whose tensors are kept: making them takes a few tenths of a microsecond for each buffer."""
_GROWTH = 1.5
"""More memory than was asked for, as sequences grow by one element at a time; the system gives it when it is used."""


@dataclass(frozen=True)
class Placement:
    """``main`` for inputs of some extents.

    Attributes:
        run: takes the inputs alone.
        lock: decides whether ``run`` keeps Python's lock.
        name: of ``run`` in the virtual machine.
    """

    run: Any
    lock: InterpreterLock
    name: str


class Placements:
    """Makes the model's function for the extents of given inputs: ``main`` with all buffers bound to it.

    There is one memory, of the largest size that was needed so far.

    Args:
        vm: the virtual machine, whose functions are those of ``graphopt.backends.program.relax_emit``.
        extents: an input and an axis, in turn: where the extents are found that decide sizes.
        fixed: arguments of ``main`` between the inputs and those that depend on extents.
        returns: whether ``main`` returns anything.
    """

    def __init__(self, vm: Any, extents: Sequence[int], fixed: Sequence[Any], returns: bool) -> None:
        import tvm_ffi

        self._shape = tvm_ffi.Shape
        self._borrow = tvm_ffi.from_dlpack
        self._vm, self._fixed, self._returns = vm, fixed, returns
        # The machine's own method makes tensors of numbers and arrays of shapes.
        self._save = vm.module["save_function"]
        self._places = list(zip(extents[::2], extents[1::2]))
        self._memory = np.empty(0, np.uint8)
        self._known: dict[tuple[int, ...], Placement] = {}
        self._names = [f"main in placement {i}" for i in range(_KEPT)]
        self._last: tuple[tuple[int, ...], Placement] | None = None

    @property
    def nbytes(self) -> int:
        """Size of the memory."""
        return self._memory.nbytes

    def of(self, inputs: Sequence[npt.NDArray[Any]]) -> Placement:
        """That for inputs of these extents; it holds until another one is asked for.

        Raises:
            Exception: of any class, as TVM raises it: extents don't fit the model, or there is no memory.
        """
        extents = tuple([inputs[i].shape[axis] for i, axis in self._places])
        if self._last is not None and self._last[0] == extents:
            return self._last[1]
        found = self._known.pop(extents, None)
        if found is None:
            found = self._placed(extents)
        self._known[extents] = found  # the last one at the end
        self._last = extents, found
        return found

    def _placed(self, extents: tuple[int, ...]) -> Placement:
        computed, sizes = self._vm["size"](self._shape(extents))
        bounds = [0, *accumulate(-(-int(size) // ALIGNMENT) * ALIGNMENT for size in sizes)]
        self._reserve(bounds[-1])
        slots = [self._borrow(self._memory[start:end]) for start, end in pairwise(bounds)]
        numbers = [*extents, *map(int, computed)]
        dims = self._shape(numbers)
        tensors = self._vm["place"](dims, *slots)
        if len(self._known) == _KEPT:
            oldest = next(iter(self._known))
            self._names.append(self._known.pop(oldest).name)
        name = self._names.pop()
        self._save("main", name, int(self._returns), *self._fixed, dims, *numbers, *tensors)
        run = self._vm[name]
        return Placement(run, InterpreterLock(run), name)

    def _reserve(self, nbytes: int) -> None:
        """Have at least so much memory; what lay in the old one is forgotten."""
        if nbytes <= self._memory.nbytes:
            return
        more = int(self._memory.nbytes * _GROWTH)
        self._last = None
        while self._known:
            name = self._known.popitem()[1].name
            self._save("layout", name, 0)  # the one before kept its tensors, and with them the memory
            self._names.append(name)
        self._memory = np.empty(0, np.uint8)
        try:
            self._memory = aligned_memory(max(nbytes, more))
        except MemoryError:
            self._memory = aligned_memory(nbytes)


def aligned_memory(size: int) -> npt.NDArray[np.uint8]:
    """Uninitialised memory that starts where kernels expect it."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]
