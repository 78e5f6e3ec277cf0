"""Tensors in the memory of a device, in the form that libraries hand them to one another (DLPack, dlpack.h).

What a caller passes is read from its capsule. What kernels get is made anew on the same memory: with the element type that they
know (bfloat16 travels as 16 bits) and the place of the first element in the address, as they take no offsets.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

_NAME = b"dltensor"
_KINDS = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
_NAMED = {
    "bfloat16": (4, 16),
    "float8_e4m3fn": (10, 8),
    "float8_e4m3fnuz": (11, 8),
    "float8_e5m2": (12, 8),
    "float8_e5m2fnuz": (13, 8),
}
"""Types that numpy doesn't have itself."""
_NUMPY = {
    **{(code, 8 * size): np.dtype(f"{kind}{size}") for kind, code in _KINDS.items() for size in (1, 2, 4, 8)
       if kind in "iu" or (kind == "f" and size > 1) or (kind == "c" and size == 8)},
    (5, 64): np.dtype(np.complex64),
    (5, 128): np.dtype(np.complex128),
    (6, 8): np.dtype(np.bool_),
    **{numbers: np.dtype(getattr(ml_dtypes, name)) for name, numbers in _NAMED.items()},
}  # fmt: skip
_NUMBERS = {dtype: numbers for numbers, dtype in _NUMPY.items()}


class _Tensor(ctypes.Structure):
    """``DLTensor``."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    """``DLManagedTensor``. Without a deleter: whoever makes one keeps the memory."""

    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


@dataclass(frozen=True)
class Seen:
    """A tensor that somebody else owns.

    Attributes:
        address: of the first element.
        dtype: None for a type that numpy has no name for.
        device: type and number.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    device: tuple[int, int]
    contiguous: bool

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * (self.dtype.itemsize if self.dtype is not None else 0)


def seen(capsule: object) -> Seen:
    """What is in a capsule that ``__dlpack__`` returned; the capsule stays its maker's.

    Raises:
        ValueError: it is no such capsule.
    """
    place = _pointer_of(capsule, _NAME)
    tensor = _Managed.from_address(place).tensor
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else None
    dtype = _NUMPY.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    return Seen(
        (tensor.data or 0) + tensor.byte_offset,
        shape,
        dtype,
        (tensor.device_type, tensor.device_id),
        strides is None or _is_contiguous(shape, strides),
    )


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for extent, stride in zip(reversed(shape), reversed(strides)):
        if extent != 1 and stride != expected:
            return 0 in shape
        expected *= extent
    return True


class Borrowed:
    """Memory of a device as TVM's tensor; whoever holds this keeps the memory.

    Args:
        address: of the first element.
        shape: of a contiguous tensor.
        dtype: element type.
        device: type and number, as DLPack has them.

    Attributes:
        tensor: for kernels. It must not outlive this object.
    """

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: tuple[int, int]) -> None:
        import tvm_ffi

        self._shape = (ctypes.c_int64 * max(len(shape), 1))(*shape)
        self._strides = (ctypes.c_int64 * max(len(shape), 1))(*_strides(shape))
        code, bits = _NUMBERS[dtype]
        tensor = _Tensor(address, *device, len(shape), code, bits, 1, self._shape, self._strides, 0)
        self._managed = _Managed(tensor, None, None)
        self.tensor: Any = tvm_ffi.from_dlpack(_new_capsule(ctypes.addressof(self._managed), _NAME, None))


def _strides(shape: tuple[int, ...]) -> list[int]:
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return strides
