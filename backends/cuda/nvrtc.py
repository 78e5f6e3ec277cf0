"""CUDA C to machine code (a cubin) or PTX without a GPU or driver: by NVRTC from pip, or by nvcc.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from graphopt.backends.base.scratch import scratch_folder
from graphopt.backends.cuda.device import with_device_functions
from graphopt.backends.cuda.headers import HEADERS, PREAMBLE
from graphopt.errors import CompileError

Compiler = Literal["nvrtc", "nvcc"]

_HINT = 'pip install "graphopt[cuda]" brings NVRTC, or put nvcc on PATH'
_TIMEOUT_S = 600
OPTIONS = (
    "--std=c++17",
    # Kernels are compiled side by side, on all CPUs. The code is the same for any number of them, but is another one without.
    "--split-compile=0",
    "-U__CUDA_NO_HALF_OPERATORS__",
    "-U__CUDA_NO_HALF_CONVERSIONS__",
    "-U__CUDA_NO_BFLOAT16_OPERATORS__",
    "-U__CUDA_NO_BFLOAT16_CONVERSIONS__",
    "-U__CUDA_NO_BFLOAT162_OPERATORS__",
    "-U__CUDA_NO_BFLOAT162_CONVERSIONS__",
)
"""Options of both compilers."""
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


@dataclass(frozen=True)
class DeviceCode:
    """What a compiler made of CUDA C.

    Attributes:
        arch: what it is for: ``sm_80`` of machine code, ``compute_80`` of PTX.
        content: a cubin, or PTX text.
        log: what ptxas said of each kernel; see `graphopt.backends.cuda.resources`. Empty of PTX.
    """

    arch: str
    content: bytes
    log: str


def compile_code(source: str, arch: str, compiler: Compiler | None = None, *, fast_math: bool = False) -> DeviceCode:
    """Compile CUDA C to machine code or PTX. The same call makes the same bytes, on any number of CPUs.

    Args:
        source: CUDA C as TVM generates it.
        arch: real architecture, as in ``sm_80``, for machine code; a virtual one, as in ``compute_80``, for PTX.
        compiler: by default the first of `available_compilers`.
        fast_math: approximate division, square root and transcendental functions, and flush denormals; off by default.

    Raises:
        CompileError: no compiler, it knows no such architecture, or the source doesn't compile; the compiler's output is in the
            notes.
    """
    chosen = chosen_compiler(compiler)
    options = [*OPTIONS, *(["--use_fast_math"] if fast_math else [])]
    compiled = (_nvrtc if chosen == "nvrtc" else _nvcc)(complete_source(source), arch, options)
    if not compiled.content.startswith(b"\x7fELF") and not is_virtual(arch):
        raise CompileError(f"{chosen} returned something other than machine code", code="cuda-compile-failed")
    return compiled


def compile_cubin(source: str, arch: str, compiler: Compiler | None = None, *, fast_math: bool = False) -> bytes:
    """The cubin alone; arguments and errors as in `compile_code`."""
    return compile_code(source, arch, compiler, fast_math=fast_math).content


def is_virtual(arch: str) -> bool:
    """Whether code for it is PTX."""
    return arch.startswith("compute_")


def chosen_compiler(wanted: Compiler | None = None) -> Compiler:
    """``wanted`` if this machine has it, by default the preferred one.

    Raises:
        CompileError: it hasn't.
    """
    present = available_compilers()
    if (wanted is None and not present) or (wanted is not None and wanted not in present):
        raise CompileError(
            f"no CUDA compiler on this machine (looked for {wanted or 'NVRTC and nvcc'})",
            code="no-cuda-compiler",
            hint=_HINT,
        )
    return wanted or present[0]


@cache
def compiler_identity(compiler: Compiler) -> str:
    """A text that differs where the compiler or its headers do; raises CompileError where it can't be run."""
    if compiler == "nvcc":
        return _run_nvcc(["--version"])
    packages = ("nvidia-cuda-nvrtc", "nvidia-cuda-runtime", "nvidia-cuda-cccl", "nvidia-cuda-crt", "cuda-bindings")
    found = [f"{p} {metadata.version(p)}" for p in packages if importlib.util.find_spec("nvidia") and _installed(p)]
    version = _call(_bindings().nvrtcVersion)
    return f"nvrtc {version}, {', '.join(found) or _include_folders()}"


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


