"""Where the buffers lie whose size follows from the extents of the inputs, for the extents that came last."""

from __future__ import annotations

from collections.abc import Sequence
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


class Bound:
    """``main`` with all arguments but the inputs.

    Args:
        lock: of the function, a ``tvm_ffi.Function`` that no other arena calls.
        first: what it takes before the inputs.
    """

    def __init__(self, lock: InterpreterLock, *first: Any) -> None:
        self.lock, self.call, self.first = lock, lock.function, first


class Placements:
    """Makes the model's function for the extents of given inputs: ``main`` with all buffers bound to it.

    There is one memory, of the largest size that was needed so far.

    Args:
        vm: the virtual machine, whose functions are those of ``graphopt.backends.program.relax_emit``.
        slots: how many memories ``place`` takes.
        extents: an input and an axis, in turn: where the extents are found that decide sizes.
        fixed: arguments of ``main`` between the inputs and those that depend on extents.
        states: memory of each state.
        lodgers: the memory of their own and the other one that further arguments of ``place`` may lie in, in turn.

    Attributes:
        length: of the states; counts as an extent.
    """

    def __init__(
        self,
        vm: Any,
        slots: int,
        extents: Sequence[int],
        fixed: Sequence[Any],
        states: Sequence[npt.NDArray[np.uint8]] = (),
        lodgers: Sequence[int] = (),
    ) -> None:
        import tvm_ffi

        self._borrow = tvm_ffi.from_dlpack
        self._vm, self._slots, self._fixed = vm, slots, fixed
        self._size, self._place = vm["size"], vm["place"]
        self._lock = InterpreterLock(vm.module["invoke_closure"])
        self._places = list(zip(extents[::2], extents[1::2]))
        self._lodgers = list(zip(lodgers[::2], lodgers[1::2]))
        self._shape = tvm_ffi.Shape
        self._states = [self._borrow(state) for state in states]
        self.length: int | None = None
        self._memory = np.empty(0, np.uint8)
        self._known: dict[tuple[int | None, ...], Bound] = {}
        self._last: tuple[tuple[int | None, ...], Bound] | None = None

    @property
    def nbytes(self) -> int:
        """Size of the memory."""
        return self._memory.nbytes

    def of(self, inputs: Sequence[npt.NDArray[Any]], arguments: Sequence[Any]) -> Bound:
        """That for inputs of these extents; it holds until another one is asked for.

        Args:
            arguments: tensors of the inputs.

        Raises:
            Exception: of any class, as TVM raises it: extents don't fit the model, or there is no memory.
        """
        count = len(inputs)
        extents = tuple([inputs[i].shape[axis] if i < count else self.length for i, axis in self._places])
        if self._last is not None and self._last[0] == extents:
            return self._last[1]
        found = self._known.pop(extents, None)
        if found is None:
            found = self._placed(arguments)
            if len(self._known) == _KEPT:
                del self._known[next(iter(self._known))]
        self._known[extents] = found  # the last one at the end
        self._last = extents, found
        return found

    def _placed(self, arguments: Sequence[Any]) -> Bound:
        lengths = [] if self.length is None else [self._shape((self.length,))]
        numbers = self._size(*lengths, *arguments)
        behind = len(numbers) - len(self._lodgers)
        sizes = numbers[behind - self._slots : behind]
        bounds = [0, *accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)]
        self._reserve(bounds[-1])
        slots = [self._borrow(self._memory[start:end]) for start, end in pairwise(bounds)]
        starts = bounds[:-1]
        for (own, other), place in zip(self._lodgers, numbers[behind:]):
            starts.append(starts[own] if place < 0 else starts[other] + place)
        lodgers = [self._borrow(self._memory[start : bounds[-1]]) for start in starts[self._slots :]]
        closure = self._place(numbers, *slots, *self._states, *lodgers, *self._fixed)
        return Bound(self._lock, closure)

    def _reserve(self, nbytes: int) -> None:
        """Have at least so much memory; what lay in the old one is forgotten."""
        if nbytes <= self._memory.nbytes:
            return
        more = int(self._memory.nbytes * _GROWTH)
        self._last = None
        self._known.clear()
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
