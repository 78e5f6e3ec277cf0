"""Run aarch64 libraries under qemu-aarch64, so that ARM code is executed by tests on any machine.

Needs Debian's ``qemu-user`` and ``g++-aarch64-linux-gnu``, and once the aarch64 wheels of TVM's runtime from the
package index; the built host and the runtime are kept in a cache folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

_CXX = "aarch64-linux-gnu-g++"
_QEMU = "qemu-aarch64"
_SYSROOT = "/usr/aarch64-linux-gnu"
_SOURCE = Path(__file__).with_name("qemu_host.cc")
_LIBRARIES = {"apache-tvm": "tvm/lib/libtvm_runtime.so", "apache-tvm-ffi": "tvm_ffi/lib/libtvm_ffi.so"}
_GLIBC_TAGS = ("manylinux2014", "manylinux_2_24", "manylinux_2_27", "manylinux_2_28")

Array = np.ndarray[Any, Any]


class QemuError(AssertionError):
    """The emulated program failed.

    Attributes:
        returncode: exit status; negative or above 128 for a signal (illegal instruction: -4 or 132).
    """

    def __init__(self, message: str, returncode: int) -> None:
        super().__init__(message)
        self.returncode = returncode

    @property
    def illegal_instruction(self) -> bool:
        """Whether the emulated processor lacks an instruction of the library."""
        return self.returncode in (-4, 132)


@lru_cache(maxsize=1)
def why_unavailable() -> str | None:
    """Reason for skipping, or None when emulation works."""
    for tool in (_QEMU, _CXX):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (apt-get install qemu-user g++-aarch64-linux-gnu)"
    try:
        _host()
    except (OSError, subprocess.SubprocessError, zipfile.BadZipFile) as error:
        stderr = getattr(error, "stderr", None) or ""
        return f"no aarch64 runtime: {error} {stderr[-500:]}"
    return None


def run_under_qemu(
    library: bytes,
    inputs: Sequence[Array],
    outputs: Sequence[tuple[Sequence[int], Any]],
    cpu: str = "max",
    function: str = "main",
    *,
    constants: Sequence[Array] = (),
    mode: str = "vm",
    threads: int = 1,
    timeout: float = 120,
    plugin: str | None = None,
) -> list[Array]:
    """Run one function of an aarch64 library.

    Args:
        library: shared library for aarch64 Linux.
        inputs: arguments in order; constants last, where the library is of a model whose sizes are known.
        outputs: shape and dtype of each result.
        cpu: qemu's processor name; an instruction that it lacks stops the program (``QemuError.illegal_instruction``).
        function: name to call.
        constants: of a model, behind its inputs.
        mode: ``"vm"`` for a Relax function, ``"prim"`` for a PrimFunc, which takes its outputs as last arguments.
        threads: size of TVM's thread pool.
        timeout: seconds.
        plugin: of qemu's, with its arguments, to count the function's second call with (``benchmarks/arm_emulation.py``).

    Raises:
        QemuError: the program failed.
    """
    host = _host()
    with tempfile.TemporaryDirectory(prefix="graphopt-qemu-") as name:
        folder = Path(name)
        (folder / "library.so").write_bytes(library)
        specs = []
        for index, array in enumerate(inputs):
            (folder / f"in{index}").write_bytes(np.asarray(array).tobytes())
            specs.append(_spec("in", array.dtype, array.shape, folder / f"in{index}"))
        for index, array in enumerate(constants):
            (folder / f"const{index}").write_bytes(np.asarray(array).tobytes())
            specs.append(_spec("const", array.dtype, array.shape, folder / f"const{index}"))
        for index, (shape, dtype) in enumerate(outputs):
            specs.append(_spec("out", np.dtype(dtype), shape, folder / f"out{index}"))
        # -L stands for the cross sysroot; the runtime lies beside the host.
        command = [_QEMU, "-cpu", cpu, "-L", _SYSROOT, "-E", f"LD_LIBRARY_PATH={host.parent}:{_SYSROOT}/lib"]
        command += ["-E", f"TVM_NUM_THREADS={threads}", *(["-plugin", plugin] if plugin else []), str(host)]
        command += ["--counted"] * bool(plugin) + [str(folder / "library.so"), mode, function, *specs]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            raise QemuError(f"exit status {done.returncode} on {cpu}: {done.stderr.strip()[-2000:]}", done.returncode)
        return [
            np.frombuffer((folder / f"out{index}").read_bytes(), np.dtype(dtype)).reshape(tuple(shape))
            for index, (shape, dtype) in enumerate(outputs)
        ]


def _spec(role: str, dtype: Any, shape: Sequence[int], path: Path) -> str:
    return f"{role}:{dtype.name}:{','.join(map(str, shape))}:{path}"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "graphopt-tests" / "aarch64"


@lru_cache(maxsize=1)
def _host() -> Path:
    """The host program with the runtime libraries beside it, built once per version and source."""
    versions = {package: metadata.version(package) for package in _LIBRARIES}
    key = hashlib.sha256(repr(sorted(versions.items())).encode() + _SOURCE.read_bytes()).hexdigest()[:16]
    folder = _cache() / key
    host = folder / "qemu_host"
    if host.exists():
        return host
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        build = Path(name) / "build"
        build.mkdir()
        for package, member in _LIBRARIES.items():
            _extract(package, versions[package], member, build)
        _compile(build)
        if not host.exists():  # else another process was faster
            build.rename(folder)
    return host


def _extract(package: str, version: str, member: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as wheels:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
            wheels,
        ]
        for tag in _GLIBC_TAGS:
            command += ["--platform", f"{tag}_aarch64"]
        subprocess.run([*command, f"{package}=={version}"], check=True, capture_output=True, text=True, timeout=600)
        (wheel,) = Path(wheels).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (folder / Path(member).name).write_bytes(archive.read(member))


def _compile(folder: Path) -> None:
    tvm_ffi = Path(str(metadata.distribution("apache-tvm-ffi").locate_file("tvm_ffi")))
    includes = [path for path in (tvm_ffi / "include", *tvm_ffi.glob("3rdparty/dlpack/include")) if path.is_dir()]
    command = [_CXX, "-std=c++17", "-O1", "-o", str(folder / "qemu_host"), str(_SOURCE), str(folder / "libtvm_ffi.so")]
    command += [f"-I{path}" for path in includes] + ["-ldl", "-Wl,--allow-shlib-undefined"]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
