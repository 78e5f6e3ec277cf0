"""The C++ side, compiled by zig's clang: the simulator, the driver's libraries, and kernels.

Everything is kept in one folder by the content it was made of, so that tests side by side, and the next session, find it again.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path

from graphopt.backends.cuda import device

HERE = Path(__file__).parent
RUNTIME = "libcuda_on_cpu.so"
MOST_KEPT = 1000
"""Libraries that stay in the folder."""
DRIVERS = ("libcuda.so.1", "libcudart.so.13")

_COMMON = [
    "-fPIC",
    "-std=c++17",
    "-march=native",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-stack-protector",
    "-fno-strict-aliasing",
]
_OF_RUNTIME = ["-O2", "-fno-sanitize=all", "-fno-threadsafe-statics", "-Wall", "-Wextra"]
_OF_KERNELS = [
    "-nostdinc",
    f"-I{HERE / 'include'}",
    "-fno-sanitize=undefined",
    "-Wno-everything",
    # float16 and bfloat16 round after every operation, as a GPU's do
    *("-Xclang", "-ffloat16-excess-precision=none", "-Xclang", "-fbfloat16-excess-precision=none"),
]
# The instrumentation of clang's thread sanitizer, without its runtime: shadow.cc defines what it calls. Accesses must keep the size
# that the source gives them (no vectorising), and reads that a write of the same place follows are wanted too.
_CHECKED = ["-O1", "-fsanitize=thread", "-fno-vectorize", "-fno-slp-vectorize"]
_CHECKED += [
    part for flag in ("func-entry-exit=0", "read-before-write=1") for part in ("-mllvm", f"-tsan-instrument-{flag}")
]
_UNCHECKED = ["-O2"]
_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\(\s*(\d+)[^)]*\)\s*)?(\w+)\s*\(')
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\(\s*\d+\s*\)\s+)?([\w ]+?)\s+(\w+)\[\];")


class ToolError(Exception):
    """The C++ compiler refuses a source; its output is the message."""


def folder() -> Path:
    """Where libraries are kept."""
    root = os.environ.get("CUDA_ON_CPU_CACHE") or Path(tempfile.gettempdir(), f"cuda_on_cpu-{os.getuid()}")
    path = Path(root)
    path.mkdir(parents=True, exist_ok=True)
    return path


@functools.cache
def runtime() -> Path:
    """The simulator's library; those of the driver are beside it."""
    sources = [*sorted(HERE.glob("runtime/*")), *sorted(HERE.glob("driver/*")), HERE / "include" / "interface.h"]

    def build(target: Path) -> None:
        core = _object(
            target, "core", [*HERE.glob("runtime/*.cc"), HERE / "driver" / "device.cc", HERE / "driver" / "events.cc"]
        )
        _link(target / RUNTIME, [core], HERE / "runtime" / "exports.map")
        library = HERE / "runtime" / "standard_library.cc"
        driver = _object(target, "driver", [HERE / "driver" / "driver_api.cc", library])
        _link(target / DRIVERS[0], [driver, target / RUNTIME], HERE / "driver" / "libcuda.map")
        api = _object(target, "api", [HERE / "driver" / "runtime_api.cc", library])
        _link(target / DRIVERS[1], [api, target / DRIVERS[0], target / RUNTIME], HERE / "driver" / "libcudart.map")

    _forget_unused()
    with open(folder() / "building", "w") as lock:  # processes that start together build it once
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _kept("runtime", _digest(sources, _OF_RUNTIME), build) / RUNTIME


def driver_libraries() -> list[Path]:
    """What a process loads, in this order and before TVM, to have simulated GPUs."""
    core = runtime()
    return [core, *(core.parent / name for name in DRIVERS)]


def kernel_library(source: str, *, arch: int = 80, checked: bool = True, contract: bool = False) -> Path:
    """A library of the kernels of a CUDA source.

    Args:
        source: CUDA C, as a compiler for GPUs would get it.
        arch: compute capability that ``__CUDA_ARCH__`` says, times ten.
        checked: whether every access is checked; without it kernels run several times faster.
        contract: whether products and sums may become fused multiply-adds, which NVIDIA's compiler does where it likes.

    Raises:
        ToolError: the source doesn't compile.
    """
    flags = [*_COMMON, *_OF_KERNELS, *(_CHECKED if checked else _UNCHECKED)]
    flags += [f"-D__CUDA_ARCH__={arch}0", f"-ffp-contract={'fast' if contract else 'off'}"]
    text = for_cpu(source, checked)
    digest = _digest(sorted(path for path in HERE.glob("include/**/*") if path.is_file()), [*flags, text])

    def build(target: Path) -> None:
        (target / "kernels.cc").write_text(text, encoding="utf-8")
        _run("c++", [*flags, "-c", str(target / "kernels.cc"), "-o", str(target / "kernels.o")])
        _run("ld.lld", ["-shared", str(target / "kernels.o"), "-o", str(target / "kernels.so")])

    return _kept("kernels", digest, build) / "kernels.so"


