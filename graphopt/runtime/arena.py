"""What one run of a model needs for itself: a virtual machine, planned buffers, copies of inputs."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graphopt.runtime import freed_memory
from graphopt.runtime.interpreter_lock import SHORT_S, InterpreterLock
from graphopt.runtime.placements import Bound, Placements, aligned_memory

if TYPE_CHECKING:
    from graphopt.backends.build.loaded_module import LoadedModule

COPIED_BYTES = 8 << 10
"""Inputs up to this size are copied: that takes no longer than handing their memory over."""
_BOUND = "main in its arena"
"""Name of the bound function; none of the module can have one with spaces."""
_SHAPES = 16
"""Shapes of inputs and results, above one each, after which runs may have allocated too much."""


class Arena:
    """Runs a model, one run at a time.

    Args:
        loaded: the model's code, see ``graphopt.backends.program.relax_emit``.
        constants: tensors that follow the inputs; not copied.
        states: memory of each state of a model that has some, see ``graphopt.runtime.session``.

    Attributes:
        observer: see `observe`.

    Raises:
        Exception: of any class, as TVM raises it.
    """

    def __init__(
        self, loaded: LoadedModule, constants: Sequence[Any], states: Sequence[npt.NDArray[np.uint8]] = ()
    ) -> None:
        import tvm
        import tvm_ffi

        self._device = loaded.device
        self._on_host = self._device.dlpack_device_type() == tvm.cpu().dlpack_device_type()
        self._to_device = tvm.runtime.tensor
        self._empty = tvm.runtime.empty
        self._borrow = tvm_ffi.from_dlpack
        self._vm = loaded.vm()
        self.observer: Any = None
        sizes, places, *extents = self._vm["layout"]()
        self._planned_bytes = sum(map(int, sizes))
        memory = [self._borrow(aligned_memory(int(size))) for size in sizes]
        prepared = [np.from_dlpack(t) for t in self._vm["prepare"](*memory)]
        self._results = [prepared[place - 1] if place else None for place in map(int, places)]
        self._planned = [result for result in self._results if result is not None]
        returned = len(self._results) - len(self._planned)
        self._returns_any, self._returns_several = returned > 0, returned > 1
        # Constants and planned buffers are bound to the function once, so that calls don't pass them again. The arrays have the
        # tensors' offsets in their pointers, as kernels want it.
        fixed = [*constants, *map(self._borrow, prepared)]
        self._placements: Placements | None = None
        if extents:
            slots, *places = map(int, extents[0])
            lodgers = [int(n) for part in extents[1:] for n in part]
            self._placements = Placements(self._vm, slots, places, fixed, states, lodgers)
        else:
            self._vm.save_function("main", _BOUND, *fixed, include_return=returned > 0)
            self._bound = Bound(InterpreterLock(self._vm[_BOUND]))
        self._arguments: list[Any] = []
        self._copies: list[npt.NDArray[Any] | None] = []
        self._shapes: set[tuple[int, tuple[int, ...]]] = set()
        self._most_shapes = 0
        self._large: dict[int, tuple[Any, npt.NDArray[Any]]] = {}

    @property
    def nbytes(self) -> int:
        """Size of the planned buffers, those included that depended on the extents of inputs so far."""
        return self._planned_bytes + (0 if self._placements is None else self._placements.nbytes)

    def run(self, inputs: Sequence[npt.NDArray[Any]], length: int | None = None) -> list[npt.NDArray[Any]]:
        """Outputs of one run, in memory of their own.

        Args:
            length: of the states before the run.

        Raises:
            Exception: of any class, as TVM raises it.
        """
        kept, copies = self._arguments, self._copies
        if len(kept) != len(inputs):
            kept[:] = copies[:] = [None] * len(inputs)
            self._most_shapes = len(inputs) + len(self._results) + _SHAPES
        arguments = kept
        for i, array in enumerate(inputs):
            copy = copies[i]
            if copy is not None and copy.shape == array.shape:
                copy[...] = array
            else:
                if arguments is kept:
                    arguments = kept.copy()  # which keeps what is not copied for no longer than the run
                arguments[i] = self._argument(i, array)
        if self._placements is None:
            bound = self._bound
        else:
            self._placements.length = length
            bound = self._placements.of(inputs, arguments)
        lock = bound.lock
        start = perf_counter()
        result = bound.call(*bound.first, *arguments)
        seconds = perf_counter() - start
        if seconds >= SHORT_S or not lock.kept:
            lock.note(seconds)
        outputs = []
        if not self._returns_any:
            for planned in self._planned:  # comprehensions are calls, which take longer than this loop
                outputs.append(planned.copy())
            return outputs
        returned = iter(result if self._returns_several else (result,))
        return [self._owned(-i, next(returned)) if r is None else r.copy() for i, r in enumerate(self._results, 1)]

    def observe(self, observer: Any) -> None:
        """Have every call of the virtual machine announced to ``observer`` (None: to nobody). Not while it runs."""
        if observer is not self.observer:
            self._vm.set_instrument(observer)
            self.observer = observer

    def _argument(self, position: int, array: npt.NDArray[Any]) -> Any:
        """A tensor of an array: of its own memory where that is cheaper and kernels can read it, else of a copy."""
        if not self._on_host:
            return self._to_device(array, device=self._device)
        self._note(position, array.shape)
        self._arguments[position] = self._copies[position] = None
        small = array.nbytes <= COPIED_BYTES
        if not small and array.flags.aligned and array.flags.writeable:  # DLPack exports nothing read-only
            return self._borrow(array)
        tensor, copy = self._large.get(position, (None, None))
        if copy is None or copy.shape != array.shape:
            if array.size:
                copy = np.empty(array.shape, array.dtype)
                tensor = self._borrow(copy)
            else:  # made by TVM, as numpy has other strides for what has no elements
                tensor = self._empty(array.shape, str(array.dtype), self._device)
                copy = np.from_dlpack(tensor)
        copy[...] = array
        if small:
            self._arguments[position], self._copies[position] = tensor, copy
        else:
            self._large[position] = tensor, copy
        return tensor

    def _owned(self, position: int, tensor: Any) -> npt.NDArray[Any]:
        """The array of a tensor that the run has allocated."""
        array = np.from_dlpack(tensor) if self._on_host else np.asarray(tensor.numpy())
        self._note(position, array.shape)
        return array

    def _note(self, position: int, shape: tuple[int, ...]) -> None:
        """Count shapes, which decide how much memory runs allocate."""
        self._shapes.add((position, shape))
        if len(self._shapes) > self._most_shapes:
            self._shapes.clear()
            freed_memory.release_if_grown()
