"""A module compiled kernel by kernel: from the cache where it can be, on all CPUs where it must be, then linked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.backends.base.target import Target
from graphopt.backends.build.code_generation import BuildReport, Built, CodeGenerator
from graphopt.backends.build.kernel_object import KernelSource, kernel_key
from graphopt.backends.build.link import Linker
from graphopt.backends.build.loaded_module import LoadedModule
from graphopt.backends.build.object_cache import ObjectCache
from graphopt.backends.build.relax_passes import lowering_passes
from graphopt.backends.build.shared_library import link_objects
from graphopt.backends.build.vm_code import VmCode, vm_code
from graphopt.backends.build.whole_module import BuiltWhole, whole_module
from graphopt.backends.build.worker_pool import compile_kernels
from graphopt.errors import CompileError, DeviceError


@dataclass
class BuiltOfObjects(BuiltWhole):
    """A compiled module whose kernels are object files.

    Attributes:
        executable: None until the module had to be compiled in one piece, because libraries can't be loaded here.
        module: what was compiled.
        code: the VM's part of it.
        objects: the kernels' object files, in the order of ``code.kernels``.
    """

    module: Any = None
    code: VmCode | None = None
    objects: tuple[bytes, ...] = ()

    def load(self) -> LoadedModule:
        """As `Built.load`: the library is linked and loaded; where that fails, TVM compiles in this process."""
        self.generator.require_runnable(self.target)
        if self.executable is None:
            try:
                return self.load_library()
            except (OSError, DeviceError, CompileError) as error:
                self.report.notes.append(f"compiled again without a linker, as this failed: {error}")
                self.executable = whole_module(self.module, self.target)
        return super().load()

    def link(self, path: Path, linker: Linker) -> None:
        """Link the kernels, the VM's code and what every library has."""
        assert self.code is not None
        link_objects([*self.objects, self.code.packed(), *self.added_objects()], path, linker)


def build_objects(
    mod: Any, target: Target, generator: CodeGenerator, cache: ObjectCache | None, jobs: int | None
) -> Built | None:
    """Compile a module for a CPU; None when its kernels can't be compiled apart.

    Args:
        mod: ``tvm.IRModule`` of Relax functions and PrimFuncs; left as it is.
        target: a CPU.
        generator: what loads the library.
        cache: where to look for kernels and to leave them.
        jobs: processes at most.

    Raises:
        Exception: of any class, as TVM raises it.
    """
    code = vm_code(mod, target, lowering_passes())
    sources = [KernelSource.of(name, function) for name, function in code.kernels.items()]
    kernels = [source for source in sources if source is not None]
    if not kernels or len(kernels) < len(sources):
        return None
    keys = [kernel_key(kernel, target) for kernel in kernels] if cache else []
    objects: list[bytes | None] = [cache.get(key) for key in keys] if cache else [None] * len(kernels)
    missing = [i for i, content in enumerate(objects) if content is None]
    compiled, pool = compile_kernels([kernels[i] for i in missing], target, jobs)
    for i, content in zip(missing, compiled, strict=True):
        objects[i] = content
        if cache:
            cache.put(keys[i], content)
    notes = pool.notes
    if cache:
        cache.trim()
        notes = [*notes, *cache.notes]
    report = BuildReport(len(kernels), len(kernels) - len(missing), pool.by_workers, notes)
    whole = tuple(content for content in objects if content is not None)
    return BuiltOfObjects(target, generator, report, None, mod, code, whole)
