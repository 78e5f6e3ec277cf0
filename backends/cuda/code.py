"""From scheduled kernels to CUDA C, and to a library with machine code for the GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import cuda_pass_context, relax
from graphopt.backends.build.code_generation import Built, codegen_error
from graphopt.backends.build.link import Linker
from graphopt.backends.build.loaded_module import LoadedModule
from graphopt.backends.build.relax_passes import lowering_passes
from graphopt.backends.build.shared_library import host_objects, link_objects
from graphopt.backends.cuda.launch import require_bound
from graphopt.backends.cuda.pack import device_code_packer, require_machine_code


@dataclass
class CudaBuilt(Built):
    """A compiled module.

    Attributes:
        executable: TVM's ``VMExecutable``, with CUDA C as device code.
    """

    executable: Any = None

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
        link_objects([*host_objects(module), device_code_packer(self.target)(module)], path, linker)
        require_machine_code(path)


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
    with _source_only(), tvm_target, cuda_pass_context():
        return relax.build(mod, tvm_target, relax_pipeline=lowering_passes())


@contextmanager
def _source_only() -> Iterator[None]:
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