def for_cpu(source: str, checked: bool = True) -> str:
    """The source as the simulator compiles it: the same text but for four things.

    The functions of ``primitives.cuh``, which hold PTX, give way to the simulator's. ``extern __shared__`` arrays, of which C++ has
    no notion, become pointers. Alignment is said before ``__shared__``. An entry point is added to each kernel.
    """
    primitives = _primitives()
    if primitives in source:
        source = source.replace(primitives, '#include "primitives.h"\n')
    else:
        source = '#include "primitives.h"\n' + source
    # C++ wants what is aligned to say so first
    source = source.replace("__shared__ alignas(64)", "alignas(64) __shared__")
    source = _DYNAMIC.sub(r"\1* \2 = (\1*)sim_dynamic_shared();", source)
    entries: dict[str, str] = {}
    for bound, name in _KERNEL.findall(source):
        entries[name] = bound or "0"
    calls = "".join(f"SIM_KERNEL({name}, {bound})\n" for name, bound in entries.items())
    mark = 'extern "C" int sim_is_checked = 1;\n' if checked else ""
    return f'#include "cuda_on_cpu.h"\n#line 1 "kernel.cu"\n{source}\n{calls}{mark}'


@functools.cache
def _primitives() -> str:
    return (files(device) / "primitives.cuh").read_text(encoding="utf-8")


def _digest(files: Iterable[Path], more: Iterable[str]) -> str:
    digest = hashlib.sha256(_processor())
    for part in [*(path.read_bytes() for path in files), *(text.encode() for text in more)]:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:24]


@functools.cache
def _processor() -> bytes:
    """What tells processors apart: code is made for the one at hand."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor().encode()
    return next((line.encode() for line in lines if line.startswith(("flags", "Features"))), b"")


def _forget_unused() -> None:
    """Keep the folder from growing: what wasn't used for long goes, once there is much."""
    kept = sorted(folder().glob("*-*"), key=lambda path: path.stat().st_mtime)
    for path in kept[:-MOST_KEPT]:
        shutil.rmtree(path, ignore_errors=True)


def _kept(kind: str, digest: str, build: Callable[[Path], None]) -> Path:
    """The folder of that digest, made by ``build`` unless it is there; a process that loses a race against another uses its."""
    final = folder() / f"{kind}-{digest}"
    if final.is_dir():
        os.utime(final)
        return final
    with tempfile.TemporaryDirectory(dir=folder(), prefix="making-", ignore_cleanup_errors=True) as name:
        made = Path(name, "made")
        made.mkdir()
        build(made)
        try:
            made.rename(final)
        except OSError:
            if not final.is_dir():
                raise
    return final


def _object(target: Path, name: str, sources: Iterable[Path]) -> Path:
    """All sources as one unit: headers are read once."""
    unit = target / f"{name}.cc"
    unit.write_text("".join(f'#include "{source}"\n' for source in sorted(sources)), encoding="utf-8")
    _run("c++", [*_COMMON, *_OF_RUNTIME, "-c", str(unit), "-o", str(target / f"{name}.o")])
    return target / f"{name}.o"


def _link(output: Path, inputs: Iterable[Path], exports: Path) -> None:
    # The linker itself: zig's compiler would first build a support library, which takes a minute. What is left undefined is of the
    # C library, which every process has, and of libm, of which an empty one gives the dependency.
    libm = output.parent / "libm.so.6"
    (output.parent / "empty.c").write_text("")
    _run("cc", ["-fPIC", "-c", str(output.parent / "empty.c"), "-o", str(output.parent / "empty.o")])
    _run("ld.lld", ["-shared", "-soname", libm.name, "-o", str(libm), str(output.parent / "empty.o")])
    options = ["-shared", "-soname", output.name, "-rpath", "$ORIGIN", f"--version-script={exports}"]
    _run("ld.lld", [*options, *map(str, inputs), "--no-as-needed", str(libm), "-o", str(output)])
    libm.unlink()


def _run(driver: str, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "ziglang", driver, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"zig {driver} fails:\n{done.stderr[:6000]}")
