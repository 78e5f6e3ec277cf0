"""What building asks of a kind of target, and what comes out: machine code to run here or to write to a file."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.backends.base.host import default_threads
from graphopt.backends.base.runnable import Runnable
from graphopt.backends.base.scratch import no_temporary_files, scratch_folder
from graphopt.backends.base.target import Target
from graphopt.backends.build.link import Linker, find_linker
from graphopt.backends.build.pool import pool_objects
from graphopt.backends.build.processor import KernelFlag, question
from graphopt.errors import CompileError, DeviceError, GraphOptError

if TYPE_CHECKING:
    from graphopt.backends.base.accelerator import Accelerator
    from graphopt.backends.build.loaded_module import LoadedModule
    from graphopt.backends.build.object_cache import ObjectCache


@dataclass
class BuildReport:
    """How a module was compiled.

    Attributes:
        kernels: functions that machine code was needed for.
        cached: how many of them came from the cache.
        by_workers: how many of them other processes compiled.
        notes: what went wrong without doing harm, a line each.
    """

    kernels: int = 0
    cached: int = 0
    by_workers: int = 0
    notes: list[str] = field(default_factory=list)


class CodeGenerator(ABC):
    """Makes machine code for a kind of target, and runs it.

    Attributes:
        here: the target to suggest where code for another machine can't run.
    """

    here: ClassVar[str] = "native"

    @abstractmethod
    def can_run(self, target: Target, index: int = 0) -> Runnable:
        """Whether code for ``target`` would run in this process on its device of that number, without running it."""

    @abstractmethod
    def generate(self, mod: Any, target: Target, cache: ObjectCache | None, jobs: int | None) -> Built:
        """Compile; arguments as in `build`.

        Raises:
            Exception: of any class, as TVM raises it.
        """

    @abstractmethod
    def device(self, index: int = 0) -> Any:
        """The TVM device that kernels run on.

        Raises:
            DeviceError: there is none of that number.
        """

    def accelerator(self, index: int = 0) -> Accelerator | None:
        """The device of that number, if it has memory of its own; None if kernels run on the host.

        Raises:
            DeviceError: there is none, or running on it takes something that is missing.
        """
        return None

    def require_device(self, index: int) -> None:
        """Refuse a device that this machine, which has such devices, doesn't have.

        Raises:
            DeviceError: it has fewer, or the system can't run anything on them.
        """
        if index != 0:
            raise DeviceError(f"there is no device {index} of this kind", code="no-device", hint="leave device out")

    @abstractmethod
    def use_threads(self, module: Any, target: Target, count: int) -> None:
        """Have a loaded library's kernels run on so many CPU threads."""

    def has_runtime(self, target: Target) -> bool:
        """Whether there is a runtime of TVM for ``target``, without which only C libraries run."""
        return True

    def needed_flags(self, target: Target) -> Sequence[KernelFlag]:
        """Features that code for ``target`` may use, as far as Linux tells of them by bits."""
        return ()

    def needed_names(self, target: Target) -> Sequence[str]:
        """The same by the operating system's names, as `missing_names` takes them."""
        return ()

    def missing_names(self, needed: Collection[str]) -> list[str]:
        """Which of these this machine lacks, as far as its system tells: for a process in which nobody knows processors by name."""
        return []

    def require_runnable(self, target: Target) -> None:
        """Raise DeviceError unless `can_run`."""
        verdict = self.can_run(target)
        if not verdict:
            raise DeviceError(
                f"code for target {target.name!r} can't run here: {verdict.reason}",
                hint="compile for this machine with --target native",
            )

    def build(self, mod: Any, target: Target, cache: ObjectCache | None = None, jobs: int | None = None) -> Built:
        """Compile a module of Relax functions and PrimFuncs, whose function ``main`` calls them through ``relax.call_tir``.

        Args:
            mod: ``tvm.IRModule``; left as it is. Its PrimFuncs are scheduled.
            target: of this kind.
            cache: compiled kernels to use and to add to, where kernels are compiled one by one.
            jobs: processes that compile at once; by default as many as this process may use CPUs.

        Raises:
            CompileError: TVM could not generate the code.
        """
        try:
            return self.generate(mod, target, cache, jobs)
        except GraphOptError:
            raise
        except Exception as error:  # TVM raises any class
            raise codegen_error(error, target) from error

    def open_library(self, path: Path, target: Target, threads: int | None = None, device: int = 0) -> LoadedModule:
        """Load an exported library; the file may be deleted afterwards.

        Args:
            path: what `Built.export` wrote. The library is unloaded with the last object that came out of it.
            target: what it was compiled for; that it runs here has been checked.
            threads: CPU threads, by default those planned for; no more than this process may use.
            device: number of the device that kernels run on, where there are several.

        Raises:
            DeviceError: the device is absent, or the system can't load the library.
        """
        from graphopt.backends.base.tvm_runtime import tvm_ffi
        from graphopt.backends.build.loaded_module import LoadedModule

        accelerator = self.accelerator(device)
        try:
            # Left to itself, TVM keeps every library that it loads until the process ends.
            module = tvm_ffi.load_module(os.path.realpath(path), keep_module_alive=False)
            self.use_threads(module, target, min(threads or target.caps.cores, default_threads()))
            return LoadedModule(module, self.device(device), accelerator)
        except Exception as error:  # TVM raises any class
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise DeviceError(
                f"the compiled library for {target.name} can't be loaded",
                code="load-failed",
                notes=lines[-1:],
                hint="a temporary folder mounted noexec prevents it: set TMPDIR to another one; else compile the model again",
            ) from error


