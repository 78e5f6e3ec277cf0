"""What one run of a model needs for itself: a virtual machine, planned buffers, copies of inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from graphopt.backends.base.loaded_module import LoadedModule

COPIED_BYTES = 8 << 10
"""Inputs up to this size are copied: that takes no longer than handing their memory over."""


class Arena:
    """Runs a model, one run at a time.

    Args:
        loaded: the model's code.
        constants: tensors that follow the inputs; not copied.

    Attributes:
        observer: see `observe`.

    Raises:
        Exception: of any class, as TVM raises it.
    """

    def __init__(self, loaded: LoadedModule, constants: Sequence[Any]) -> None:
        import tvm
        import tvm_ffi

        self._device = loaded.device
        self._on_host = self._device.dlpack_device_type() == tvm.cpu().dlpack_device_type()
        self._tensor = tvm.runtime.tensor
        self._empty = tvm.runtime.empty
        self._borrow = tvm_ffi.from_dlpack
        self._vm = loaded.vm()
        self.observer: Any = None
        # Constants and planned buffers are bound to the function once, so that calls don't pass them again.
        prepared = [self._without_offset(t) for t in self._vm["prepare"]()]
        self._vm.save_function("main", "run", *constants, *prepared)
        self._run = self._vm["run"]
        self._run.release_gil = True  # whatever TVM_FFI_RELEASE_GIL_BY_DEFAULT says: other threads go on meanwhile
        self._copies: list[tuple[Any, npt.NDArray[Any]] | None] = []

    def run(self, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Outputs of one run, in memory of their own.

        Raises:
            Exception: of any class, as TVM raises it.
        """
        results = self._run(*[self._input(i, a) for i, a in enumerate(inputs)])
        return [self._output(r) for r in results]

    def observe(self, observer: Any) -> None:
        """Have every call of the virtual machine announced to ``observer`` (None: to nobody). Not while it runs."""
        if observer is not self.observer:
            self._vm.set_instrument(observer)
            self.observer = observer

    def _without_offset(self, tensor: Any) -> Any:
        """The same memory with the tensor's offset in its data pointer, as kernels want it."""
        return self._borrow(np.from_dlpack(tensor))

    def _input(self, position: int, array: npt.NDArray[Any]) -> Any:
        """A tensor of the array: the array itself where that is cheaper and kernels can read it, else a copy kept here."""
        if not self._on_host:
            return self._tensor(array, device=self._device)
        if (
            array.nbytes > COPIED_BYTES and array.flags.aligned and array.flags.writeable
        ):  # DLPack exports nothing read-only
            return self._borrow(array)
        while position >= len(self._copies):
            self._copies.append(None)
        copy = self._copies[position]
        if copy is None or copy[1].shape != array.shape:
            tensor = self._empty(array.shape, str(array.dtype), self._device)
            copy = self._copies[position] = tensor, np.from_dlpack(tensor)
        copy[1][...] = array
        return copy[0]

    def _output(self, tensor: Any) -> npt.NDArray[Any]:
        return np.from_dlpack(tensor) if self._on_host else np.asarray(tensor.numpy())
