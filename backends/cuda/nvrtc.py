"""CUDA C to machine code (a cubin) without a GPU or driver: by NVRTC from pip, or by nvcc.

TVM's own driver of these compilers isn't used: it always turns fast math on, is steered by environment variables, and
without a driver on the machine TVM silently leaves CUDA source in place of machine code.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal

from graphopt.backends.base.scratch import scratch_folder
from graphopt.backends.cuda.device import with_device_functions
from graphopt.errors import CompileError

Compiler = Literal["nvrtc", "nvcc"]

_HINT = 'pip install "graphopt[cuda]" brings NVRTC, or put nvcc on PATH'
_TIMEOUT_S = 600
_UNDEFINE = [
    "-U__CUDA_NO_HALF_OPERATORS__",
    "-U__CUDA_NO_HALF_CONVERSIONS__",
    "-U__CUDA_NO_BFLOAT16_OPERATORS__",
    "-U__CUDA_NO_BFLOAT16_CONVERSIONS__",
    "-U__CUDA_NO_BFLOAT162_OPERATORS__",
    "-U__CUDA_NO_BFLOAT162_CONVERSIONS__",
]
# What TVM's source takes from headers of the host's C library, which NVRTC doesn't read.
_NVRTC_PREAMBLE = """\
#include <cuda/std/cstdint>
#include <cuda/std/limits>
using cuda::std::uint8_t;
using cuda::std::uint16_t;
using cuda::std::uint32_t;
using cuda::std::uint64_t;
using cuda::std::int8_t;
using cuda::std::int16_t;
using cuda::std::int32_t;
using cuda::std::int64_t;
#ifndef INFINITY
#define INFINITY (::cuda::std::numeric_limits<float>::infinity())
#endif
#ifndef NAN
#define NAN (::cuda::std::numeric_limits<float>::quiet_NaN())
#endif
"""
# TVM reads a value's bits as another type through its address, which a constant doesn't have.
_BITS_BY_ADDRESS = re.compile(r"\*\((\w+) \*\)\(&\(")
_BITS_BY_VALUE = """\
template <typename To, typename From> static __device__ __forceinline__ To graphopt_bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  return *reinterpret_cast<To*>(&value);
}
"""


def available_compilers() -> list[Compiler]:
    """The compilers that this machine has, the preferred one first."""
    found: list[Compiler] = []
    if _include_folders() and _has_nvrtc():
        found.append("nvrtc")
    if shutil.which("nvcc"):
        found.append("nvcc")
    return found


def compile_cubin(source: str, arch: str, compiler: Compiler | None = None, *, fast_math: bool = False) -> bytes:
    """Compile CUDA C to a cubin.

    Args:
        source: CUDA C.
        arch: real architecture, as in ``sm_80``.
        compiler: by default the first of `available_compilers`.
        fast_math: approximate division, square root and transcendental functions, and flush denormals; off by default.

    Raises:
        CompileError: no compiler, or the source doesn't compile; the compiler's output is in the notes.
    """
    present = available_compilers()
    if (compiler is None and not present) or (compiler is not None and compiler not in present):
        raise CompileError(
            f"no CUDA compiler on this machine (looked for {compiler or 'NVRTC and nvcc'})",
            code="no-cuda-compiler",
            hint=_HINT,
        )
    options = [*_UNDEFINE, *(["--use_fast_math"] if fast_math else [])]
    chosen = compiler or present[0]
    source = complete_source(source)
    cubin = _nvrtc(source, arch, options) if chosen == "nvrtc" else _nvcc(source, arch, options)
    if not cubin.startswith(b"\x7fELF"):
        raise CompileError(f"{chosen} returned something other than machine code", code="cuda-compile-failed")
    return cubin


def complete_source(source: str) -> str:
    """What TVM generated, with all that it needs to be compiled: the very text that compilers and the tests' simulator get."""
    return with_device_functions(bits_by_value(source))


