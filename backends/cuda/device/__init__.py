"""CUDA C that kernels call: what stands in front of every source that is compiled."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

_FILES = ("lanes.cuh", "primitives.cuh", "chunks.cuh", "slices.cuh", "values.cuh", "memory.cuh", "threads.cuh")
_PREFIX = "gopt_"


@lru_cache(maxsize=1)
def device_source() -> str:
    """The device functions, to be put in front of what TVM generates."""
    folder = files(__name__)
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in _FILES)


def with_device_functions(source: str) -> str:
    """``source`` behind the device functions, if it calls any."""
    return device_source() + source if _PREFIX in source else source
