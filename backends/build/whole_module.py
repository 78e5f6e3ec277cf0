"""A module for a CPU that LLVM compiles in one piece: what runs in this process without a linker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import cpu_pass_context, relax, tvm_ffi
from graphopt.backends.build.chunks import chunked_pipeline
from graphopt.backends.build.code_generation import Built
from graphopt.backends.build.link import Linker
from graphopt.backends.build.loaded_module import LoadedModule
from graphopt.backends.build.processor import REQUIRE
from graphopt.backends.build.relax_passes import lowering_passes
from graphopt.backends.build.shared_library import host_objects, link_objects, pack_imports
from graphopt.backends.build.tvm_threads import set_threads


@dataclass
class BuiltWhole(Built):
    """A compiled module.

    Attributes:
        executable: TVM's ``VMExecutable``.
    """

    executable: Any = None

    def load(self) -> LoadedModule:
        """The code in this process; sets the size of TVM's thread pool, which this process's modules share."""
        self.generator.require_runnable(self.target)
        tvm_ffi.register_global_func(REQUIRE, _runs, override=True)
        set_threads(self.target.caps.cores)
        return LoadedModule(self.executable.jit(), self.generator.device())

    def link(self, path: Path, linker: Linker) -> None:
        """Link the VM's code, the kernels and what every library has."""
        module = self.executable.mod
        link_objects([*host_objects(module), pack_imports(module, self.target), *self.added_objects()], path, linker)


def _runs() -> None:
    """What code that was compiled in this process calls where a library asks for features: they have been looked at."""


def whole_module(mod: Any, target: Target) -> Any:
    """TVM's executable of a module, compiled in one piece by this process."""
    with cpu_pass_context():
        return relax.build(
            mod, target.tvm_target(), relax_pipeline=lowering_passes(), tir_pipeline=chunked_pipeline(target.caps.cores)
        )
