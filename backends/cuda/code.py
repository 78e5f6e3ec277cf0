"""From scheduled kernels to CUDA C, and to a library with machine code for the GPU."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import cuda_pass_context, relax
from graphopt.backends.build.code_generation import Built, codegen_error
from graphopt.backends.build.link import Linker
from graphopt.backends.build.loaded_module import LoadedModule
from graphopt.backends.build.object_cache import ObjectCache
from graphopt.backends.build.relax_passes import lowering_passes
from graphopt.backends.build.shared_library import host_objects, link_objects
from graphopt.backends.cuda.launch import require_bound
from graphopt.backends.cuda.machine_code import MachineCode, describe_codes, machine_code
from graphopt.backends.cuda.pack import cuda_source, device_code_packer, require_machine_code
from graphopt.backends.cuda.resources import of_function


@dataclass
class CudaBuilt(Built):
    """A compiled module.

    Attributes:
        executable: TVM's ``VMExecutable``, with CUDA C as device code.
        cache: where to look for machine code and to leave it.
        jobs: compilations that run at once.
    """

    executable: Any = None
    cache: ObjectCache | None = None
    jobs: int | None = None
    _compiling: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def code(self) -> MachineCode:
        """The machine code of all kernels, compiled when it is first asked for.

        Raises:
            CompileError: no compiler, or it fails.
        """
        found = machine_code(cuda_source(self.executable.mod), self.target, self.cache, self.jobs)
        self.report.kernels = max(map(len, found.resources.values()), default=0)
        self.report.cached = self.report.kernels * found.cached // len(found.codes)
        self.report.notes += self.cache.notes if self.cache else []
        return found

    def load(self) -> LoadedModule:
        """The library, linked and loaded: only machine code is run."""
        self.generator.require_runnable(self.target)
        try:
            return self.load_library()
        except OSError as error:
            raise codegen_error(error, self.target) from error

    def link(self, path: Path, linker: Linker) -> None:
        """Compile the CUDA C and link its machine code with the host's."""
        module = self.executable.mod
        packed = device_code_packer(self.target, self._image)(module)
        link_objects([*host_objects(module), packed], path, linker)
        require_machine_code(path)

    def remarks_on(self, function: str) -> list[str]:
        """What ptxas reported of a function's kernels, on each architecture."""
        return [
            f"{arch}: {name}: {found}"
            for arch, kernels in self.code.resources.items()
            for name, found in of_function(function, kernels).items()
        ]

    def device_facts(self) -> dict[str, Any]:
        """The codes in the artefact, and what each kernel takes of a multiprocessor."""
        kernels: dict[str, dict[str, dict[str, int]]] = {}
        for arch, found in self.code.resources.items():
            for name, taken in found.items():
                kernels.setdefault(name, {})[arch] = taken.to_dict()
        return {"code": describe_codes(self.code.codes), "kernels": kernels}

    def _image(self, _source: bytes) -> bytes:
        with self._compiling:
            return self.code.image


def build_for_cuda(mod: Any, target: Target) -> Any:
    """TVM's executable of ``mod`` with CUDA C as device code.

    Args:
        mod: ``tvm.IRModule`` of Relax functions and PrimFuncs.
        target: a CUDA target.

    Raises:
        InternalError: a kernel launches no threads.
    """
    tvm_target = target.tvm_target()
    require_bound(mod)
    with source_only(), tvm_target, cuda_pass_context():
        return relax.build(mod, tvm_target, relax_pipeline=lowering_passes())


@contextmanager
def source_only() -> Iterator[None]:
    """Keep TVM from compiling CUDA C itself where there is a driver: `Built.export` does it, the same everywhere."""
    name = "TVM_COMPILE_FORCE_FALLBACK"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
