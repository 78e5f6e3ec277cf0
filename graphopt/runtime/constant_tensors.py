"""Constants of a model as tensors that kernels read."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
"""Bytes on which kernels expect their operands to start."""


def constant_tensor(array: npt.NDArray[Any], device: Any) -> Any:
    """A tensor on the array's own memory, such as a mapped file, where kernels can read it there; else a copy.

    Args:
        array: must outlive the tensor.
        device: TVM device.
    """
    import tvm
    import tvm_ffi

    on_host = device.dlpack_device_type() == tvm.cpu().dlpack_device_type()
    plain = array.dtype.kind in "iuf" and array.dtype.isbuiltin == 1 and array.flags.c_contiguous
    if not (on_host and plain and array.size and array.ctypes.data % ALIGNMENT == 0):
        return tvm.runtime.tensor(array, device=device)
    # DLPack exports nothing read-only, and mapped constants are; kernels don't write to them.
    memory = (ctypes.c_ubyte * array.nbytes).from_address(array.ctypes.data)
    return tvm_ffi.from_dlpack(np.frombuffer(memoryview(memory), array.dtype).reshape(array.shape))
