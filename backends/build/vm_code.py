"""The host's part of a module without its kernels: the VM's bytecode, to be linked with kernels compiled elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphopt.backends.base.scratch import scratch_folder
from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import get_global_func, relax, tirx, tvm
from graphopt.backends.build.shared_library import pack_imports


@dataclass(frozen=True)
class VmCode:
    """Bytecode of the Relax functions of a module.

    Attributes:
        kernels: PrimFuncs that it calls, by name, in the module's order.
    """

    target: Target
    kernels: dict[str, Any]
    _lowered: Any
    _constants: dict[str, Any]

    def packed(self) -> bytes:
        """The bytecode as an object file, to be linked with those of the kernels."""
        # Packing notes only that there is a library and which functions it has; an empty file stands for it.
        with scratch_folder() as folder:
            stand_in = folder / "library.o"
            stand_in.touch()
            library = tvm.runtime.load_static_library(str(stand_in), list(self.kernels))
        # Linking adds the library to the builder's executable for good, so each takes bytecode of its own.
        builder = relax.ExecBuilder()
        get_global_func("relax.VMCodeGen")(builder, self._lowered)
        link = get_global_func("relax.VMLink")
        return pack_imports(link(builder, self.target.tvm_target(), library, [], self._constants), self.target)


def vm_code(mod: Any, target: Target, lowering: Any) -> VmCode:
    """Bytecode of ``mod``, and its kernels still as PrimFuncs.

    Args:
        mod: ``tvm.IRModule``; left as it is.
        target: a CPU.
        lowering: the Relax passes.
    """
    with target.tvm_target():
        mod = lowering(mod)
    attributes = dict(mod.attrs) if mod.attrs else {}
    kernels = {str(var.name_hint): f for var, f in mod.functions.items() if isinstance(f, tirx.PrimFunc)}
    constants = dict(attributes.get("const_name_to_constant", {}))
    return VmCode(target, dict(sorted(kernels.items())), mod, constants)