def bits_by_value(source: str) -> str:
    """The source with a function where TVM takes a value's bits through its address: what it simplified to a constant has none."""
    changed, count = _BITS_BY_ADDRESS.subn(r"graphopt_bits_as<\1>((", source)
    if not count:
        return source
    # below the includes and macros that the source begins with, above the first declaration
    head, kernels, rest = changed.partition('extern "C"')
    return head + _BITS_BY_VALUE + kernels + rest


def _has_nvrtc() -> bool:
    try:
        return importlib.util.find_spec("cuda.bindings.nvrtc") is not None
    except ModuleNotFoundError:
        return False


def _include_folders() -> list[Path]:
    """Folders of CUDA's headers: those of the pip packages, else those of a toolkit."""
    roots: list[Path] = []
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations or () if spec else ():
        roots += sorted(Path(place).glob("cu[0-9]*/include"), reverse=True)
    nvcc = shutil.which("nvcc")
    toolkits = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), nvcc and str(Path(nvcc).resolve().parents[1])]
    roots += [Path(toolkit) / "include" for toolkit in toolkits if toolkit]
    for root in roots:
        cccl = root / "cccl"
        if (root / "cuda_fp16.h").is_file() and ((cccl / "cuda" / "std").is_dir() or (root / "cuda" / "std").is_dir()):
            return [root, cccl] if cccl.is_dir() else [root]
    return []


def _failed(compiler: str, log: str) -> CompileError:
    lines = [line for line in log.splitlines() if line.strip()]
    return CompileError(
        f"{compiler} rejected the generated CUDA source",
        code="cuda-compile-failed",
        notes=([line for line in lines if "error" in line] or lines)[:20],
        hint="this is likely a bug of graphopt: please report it with the model",
    )


def _nvrtc(source: str, arch: str, options: list[str]) -> bytes:
    nvrtc = importlib.import_module("cuda.bindings.nvrtc")

    def call(function: Any, *arguments: Any) -> Any:
        status, *results = function(*arguments)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise CompileError(f"NVRTC: {function.__name__} failed with {status.name}", code="cuda-compile-failed")
        return results[0] if results else None

    try:
        program = call(nvrtc.nvrtcCreateProgram, (_NVRTC_PREAMBLE + source).encode(), b"kernels.cu", 0, None, None)
    except RuntimeError as error:  # cuda-bindings found no libnvrtc
        raise CompileError(f"NVRTC could not be loaded: {error}", code="no-cuda-compiler", hint=_HINT) from error
    try:
        includes = [f"-I{folder}" for folder in _include_folders()]
        arguments = [
            f"--gpu-architecture={arch}",
            "-default-device",
            "--device-int128",
            "--std=c++17",
            *includes,
            *options,
        ]
        # Silences host-only deprecation macros that the small-float headers use without including their definition.
        arguments += [
            f"-D__NV_SILENCE_{side}DEPRECATION_{edge}=" for side in ("", "HOST_") for edge in ("BEGIN", "END")
        ]
        encoded = [argument.encode() for argument in arguments]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = bytearray(call(nvrtc.nvrtcGetProgramLogSize, program))
            call(nvrtc.nvrtcGetProgramLog, program, log)
            raise _failed("NVRTC", log.decode(errors="replace").rstrip("\0"))
        cubin = bytearray(call(nvrtc.nvrtcGetCUBINSize, program))
        call(nvrtc.nvrtcGetCUBIN, program, cubin)
        return bytes(cubin)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _nvcc(source: str, arch: str, options: list[str]) -> bytes:
    virtual = arch.replace("sm_", "compute_")
    with scratch_folder() as folder:
        text, cubin = folder / "kernels.cu", folder / "kernels.cubin"
        text.write_text(source)
        command = ["nvcc", "--cubin", "-O3", "--std=c++17", "-gencode", f"arch={virtual},code={arch}", *options]
        command += ["--expt-relaxed-constexpr", "-o", str(cubin), str(text)]
        environment = {**os.environ, "TMPDIR": str(folder)}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=environment, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompileError(f"nvcc could not be run: {error}", code="cuda-compile-failed", hint=_HINT) from error
        if done.returncode != 0:
            raise _failed("nvcc", done.stderr + done.stdout)
        return cubin.read_bytes()
