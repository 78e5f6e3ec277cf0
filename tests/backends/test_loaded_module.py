"""How virtual machines allocate: as the C library does on the CPU, from a pool on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import tvm

from graphopt.backends.build.loaded_module import LoadedModule

_NAIVE, _POOLED = tvm.relax.VirtualMachine.NAIVE_ALLOCATOR, tvm.relax.VirtualMachine.POOLED_ALLOCATOR


class _Module:
    """Keeps what the machine is initialised with: kind of device, index and allocator, of one device after the other."""

    def __init__(self) -> None:
        self.initialised: list[tuple[int, ...]] = []

    def __getitem__(self, name: str) -> Any:
        if name == "vm_load_executable":
            return lambda: self
        return (lambda *args: self.initialised.append(args)) if name == "vm_initialization" else None


@pytest.mark.parametrize("gpu", [False, True])
def test_allocators(monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    module = _Module()
    monkeypatch.setattr(tvm.runtime, "Module", _Module)
    cpu, cuda = tvm.cpu().dlpack_device_type(), tvm.cuda().dlpack_device_type()
    expected = (cuda, 0, _POOLED, cpu, 0, _NAIVE) if gpu else (cpu, 0, _NAIVE)
    loaded = LoadedModule(module, tvm.cuda() if gpu else tvm.cpu())
    loaded.vm(), loaded.vm()
    assert module.initialised == [expected, expected], "the first machine is made when the module is loaded"
