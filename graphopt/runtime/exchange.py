"""Arrays and tensors on the same memory, element types that numpy's side of DLPack doesn't know included."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def borrowed(array: npt.NDArray[Any]) -> Any:
    """A tensor on an array's memory, which must be writeable; the tensor keeps the array."""
    import tvm_ffi

    if array.dtype.isbuiltin == 1:
        return tvm_ffi.from_dlpack(array)
    bits = tvm_ffi.from_dlpack(array.view(f"u{array.dtype.itemsize}"))
    return bits._create_view(array.shape, array.dtype.name)


def shared(tensor: Any) -> npt.NDArray[Any]:
    """An array on a tensor's memory, which is the host's; the array keeps the tensor."""
    name = str(tensor.dtype)
    known = _OF_ITS_OWN.get(name)
    if known is None:
        return np.from_dlpack(tensor)
    bits = np.from_dlpack(tensor._create_view(tuple(tensor.shape), f"uint{8 * known.itemsize}"))
    return bits.view(known)


def _own_types() -> dict[str, np.dtype[Any]]:
    import ml_dtypes

    return {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


_OF_ITS_OWN = _own_types()
"""Types that numpy has from another package, by TVM's names."""
