"""A GPU through CUDA's runtime library."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy.typing as npt

from graphopt.backends.base.accelerator import FAILED, Accelerator, CapturedWork, Marker, bytes_of
from graphopt.backends.cuda.gpu.driver import gpu_at
from graphopt.backends.cuda.gpu.libraries import cudart, load_tvm_cuda
from graphopt.errors import DeviceError

_DLPACK_CUDA = 2
_TO_DEVICE, _TO_HOST, _ON_DEVICE = 1, 2, 3
_NON_BLOCKING = 1
_NO_TIMING = 2
_RELAXED = 2
"""Capture mode in which other threads, and allocations of this one, go on as ever."""
_DEFAULT_STREAMS = (0, 1, 2)


class CudaAccelerator(Accelerator):
    """The GPU of that index.

    Raises:
        DeviceError: it isn't there, or what running on it takes; see `gpu_at` and `load_tvm_cuda`.
    """

    alignment = 16

    def __init__(self, index: int) -> None:
        gpu = gpu_at(index)
        load_tvm_cuda()
        self.index = index
        self.name = f"cuda:{index}"
        self.description = str(gpu)
        self.dlpack = (_DLPACK_CUDA, index)
        self.library = cudart()

    @property
    def tvm_device(self) -> Any:
        """``tvm.cuda(index)``."""
        from graphopt.backends.base.tvm_runtime import tvm

        return tvm.cuda(self.index)

    def free_memory(self) -> tuple[int, int]:
        """As the driver counts it for all processes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        with self.current():
            self.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    @contextmanager
    def current(self) -> Iterator[None]:
        """As frameworks in this process have their own choice, it is put back."""
        before = ctypes.c_int()
        self.call("cudaGetDevice", ctypes.byref(before))
        if before.value == self.index:
            yield
            return
        self.call("cudaSetDevice", self.index)
        try:
            yield
        finally:
            self.call("cudaSetDevice", before.value)

    def running_on(self, stream: int) -> AbstractContextManager[None]:
        """Through the stream that tvm_ffi keeps for each thread and device."""
        from graphopt.backends.base.tvm_runtime import tvm_ffi

        context: AbstractContextManager[None] = tvm_ffi.use_raw_stream(tvm_ffi.device("cuda", self.index), stream)
        return context

    def copy_in(self, target: int, source: npt.NDArray[Any], stream: int) -> None:
        """CUDA takes the content of ordinary host memory before the call returns."""
        self._copy(target, bytes_of(source), source.nbytes, _TO_DEVICE, stream)

    def copy_out(self, target: npt.NDArray[Any], source: int, stream: int) -> None:
        """Into ordinary host memory."""
        self._copy(bytes_of(target), source, target.nbytes, _TO_HOST, stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Within the GPU."""
        self._copy(target, source, size, _ON_DEVICE, stream)

    def synchronise(self, stream: int) -> None:
        """Errors of kernels show here."""
        self.call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def new_marker(self) -> Marker:
        """A CUDA event."""
        return _Event(self)

    def device_of_stream(self, stream: int) -> int | None:
        """CUDA 12.8 and later know."""
        if stream in _DEFAULT_STREAMS or not hasattr(self.library, "cudaStreamGetDevice"):
            return None
        found = ctypes.c_int()
        self.call("cudaStreamGetDevice", ctypes.c_void_p(stream), ctypes.byref(found))
        return found.value

    def new_stream(self) -> int:
        """One that doesn't wait for the default stream."""
        stream = ctypes.c_void_p()
        with self.current():
            self.call("cudaStreamCreateWithFlags", ctypes.byref(stream), _NON_BLOCKING)
        return int(stream.value or 0)

    def delete_stream(self, stream: int) -> None:
        """CUDA waits for what is on it."""
        self.call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def capture(self, stream: int, work: Callable[[], None]) -> CapturedWork:
        """A CUDA graph."""
        handle, graph, executable = ctypes.c_void_p(stream), ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cudaStreamBeginCapture", handle, _RELAXED)
        try:
            work()
        except BaseException:
            # ends the capture whatever came of it; what was recorded is dropped
            if self.library.cudaStreamEndCapture(handle, ctypes.byref(graph)) == 0 and graph.value:
                self.library.cudaGraphDestroy(graph)
            self.library.cudaGetLastError()
            raise
        self.call("cudaStreamEndCapture", handle, ctypes.byref(graph))
        try:
            self.call("cudaGraphInstantiate", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        finally:
            self.call("cudaGraphDestroy", graph)
        return _CudaGraph(self, int(executable.value or 0))

    def _copy(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        if size:
            places = ctypes.c_void_p(target), ctypes.c_void_p(source)
            self.call("cudaMemcpyAsync", *places, ctypes.c_size_t(size), kind, ctypes.c_void_p(stream))

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function of CUDA's runtime.

        Raises:
            DeviceError: it fails; CUDA's name for the failure is in the message.
        """
        status = getattr(self.library, function)(*arguments)
        if status == 0:
            return
        self.library.cudaGetLastError()  # else the next one who asks takes it for its own
        name = self._text("cudaGetErrorName", status)
        raise DeviceError(
            f"{self.name}: {self._text('cudaGetErrorString', status)} ({name}, from {function})",
            code=FAILED,
        )

    def _text(self, function: str, status: int) -> str:
        find = getattr(self.library, function)
        find.restype = ctypes.c_char_p
        return str((find(status) or b"unknown error").decode(errors="replace"))


class _Event(Marker):
    """An event, destroyed with this object; CUDA keeps what still waits for it."""

    def __init__(self, owner: CudaAccelerator) -> None:
        event = ctypes.c_void_p()
        with owner.current():
            owner.call("cudaEventCreateWithFlags", ctypes.byref(event), _NO_TIMING)
        self._owner, self._event = owner, event
        weakref.finalize(self, owner.library.cudaEventDestroy, event).atexit = False

    def record(self, stream: int) -> None:
        """``cudaEventRecord``."""
        self._owner.call("cudaEventRecord", self._event, ctypes.c_void_p(stream))

    def wait(self, stream: int) -> None:
        """``cudaStreamWaitEvent``."""
        self._owner.call("cudaStreamWaitEvent", ctypes.c_void_p(stream), self._event, 0)

    def synchronise(self) -> None:
        """``cudaEventSynchronize``."""
        self._owner.call("cudaEventSynchronize", self._event)


class _CudaGraph(CapturedWork):
    def __init__(self, owner: CudaAccelerator, executable: int) -> None:
        self._owner = owner
        self._executable = ctypes.c_void_p(executable)

    def launch(self, stream: int) -> None:
        """``cudaGraphLaunch``."""
        self._owner.call("cudaGraphLaunch", self._executable, ctypes.c_void_p(stream))

    def close(self) -> None:
        """``cudaGraphExecDestroy``."""
        if self._executable.value:
            self._owner.call("cudaGraphExecDestroy", self._executable)
            self._executable = ctypes.c_void_p()
