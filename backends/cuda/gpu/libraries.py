"""CUDA's runtime library and TVM's part that calls it, found where pip puts them and loaded once."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Any

from graphopt.backends.cuda.gpu.driver import gpu_at
from graphopt.errors import DeviceError

CUDART = "libcudart.so.13"
_FOLDERS = ("nvidia/cu13/lib", "nvidia/cuda_runtime/lib", "torch/lib")
"""Of packages on PyPI, below a folder of modules."""
_TVM = "libtvm_runtime_cuda.so"
_REGISTERED = "device_api.cuda"


@cache
def cudart() -> Any:
    """CUDA's runtime library.

    Raises:
        DeviceError: no GPU to run on, or no such library.
    """
    gpu_at(0)
    tried = [CUDART, *(str(f) for p in sys.path for d in _FOLDERS if (f := Path(p, d, CUDART)).is_file())]
    for name in tried:
        try:
            # for all: TVM's library finds it by its name among those that are loaded
            return ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
        except OSError:
            continue
    raise DeviceError(
        f"CUDA's runtime library ({CUDART}) is not installed",
        code="no-cuda-runtime",
        hint='pip install "nvidia-cuda-runtime==13.*", or put the folder that holds it into LD_LIBRARY_PATH',
    )


@cache
def load_tvm_cuda() -> None:
    """Have TVM's CUDA runtime in this process: it doesn't load itself without CUDA's, nor in a runtime-only install.

    Raises:
        DeviceError: no GPU, or a library is missing.
    """
    from graphopt.backends.base.tvm_runtime import get_global_func, library_folder

    cudart()
    if get_global_func(_REGISTERED) is not None:
        return
    path = Path(library_folder(), _TVM)
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        raise DeviceError(
            f"TVM's CUDA runtime can't be loaded: {error}",
            code="no-cuda-runtime",
            hint="the apache-tvm package of Linux has it: pip install --force-reinstall apache-tvm==0.27.0.post1",
        ) from error
