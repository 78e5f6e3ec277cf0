"""Compiled code in this process, from which virtual machines are made: one runs one call at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphopt.backends.base.tvm_runtime import VirtualMachine, tvm

if TYPE_CHECKING:
    from graphopt.backends.base.accelerator import Accelerator

_ALLOCATORS = {tvm.cpu(): VirtualMachine.NAIVE_ALLOCATOR}
"""On the CPU that of the C library, which is safe after a fork. TVM's pooled one has a lock that another thread may hold when a
process forks: the child, which lacks that thread, would wait for it for ever. On a GPU, where to allocate is slow and a fork ends
all use, the pooled one."""


class LoadedModule:
    """A module that was loaded or compiled in this process; it lives as long as anything that came out of it.

    Args:
        module: TVM's ``Module``.
        device: the TVM device that it runs on.
        accelerator: that device if it has memory of its own.

    Raises:
        Exception: of any class, as TVM raises it: the module lacks something that it calls.
    """

    def __init__(self, module: Any, device: Any, accelerator: Accelerator | None = None) -> None:
        self.module = module
        self.device = device
        self.accelerator = accelerator
        # Made here, as it shows whether the code can be used.
        self._first = [VirtualMachine(module, device, memory_cfg=_ALLOCATORS)]

    def vm(self) -> Any:
        """A ``VirtualMachine`` that nobody else has. Those of one module share its code and may run at the same time."""
        try:
            return self._first.pop()
        except IndexError:
            return VirtualMachine(self.module, self.device, memory_cfg=_ALLOCATORS)
