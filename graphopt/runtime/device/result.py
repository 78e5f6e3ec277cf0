"""What a model returns that ran on a device: tensors in its memory, perhaps not computed yet."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.accelerator import Accelerator, Marker

_DEFAULT = 0


class DeviceTensor:
    """A result of a model, for any library that takes DLPack: ``torch.from_dlpack(y)``, ``cupy.from_dlpack(y)``, ...

    Its memory is used again when nobody holds it any more, so hold it until work of other streams that reads it is done.

    Attributes:
        shape, dtype: as numpy has them.
        device: as in ``cuda:0``.
    """

    def __init__(
        self, tensor: Any, dtype: np.dtype[Any], accelerator: Accelerator, done: Marker, held: object = None
    ) -> None:
        self._tensor = tensor
        self._accelerator = accelerator
        self._done = done
        self._held = held  # what else keeps the memory
        self.shape: tuple[int, ...] = tuple(map(int, tensor.shape))
        self.dtype = dtype
        self.device = accelerator.name

    def __repr__(self) -> str:
        return f"DeviceTensor({self.dtype}{list(self.shape)} on {self.device})"

    @property
    def data_ptr(self) -> int:
        """Address of the first element in the device's memory."""
        return int(self._tensor.data_ptr())

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def numpy(self) -> npt.NDArray[Any]:
        """A copy on the host, once it is computed.

        Raises:
            DeviceError: computing it failed.
        """
        array = np.empty(self.shape, self.dtype)
        with self._accelerator.current():  # not on the run's stream, which may be gone
            self._done.wait(_DEFAULT)
            self._accelerator.copy_out(array, self.data_ptr, _DEFAULT)
            self._accelerator.synchronise(_DEFAULT)
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """As `numpy`.

        Raises:
            ValueError: a copy was forbidden.
        """
        if copy is False:
            raise ValueError("an array on the host is a copy of a tensor on a device")
        return self.numpy().astype(dtype or self.dtype, copy=False)

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's type and number of the device."""
        return self._accelerator.dlpack

    def __dlpack__(self, *, stream: int | None = None, **options: Any) -> Any:
        """A capsule of it.

        Args:
            stream: the consumer's, which waits until the tensor is computed; None is the default stream, -1 doesn't wait.
            options: ``max_version``, ``dl_device``, ``copy`` of the protocol.
        """
        if stream != -1:
            with self._accelerator.current():
                self._done.wait(_DEFAULT if stream in (None, 1) else int(stream))
        return self._tensor.__dlpack__(**options)
