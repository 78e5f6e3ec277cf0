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
from graphopt.backends.cuda.machine_code import machine_code
from graphopt.backends.cuda.pack import cuda_source, device_code_packer, require_machine_code
from graphopt.backends.cuda.pieces import CodeReport, Pieces, keep_pieces, kept_pieces, pieces_key
from graphopt.backends.cuda.resources import of_function


@dataclass
class CudaBuilt(Built):
    """A compiled module.

    Attributes:
        module: what was compiled.
        cache: where to look for code and to leave it.
        jobs: compilations that run at once.
    """

    module: Any = None
    cache: ObjectCache | None = None
    jobs: int | None = None
    _working: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def generate(self) -> None:
        """Make CUDA C, unless the cache has what comes of it.

        Raises:
            InternalError: a kernel launches no threads.
            Exception: of any class, as TVM raises it.
        """
        if kept_pieces(self.cache, self._key) is None:
            _ = self.executable

    @cached_property
    def executable(self) -> Any:
        """TVM's ``VMExecutable``, with CUDA C as device code."""
        return build_for_cuda(self.module, self.target)

    @property
    def pieces(self) -> Pieces:
        """What the library is linked from, compiled when it is first asked for.

        Raises:
            CompileError: no compiler, or it fails.
        """
        with self._working:
            return self._pieces

    @cached_property
    def _pieces(self) -> Pieces:
        found = kept_pieces(self.cache, self._key)
        if found is not None:
            self.report.kernels = self.report.cached = len(found.kernels())
        else:
            module = self.executable.mod
            code = machine_code(cuda_source(module), self.target, self.cache, self.jobs)
            packed = device_code_packer(self.target, lambda source: code.image)(module)
            codes = tuple(CodeReport(c.arch, len(c.content), c.log) for c in code.codes)
            found = Pieces((*host_objects(module), packed), codes)
            keep_pieces(self.cache, self._key, found)
            self.report.kernels = len(found.kernels())
            self.report.cached = self.report.kernels * code.cached // len(codes)
        self.report.notes += self.cache.notes if self.cache else []
        return found

    @cached_property
    def _key(self) -> str | None:
        return pieces_key(self.module, self.target) if self.cache else None

    def load(self) -> LoadedModule:
        """The library, linked and loaded: only machine code is run."""
        self.generator.require_runnable(self.target)
        try:
            return self.load_library()
        except OSError as error:
            raise codegen_error(error, self.target) from error

    def link(self, path: Path, linker: Linker) -> None:
        """Compile the CUDA C and link its machine code with the host's."""
        link_objects(self.pieces.objects, path, linker)
        require_machine_code(path)

    def remarks_on(self, function: str) -> list[str]:
        """What ptxas reported of a function's kernels, on each architecture."""
        return [
            f"{code.arch}: {name}: {found}"
            for code in self.pieces.codes
            for name, found in of_function(function, code.resources).items()
        ]

    def device_facts(self) -> dict[str, Any]:
        """The codes in the artefact, and what each kernel takes of a multiprocessor."""
        kernels = {
            name: {arch: taken.to_dict() for arch, taken in arches.items()}
            for name, arches in self.pieces.kernels().items()
        }
        return {"code": [{"arch": c.arch, "bytes": c.size} for c in self.pieces.codes], "kernels": kernels}


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
