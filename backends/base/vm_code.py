"""The host's part of a module without its kernels: the VM's bytecode, to be linked with kernels compiled elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import get_global_func, relax, tirx, tvm


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

    def executable(self, objects: list[Path]) -> Any:
        """A ``VMExecutable`` over the object files; only good for exporting with the others' paths as ``addons``.

        Args:
            objects: at least one.
        """
        # The first object stands for "the library" in the tree of modules that is packed into the exported file.
        library = tvm.runtime.load_static_library(str(objects[0]), list(self.kernels))
        # Linking adds the library to the builder's executable for good, so each takes bytecode of its own.
        builder = relax.ExecBuilder()
        get_global_func("relax.VMCodeGen")(builder, self._lowered)
        link = get_global_func("relax.VMLink")
        return relax.VMExecutable(link(builder, self.target.tvm_target(), library, [], self._constants))

    def pack(self, module: Any, is_system_lib: bool, prefix: str, folder: str) -> str:
        """TVM's ``fpack_imports``: the bytecode as an object file. TVM's own way wants an LLVM module to be there."""
        packed = get_global_func("runtime.ModulePackImportsToLLVM")(
            module, is_system_lib, json.dumps(self.target.host), prefix
        )
        path = Path(folder) / "bytecode.o"
        packed.write_to_file(str(path))
        return str(path)


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