@dataclass
class Built(ABC):
    """A compiled module.

    Attributes:
        target: what it was compiled for.
        generator: what compiled it.
        report: how it was compiled.
    """

    target: Target
    generator: CodeGenerator
    report: BuildReport = field(default_factory=BuildReport)

    @abstractmethod
    def load(self) -> LoadedModule:
        """The code in this process.

        Raises:
            DeviceError: the target's code doesn't run on this machine.
            CompileError: a linker or compiler that it takes is missing.
        """

    @abstractmethod
    def link(self, path: Path, linker: Linker) -> None:
        """Link the shared library ``path``; raises whatever TVM raises."""

    def added_objects(self) -> list[bytes]:
        """What every library for a CPU has besides the model: the thread pool, and what asks for features before code runs."""
        triple, needs = self.target.triple, self.generator.needed_flags(self.target)
        return [*pool_objects(triple), *question(triple, self.target.name, needs)]

    def remarks_on(self, function: str) -> list[str]:
        """What the compiler of a device reported of a function, a line each; nothing for CPUs.

        Raises:
            CompileError: the function has to be compiled first, and that fails.
        """
        return []

    def device_facts(self) -> dict[str, Any] | None:
        """JSON-ready facts about code for another device than the host, for an artefact's manifest; None if there is none.

        Raises:
            CompileError: as in `remarks_on`.
        """
        return None

    def export(self, path: str | Path, linker: Linker | None = None) -> None:
        """Write the shared library to ``path``.

        Args:
            path: file to write.
            linker: by default what `find_linker` finds.

        Raises:
            CompileError: no linker, the linker failed, or no compiler for the device's code.
        """
        chosen = linker or find_linker(self.target)
        try:
            self.link(Path(path), chosen)
        except GraphOptError:
            raise
        except Exception as error:  # TVM raises any class
            raise codegen_error(error, self.target) from error

    def library_bytes(self, linker: Linker | None = None) -> bytes:
        """The shared library as bytes; arguments and errors are those of `export`."""
        try:
            with scratch_folder() as folder:
                path = folder / "library.so"
                self.export(path, linker)
                return path.read_bytes()
        except OSError as error:
            raise codegen_error(error, self.target) from error

    def load_library(self) -> LoadedModule:
        """Link the library and load it.

        Raises:
            OSError: there is no room for the file.
            CompileError, DeviceError: see `export` and `CodeGenerator.open_library`.
        """
        with scratch_folder() as folder:
            path = folder / "library.so"
            self.export(path)
            return self.generator.open_library(path, self.target)


def codegen_error(error: Exception, target: Target) -> CompileError:
    """What to raise for a failure of TVM, or of writing its output."""
    if isinstance(error, OSError):
        return no_temporary_files(error)
    lines = [line for line in str(error).splitlines() if line.strip()]
    return CompileError(
        f"TVM could not generate code for {target.name}",
        code="codegen-failed",
        notes=[f"{type(error).__name__}: {lines[0] if lines else ''}"],
        hint="this is likely a bug of graphopt: please report it with the model",
    )
