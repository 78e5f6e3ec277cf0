"""A loaded Relax VM with its constants and planned buffers: arrays in, arrays out."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.errors import DeviceError
from graphopt.runtime import refusals

ALIGNMENT = 64
"""Bytes on which kernels expect their operands to start."""


class Executor:
    """Runs a module of ``graphopt.backends.base.relax_emit`` on numpy arrays.

    Intermediate buffers are made once. Runs of several threads on one executor wait for each other: each run uses every core
    that the model was compiled for anyway.

    Args:
        vm: a ``relax.VirtualMachine``.
        constants: arrays that follow the inputs, kept on the device.
        device: TVM device; the CPU by default.
    """

    def __init__(self, vm: Any, constants: Sequence[npt.NDArray[Any]], device: Any | None = None) -> None:
        import tvm
        import tvm_ffi

        refusals.install()
        self._device = tvm.cpu() if device is None else device
        self._on_host = self._device.dlpack_device_type() == tvm.cpu().dlpack_device_type()
        self._tensor = tvm.runtime.tensor
        self._empty = tvm.runtime.empty
        self._borrow = tvm_ffi.from_dlpack
        self._vm = vm
        self._run = vm["main"]
        self._lock = threading.Lock()
        self._staging: dict[int, tuple[Any, npt.NDArray[Any]]] = {}
        self._constants = list(constants)  # their memory may be the kernels' operands
        self._fixed = [self._constant(np.asarray(c)) for c in constants]
        try:
            self._fixed += [self._without_offset(t) for t in vm["prepare"]()]
        except Exception as e:  # TVM raises any class
            raise _failure(e, "preparing the compiled model") from e

    def __call__(self, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Outputs of one run, in memory of their own.

        Args:
            inputs: contiguous arrays of the shapes and dtypes that the model was compiled for (see ``Signature.check``).

        Raises:
            InputError: a value that only run time knows does not fit the model.
            DeviceError: the virtual machine failed, or there is not enough memory.
        """
        with self._lock:
            args = [self._input(i, a) for i, a in enumerate(inputs)]
            refusals.forget()
            try:
                results = self._run(*args, *self._fixed)
            except Exception as e:  # TVM raises any class
                raise (refusals.waiting() or _failure(e, "running the compiled model")) from e
            return [self._output(r) for r in results]

    def _without_offset(self, tensor: Any) -> Any:
        """The same memory with the tensor's offset in its data pointer, as kernels want it."""
        return self._borrow(np.from_dlpack(tensor))

    def _constant(self, array: npt.NDArray[Any]) -> Any:
        """A tensor on the array's own memory, such as a mapped file, where kernels can read it there; else a copy."""
        plain = array.dtype.kind in "iuf" and array.dtype.isbuiltin == 1 and array.flags.c_contiguous
        if not (self._on_host and plain and array.size and array.ctypes.data % ALIGNMENT == 0):
            return self._tensor(array, device=self._device)
        # DLPack exports nothing read-only, and mapped constants are; kernels don't write to them.
        memory = (ctypes.c_ubyte * array.nbytes).from_address(array.ctypes.data)
        return self._borrow(np.frombuffer(memoryview(memory), array.dtype).reshape(array.shape))

    def _input(self, position: int, array: npt.NDArray[Any]) -> Any:
        """A tensor of the array: the array itself where kernels can read it, else a copy in memory that is kept for it."""
        if not self._on_host:
            return self._tensor(array, device=self._device)
        if array.flags.aligned and array.flags.writeable and array.size:  # DLPack exports nothing read-only
            return self._borrow(array)
        tensor, view = self._staging.get(position, (None, None))
        if view is None or view.shape != array.shape or view.dtype != array.dtype:
            tensor = self._empty(array.shape, str(array.dtype), self._device)
            view = np.from_dlpack(tensor)
            self._staging[position] = tensor, view
        np.copyto(view, array)
        return tensor

    def _output(self, tensor: Any) -> npt.NDArray[Any]:
        return np.from_dlpack(tensor) if self._on_host else np.asarray(tensor.numpy())


def _failure(error: Exception, doing: str) -> DeviceError:
    lines = [line for line in str(error).splitlines() if line.strip()]
    if any("bad_alloc" in line for line in lines) or isinstance(error, MemoryError):
        return DeviceError(
            f"{doing} failed: there is not enough memory", code="out-of-memory",
            hint="run it on smaller inputs, or on a machine with more memory",
        )  # fmt: skip
    return DeviceError(
        f"{doing} failed", code="run-failed", notes=lines[-1:],
        hint="run `graphopt check` on the model; if it fails there, please report it",
    )  # fmt: skip
