"""Compiled code in this process, from which virtual machines are made: one runs one call at a time."""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.tvm_api import relax, tvm

_ALLOCATORS = {tvm.cpu(): relax.VirtualMachine.NAIVE_ALLOCATOR}
"""On the CPU that of the C library, which is safe after a fork. TVM's pooled one has a lock that another thread may hold when a
process forks: the child, which lacks that thread, would wait for it for ever. On a GPU, where to allocate is slow and a fork ends
all use, the pooled one."""


class LoadedModule:
    """A module that was loaded or compiled in this process; it lives as long as anything that came out of it.

    Args:
        module: TVM's ``Module``.
        device: the TVM device that it runs on.

    Raises:
        Exception: of any class, as TVM raises it: the module lacks something that it calls.
    """

    def __init__(self, module: Any, device: Any) -> None:
        self.module = module
        self.device = device
        # Made here, as it shows whether the code can be used.
        self._first = [relax.VirtualMachine(module, device, memory_cfg=_ALLOCATORS)]

    def vm(self) -> Any:
        """A ``relax.VirtualMachine`` that nobody else has. Those of one module share its code and may run at the same time."""
        try:
            return self._first.pop()
        except IndexError:
            return relax.VirtualMachine(self.module, self.device, memory_cfg=_ALLOCATORS)
