"""Linking objects into a shared library, with whatever linker is at hand and no sysroot or C library.

Generated code needs nothing but ``memcpy`` and functions of libm, which the program that loads the library has. So any
ELF linker of the right architecture does, and the one in the PyPI package ``ziglang`` does for all of them. Libraries for macOS,
which are Mach-O, are linked by macOS's own compiler driver there, and by ziglang's anywhere.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphopt.backends.base.host import host_arch
from graphopt.backends.base.scratch import scratch_folder
from graphopt.backends.base.target import Target
from graphopt.backends.build.elf_object import elf_object
from graphopt.errors import CompileError

_ARCH_OF_MACHINE = {"x86": "x86_64", "arm": "aarch64"}
_EMULATIONS = {"x86_64": "elf_x86_64", "aarch64": "aarch64linux", "armv7a": "armelf_linux_eabi"}
_GNU_PREFIXES = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu", "armv7a": "arm-linux-gnueabihf"}
_TIMEOUT_S = 300


@dataclass(frozen=True)
class Linker:
    """One way to link; callable as TVM's ``fcompile``.

    Attributes:
        name: what `find_linker` knows it by: ``ld.lld``, ``cc``, ``ld``, ``zig``.
        command: command line up to the arguments common to all linkers.
        is_driver: it is a compiler driver, which finds libm itself.
        emulation: name of the ELF flavour for ``-m``.
        architecture: what it links for, of a bare linker.
        is_for_macos: what it writes is Mach-O.
        needs: libraries that what a bare linker writes asks for itself, so that any program can load it.
    """

    name: str
    command: tuple[str, ...]
    is_driver: bool
    emulation: str | None
    architecture: str = ""
    is_for_macos: bool = False
    needs: tuple[str, ...] = ("libm.so.6",)

    def __call__(
        self, output: str | os.PathLike[str], objects: Sequence[str] | str, options: Sequence[str] | None = None
    ) -> None:
        """Link ``objects`` into the shared library ``output``.

        Args:
            output: file to write.
            objects: object files.
            options: further arguments.

        Raises:
            CompileError: the linker failed; its output is in the notes.
        """
        files = [objects] if isinstance(objects, str) else [str(item) for item in objects]
        with scratch_folder() as folder:
            libm = self._libm(folder)
            self._run([*self.command, "-shared", "-o", os.fspath(output), *files, *libm, *(options or ())], folder)

    def _libm(self, folder: Path) -> list[str]:
        """Arguments that make the library ask for libm itself, so that any program can load it."""
        if self.is_for_macos:
            return ["-nostdlib", "-lSystem", "-Wl,-undefined,dynamic_lookup", "-Wl,-install_name,@rpath/library.dylib"]
        if self.is_driver:
            # Without the C library of this machine, whose newest versions of functions would be asked for wherever it is loaded.
            return ["-nostdlib", "-lm", "-lgcc"]
        if self.emulation is None:
            return []
        # A bare linker has no libraries to look at; an empty one of the right name gives the dependency.
        empty = folder / "empty.o"
        empty.write_bytes(elf_object(self.architecture, []))
        for name in self.needs:
            stub = folder / name
            self._run(
                [*self.command, "-m", self.emulation, "-shared", "-soname", name, "-o", str(stub), str(empty)], folder
            )
        return ["--no-as-needed", f"-L{folder}", *(f"-l:{name}" for name in self.needs)]

    def _run(self, command: list[str], folder: Path) -> None:
        environment = {**os.environ, "TMPDIR": str(folder)}  # what a linker that is killed leaves behind goes with it
        environment |= {name: str(folder) for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")}
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                env=environment,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompileError(f"linker {self.name} could not be run: {error}", code="link-failed") from error
        if done.returncode != 0:
            raise CompileError(
                f"linker {self.name} failed with exit code {done.returncode}",
                code="link-failed",
                notes=[" ".join(command), *done.stderr.strip().splitlines()[:20]],
                hint="free room in the temporary folder, or set TMPDIR to another one"
                if os.strerror(errno.ENOSPC) in done.stderr
                else 'force another one, or pip install "graphopt[cross]"',
            )


def find_linker(target: Target, force: str | None = None) -> Linker:
    """The linker to use for ``target``: the first present of ``ld.lld``, ``cc``, ``ld``, ``zig``.

    For another architecture than this machine's, ``cc`` and ``ld`` mean the cross tools (``aarch64-linux-gnu-gcc``).

    Args:
        target: what the objects are for; for CUDA its host counts.
        force: take this one or fail.

    Raises:
        CompileError: none is present; the hint says what to install.
    """
    finders: dict[str, Callable[[str], Linker | None]] = {"ld.lld": _lld, "cc": _cc, "ld": _ld, "zig": _zig}
    if is_for_macos(target.triple):
        finders = {"cc": _macos_cc, "zig": _macos_zig}
    if force is not None and force not in finders:
        raise CompileError(f"unknown linker {force!r}", code="no-linker", hint=f"one of {', '.join(finders)}")
    for name in [force] if force else finders:
        found = finders[name](target.triple if is_for_macos(target.triple) else target.arch)
        if found is not None:
            return found
    tried = force or ", ".join(finders)
    system = f"{target.arch}, macOS," if is_for_macos(target.triple) else target.arch
    raise CompileError(
        f"no linker for {system} on this machine (looked for {tried})",
        code="no-linker",
        hint='pip install "graphopt[cross]" brings one for every architecture',
    )


def is_for_macos(triple: str) -> bool:
    """Whether code for an LLVM target triple is for macOS."""
    return triple.split("-")[1:2] == ["apple"]


def _is_native(arch: str) -> bool:
    return _ARCH_OF_MACHINE.get(host_arch()) == arch


def _macos_cc(triple: str) -> Linker | None:
    if platform.system() != "Darwin":
        return None
    path = shutil.which("cc")
    arch = "x86_64" if triple.startswith("x86_64") else "arm64"
    return Linker("cc", (path, "-arch", arch), True, None, is_for_macos=True) if path else None


def _macos_zig(triple: str) -> Linker | None:
    if importlib.util.find_spec("ziglang") is None:
        return None
    machine = "x86_64" if triple.startswith("x86_64") else "aarch64"
    version = re.fullmatch(r"macosx?(\d+)\.(\d+).*", triple.split("-")[2])  # of Darwin's own numbers zig makes no use
    system = f"macos.{version[1]}.{version[2]}" if version else "macos"
    command = (sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-{system}-none")
    return Linker("zig", command, True, None, is_for_macos=True)


def _bare(name: str, arch: str, command: tuple[str, ...]) -> Linker | None:
    # Bare linkers write ELF, which only Linux loads.
    if platform.system() != "Linux" and _is_native(arch):
        return None
    # 32-bit ARM divides 64 bits, and converts float16, by functions of the compiler's library.
    needs = ("libm.so.6", "libgcc_s.so.1") if arch == "armv7a" else ("libm.so.6",)
    return Linker(name, command, False, _EMULATIONS.get(arch), arch, needs=needs)


def _lld(arch: str) -> Linker | None:
    path = shutil.which("ld.lld")
    return _bare("ld.lld", arch, (path,)) if path else None


def _cc(arch: str) -> Linker | None:
    prefix = _GNU_PREFIXES.get(arch)
    names = ("cc", "gcc", "clang") if _is_native(arch) else (f"{prefix}-gcc",) if prefix else ()
    path = next(filter(None, map(shutil.which, names)), None)
    return Linker("cc", (path,), True, None) if path else None


def _ld(arch: str) -> Linker | None:
    prefix = _GNU_PREFIXES.get(arch)
    name = "ld" if _is_native(arch) else f"{prefix}-ld" if prefix else ""
    path = shutil.which(name)
    return _bare("ld", arch, (path,)) if path else None


def _zig(arch: str) -> Linker | None:
    if importlib.util.find_spec("ziglang") is None:
        return None
    return _bare("zig", arch, (sys.executable, "-m", "ziglang", "ld.lld"))
