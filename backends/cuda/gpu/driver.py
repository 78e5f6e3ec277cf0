"""The GPUs that the driver knows of, asked from libcuda itself: TVM can't answer where its CUDA runtime doesn't load."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from graphopt.errors import DeviceError

LEAST_VERSION = 13000
"""CUDA version that a driver has to support: that of the runtime library TVM is built with."""
_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
_MAJOR, _MINOR = 75, 76
_HINT = "nvidia-smi shows whether the system sees a GPU; inside a container, start it with access to the GPUs"


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        sm: compute capability, as in ``sm_80``.
    """

    index: int
    name: str
    sm: int

    def __str__(self) -> str:
        return f"cuda:{self.index} ({self.name}, sm_{self.sm})"


@dataclass(frozen=True)
class Driver:
    """What the driver says.

    Attributes:
        version: the newest CUDA that it supports, as in 13000 for 13.0.
    """

    version: int
    gpus: tuple[Gpu, ...]


@lru_cache(maxsize=1)
def driver() -> Driver | None:
    """The driver of this machine; None where there is none that answers."""
    library = _library()
    if library is None:
        return None
    try:
        version, count = ctypes.c_int(), ctypes.c_int()
        initialised = library.cuInit(0) == 0
        if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
        if not initialised or library.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return Driver(version.value, ())
        found = [_gpu(library, index) for index in range(count.value)]
        return Driver(version.value, tuple(gpu for gpu in found if gpu is not None))
    except AttributeError:  # a stub library without these symbols
        return None


def gpu_at(index: int) -> Gpu:
    """The GPU of that number.

    Raises:
        DeviceError: no driver, one that is too old, no GPU, or fewer.
    """
    found = driver()
    if found is None:
        raise DeviceError("there is no CUDA driver on this machine", code="no-cuda-driver", hint=_HINT)
    if not found.gpus:
        raise DeviceError("the CUDA driver finds no GPU on this machine", code="no-gpu", hint=_HINT)
    if found.version < LEAST_VERSION:
        raise DeviceError(
            f"the driver supports CUDA {_shown(found.version)}; compiled models need {_shown(LEAST_VERSION)}",
            code="driver-too-old",
            hint="install a newer driver: 580 or later",
        )
    if not 0 <= index < len(found.gpus):
        listed = ", ".join(map(str, found.gpus))
        raise DeviceError(f"there is no GPU cuda:{index} on this machine", code="no-gpu", hint=f"there are {listed}")
    return found.gpus[index]


def _library() -> Any:
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _gpu(library: Any, index: int) -> Gpu | None:
    device, value, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    if library.cuDeviceGet(ctypes.byref(device), index) != 0:
        return None
    numbers = []
    for attribute in (_MAJOR, _MINOR):
        if library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) != 0:
            return None
        numbers.append(value.value)
    library.cuDeviceGetName(name, len(name), device)
    return Gpu(index, name.value.decode(errors="replace"), numbers[0] * 10 + numbers[1])


def _shown(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
