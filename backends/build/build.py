"""From a TVM module of Relax and TIR to code: run in this process, or exported as a shared library.

For CPUs each kernel becomes an object file (`graphopt.backends.build.object_build`), which makes compilation parallel and
its results worth keeping; without a linker, and for GPUs, TVM compiles the module in one piece.

The function ``main`` of the module calls PrimFuncs through ``relax.call_tir``. CPU PrimFuncs come scheduled; for CUDA,
`graphopt.backends.cuda.pipeline` schedules what isn't.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphopt.backends.build.chunks import chunked_pipeline
from graphopt.backends.base.host import default_threads
from graphopt.backends.build.link import Linker, find_linker
from graphopt.backends.build.loaded_module import LoadedModule
from graphopt.backends.build.object_cache import ObjectCache
from graphopt.backends.build.pool import has_pool, pool_objects
from graphopt.backends.targets.runnable import require_runnable
from graphopt.backends.base.scratch import no_temporary_files, scratch_folder
from graphopt.backends.build.shape_order import OrderShapeFunctions
from graphopt.backends.build.shared_library import host_objects, link_objects, pack_imports
from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import cpu_pass_context, get_global_func, relax, tvm, tvm_ffi
from graphopt.errors import CompileError, DeviceError, GraphOptError


def lowering_passes() -> Any:
    """The Relax passes between `relax.call_tir` and the VM's instructions.

    TVM's default list also legalises and fuses, and its RewriteDataflowReshape rejects PrimFuncs without a root sblock.
    """
    passes = relax.transform
    return tvm.transform.Sequential(
        [
            passes.ToNonDataflow(),
            passes.RemovePurityChecking(),
            passes.CallTIRRewrite(),
            passes.StaticPlanBlockMemory(),
            passes.LowerAllocTensor(),
            passes.KillAfterLastUse(),
            passes.LowerRuntimeBuiltin(),
            passes.ComputePrimValue(),
            passes.VMShapeLower(),
            OrderShapeFunctions(),
            passes.AttachGlobalSymbol(),
        ]
    )


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


@dataclass
class Built:
    """A compiled module.

    Attributes:
        target: what it was compiled for.
        executable: TVM's ``VMExecutable``.
        report: how it was compiled.
    """

    target: Target
    executable: Any
    report: BuildReport = field(default_factory=BuildReport)

    def load(self) -> LoadedModule:
        """The code in this process. For CPUs that takes no linker.

        Sets the size of TVM's thread pool, which this process's modules share, to the target's cores.

        Raises:
            DeviceError: the target's code doesn't run on this machine.
            CompileError: CUDA only: no compiler or no linker.
        """
        require_runnable(self.target)
        if self.target.kind == "cuda":
            try:
                with scratch_folder() as folder:
                    path = folder / "library.so"
                    self.export(path)
                    return open_library(path, self.target)
            except OSError as error:
                raise codegen_error(error, self.target) from error
        set_threads(self.target.caps.cores)
        return LoadedModule(self.executable.jit(), tvm.cpu())

    def export(self, path: str | Path, linker: Linker | None = None) -> None:
        """Write the shared library to ``path``.

        Args:
            path: file to write.
            linker: by default what `find_linker` finds.

        Raises:
            CompileError: no linker, the linker failed, or no CUDA compiler.
        """
        chosen = linker or find_linker(self.target)
        try:
            self._link(Path(path), chosen)
        except GraphOptError:
            raise
        except Exception as error:  # TVM raises any class
            raise codegen_error(error, self.target) from error

    def _link(self, path: Path, linker: Linker) -> None:
        module = self.executable.mod
        if self.target.kind != "cuda":
            objects = [*host_objects(module), pack_imports(module, self.target), *pool_objects(self.target.triple)]
            link_objects(objects, path, linker)
            return
        from graphopt.backends.cuda.pack import device_code_packer, require_machine_code

        link_objects([*host_objects(module), device_code_packer(self.target)(module)], path, linker)
        require_machine_code(path)

    def library_bytes(self, linker: Linker | None = None) -> bytes:
        """The shared library as bytes; arguments and errors are those of `export`."""
        try:
            with scratch_folder() as folder:
                path = folder / "library.so"
                self.export(path, linker)
                return path.read_bytes()
        except OSError as error:
            raise codegen_error(error, self.target) from error


def build_module(mod: Any, target: Target, cache: ObjectCache | None = None, jobs: int | None = None) -> Built:
    """Compile a module of Relax functions and PrimFuncs.

    Args:
        mod: ``tvm.IRModule``; left as it is.
        target: what to compile for. LLVM makes the code of x86 and ARM. For CUDA this makes CUDA C, and
            `Built.export` machine code of it.
        cache: compiled kernels to use and to add to (CPUs, and only where there is a linker).
        jobs: processes that compile at once; by default as many as this process may use CPUs.

    Raises:
        CompileError: TVM could not generate the code.
    """
    try:
        if target.kind == "cuda":
            from graphopt.backends.cuda.pipeline import build_for_cuda

            return Built(target, build_for_cuda(mod, target, lowering_passes()))
        if _has_linker(target):
            from graphopt.backends.build.object_build import build_objects

            built = build_objects(mod, target, cache, jobs)
            if built is not None:
                return built
        return Built(target, whole_module(mod, target))
    except GraphOptError:
        raise
    except Exception as error:  # TVM raises any class
        raise codegen_error(error, target) from error


def whole_module(mod: Any, target: Target) -> Any:
    """TVM's executable of a module for a CPU, compiled in one piece by this process: needs no linker to run."""
    with cpu_pass_context():
        return relax.build(
            mod, target.tvm_target(), relax_pipeline=lowering_passes(), tir_pipeline=chunked_pipeline(target.caps.cores)
        )


def _has_linker(target: Target) -> bool:
    try:
        find_linker(target)
    except CompileError:
        return False
    return True


def open_library(path: Path, target: Target, threads: int | None = None) -> LoadedModule:
    """Load an exported library; the file may be deleted afterwards.

    Args:
        path: what `Built.export` wrote. The library is unloaded with the last object that came out of it.
        target: what it was compiled for; that it runs here has been checked.
        threads: CPU threads, by default those planned for; no more than this process may use.

    Raises:
        DeviceError: the system can't load the library.
    """
    device = tvm.cuda() if target.kind == "cuda" else tvm.cpu()
    try:
        # Left to itself, TVM keeps every library that it loads until the process ends.
        module = tvm_ffi.load_module(os.path.realpath(path), keep_module_alive=False)
        if target.kind != "cuda":
            count = min(threads or target.caps.cores, default_threads())
            if has_pool(target.triple):
                module.get_function("graphopt_set_threads", query_imports=True)(count)
            else:
                set_threads(count)
        return LoadedModule(module, device)
    except Exception as error:  # TVM raises any class
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise DeviceError(
            f"the compiled library for {target.name} can't be loaded",
            code="load-failed",
            notes=lines[-1:],
            hint="a temporary folder mounted noexec prevents it: set TMPDIR to another one; else compile the model again",
        ) from error


def set_threads(count: int) -> int:
    """Set how many threads TVM's pool uses for the calling thread's kernels; its own default is half the CPUs.

    The pool can't grow beyond the size it starts with, which TVM takes from the environment when the first parallel
    kernel runs; so it starts with all usable CPUs, and ``count`` of them are used.

    Returns:
        How many are used: less than ``count`` when something else started the pool before.
    """
    os.environ["TVM_NUM_THREADS"] = str(max(count, default_threads()))
    get_global_func("runtime.config_threadpool")(1, count)
    return int(get_global_func("runtime.NumThreads")())


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