def _bindings() -> Any:
    return importlib.import_module("cuda.bindings.nvrtc")


def _installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def _call(function: Any, *arguments: Any) -> Any:
    """Result of a function of NVRTC, several as a tuple."""
    try:
        status, *results = function(*arguments)
    except RuntimeError as error:  # cuda-bindings found no libnvrtc
        raise CompileError(f"NVRTC could not be loaded: {error}", code="no-cuda-compiler", hint=_HINT) from error
    if status != _bindings().nvrtcResult.NVRTC_SUCCESS:
        raise CompileError(f"NVRTC: {function.__name__} failed with {status.name}", code="cuda-compile-failed")
    return tuple(results) if len(results) > 1 else results[0] if results else None


def _text(size: Any, read: Any, program: Any) -> bytes:
    content = bytearray(_call(size, program))
    _call(read, program, content)
    return bytes(content)


def _nvrtc(source: str, arch: str, options: Sequence[str]) -> DeviceCode:
    nvrtc = _bindings()
    known = _call(nvrtc.nvrtcGetSupportedArchs)
    number = int(re.sub(r"\D", "", arch))
    if number not in known:
        raise CompileError(
            f"NVRTC {'.'.join(map(str, _call(nvrtc.nvrtcVersion)))} makes no code for {arch}",
            code="cuda-compile-failed",
            hint=f"it knows {', '.join(f'sm_{sm}' for sm in known)}",
        )
    names, texts = ([part.encode() for part in side] for side in (HEADERS, HEADERS.values()))
    full = (PREAMBLE + source).encode()
    program = _call(nvrtc.nvrtcCreateProgram, full, b"kernels.cu", len(names), texts, names)
    try:
        arguments = [f"--gpu-architecture={arch}", "-default-device", "--device-int128", "--disable-warnings", *options]
        arguments += [f"-I{folder}" for folder in _include_folders()]
        if not is_virtual(arch):
            arguments.append("--ptxas-options=-v")
        # Silences host-only deprecation macros that the small-float headers use without including their definition.
        arguments += [
            f"-D__NV_SILENCE_{side}DEPRECATION_{edge}=" for side in ("", "HOST_") for edge in ("BEGIN", "END")
        ]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(arguments), [a.encode() for a in arguments])
        log = (
            _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode(errors="replace").rstrip("\0")
        )
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise _failed("NVRTC", log)
        if is_virtual(arch):
            return DeviceCode(arch, _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program).rstrip(b"\0"), "")
        return DeviceCode(arch, _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program), log)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _nvcc(source: str, arch: str, options: Sequence[str]) -> DeviceCode:
    with scratch_folder() as folder:
        text, code = folder / "kernels.cu", folder / "kernels.code"
        text.write_text(source)
        if is_virtual(arch):
            how = ["--ptx", f"-arch={arch}"]
        else:
            virtual = arch.replace("sm_", "compute_")
            how = ["--cubin", "-gencode", f"arch={virtual},code={arch}", "-Xptxas", "-v"]
        command = [*how, "-O3", *options, "--expt-relaxed-constexpr", "-o", str(code), str(text)]
        log = _run_nvcc(command, {"TMPDIR": str(folder)})
        return DeviceCode(arch, code.read_bytes(), "" if is_virtual(arch) else log)


def _run_nvcc(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What nvcc prints."""
    try:
        done = subprocess.run(
            ["nvcc", *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(f"nvcc could not be run: {error}", code="cuda-compile-failed", hint=_HINT) from error
    if done.returncode != 0:
        raise _failed("nvcc", done.stderr + done.stdout)
    return done.stderr + done.stdout
