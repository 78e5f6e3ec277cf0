"""A device with memory of its own, as running a model on it sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

FAILED = "cuda-failed"
"""Code of errors that name a failure of the device's own library."""


class CapturedWork(ABC):
    """Work on a device that was recorded and can be started as a whole; its memory must stay where it was."""

    @abstractmethod
    def launch(self, stream: int) -> None:
        """Start it on a stream; returns before it is done.

        Raises:
            DeviceError: the device refuses.
        """

    @abstractmethod
    def close(self) -> None:
        """Release it. Not while it runs."""


class Marker(ABC):
    """A place on a stream that others can wait for."""

    @abstractmethod
    def record(self, stream: int) -> None:
        """Move it to where the stream is now."""

    @abstractmethod
    def wait(self, stream: int) -> None:
        """What is put on ``stream`` from now on begins when all before the marker is done."""

    @abstractmethod
    def synchronise(self) -> None:
        """Wait here until all before the marker is done.

        Raises:
            DeviceError: some of it failed.
        """


class Accelerator(ABC):
    """One device. Streams are handles of the device's own kind, as integers; 0 is its default one.

    Attributes:
        index: among the devices of its kind.
        name: as in ``cuda:0``.
        description: for messages: the name, and what the device is.
        dlpack: type and index, as DLPack numbers them.
        alignment: bytes on which kernels expect operands to start.
    """

    index: int
    name: str
    description: str
    dlpack: tuple[int, int]
    alignment: int

    @property
    @abstractmethod
    def tvm_device(self) -> Any:
        """TVM's object for it."""

    @abstractmethod
    def free_memory(self) -> tuple[int, int]:
        """Bytes that are free, and all that there are."""

    @abstractmethod
    def current(self) -> AbstractContextManager[None]:
        """Within it, this is the calling thread's device."""

    @abstractmethod
    def running_on(self, stream: int) -> AbstractContextManager[None]:
        """Within it, what TVM starts from the calling thread goes to that stream."""

    @abstractmethod
    def copy_in(self, target: int, source: npt.NDArray[Any], stream: int) -> None:
        """Copy a contiguous array to an address of the device, in order with the stream; the array may be changed afterwards."""

    @abstractmethod
    def copy_out(self, target: npt.NDArray[Any], source: int, stream: int) -> None:
        """Copy from an address of the device into a contiguous array; it is there once the stream is synchronised."""

    @abstractmethod
    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy so many bytes on the device."""

    @abstractmethod
    def synchronise(self, stream: int) -> None:
        """Wait until everything on the stream is done.

        Raises:
            DeviceError: some of it failed.
        """

    @abstractmethod
    def new_marker(self) -> Marker:
        """A marker that nothing waits for yet."""

    @abstractmethod
    def device_of_stream(self, stream: int) -> int | None:
        """Index of the device that a stream belongs to; None where that can't be found out."""

    @abstractmethod
    def new_stream(self) -> int:
        """A stream that waits for no other."""

    @abstractmethod
    def delete_stream(self, stream: int) -> None:
        """Delete what `new_stream` made."""

    @abstractmethod
    def capture(self, stream: int, work: Callable[[], None]) -> CapturedWork:
        """Record what ``work`` puts on the stream, instead of doing it.

        Raises:
            DeviceError: something in it can't be recorded.
        """

    @contextmanager
    def ready(self, stream: int) -> Iterator[None]:
        """This is the calling thread's device, and that the stream it works on."""
        with self.current(), self.running_on(stream):
            yield


def bytes_of(array: npt.NDArray[Any]) -> int:
    """Address of a contiguous array's first byte."""
    return int(np.asarray(array).ctypes.data)
