"""Compiling for simulated GPUs: what graphopt puts into an artefact in the place of machine code.

Such an image is the file header of CUDA machine code, by which graphopt and fat binaries know what it is, a marker, the
architecture and the path of a kernel library. The simulated driver reads it; a real one refuses it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from graphopt.backends.base.target import Target
from graphopt.backends.cuda import code, machine_code, nvrtc
from graphopt.backends.cuda.nvrtc import DeviceCode
from tests.support.cuda_on_cpu.toolchain import kernel_library

_MARKER = b"cuda_on_cpu image\0"
_EM_CUDA = 190


def image(source: str, arch: str, *, checked: bool = True, contract: bool = False) -> bytes:
    """The image of a source's kernels for the architecture ``sm_<NN>``."""
    number = int("".join(c for c in arch if c.isdigit()))
    library = kernel_library(nvrtc.complete_source(source), arch=number, checked=checked, contract=contract)
    header = bytearray(64)
    header[:7] = b"\x7fELF\x02\x01\x01"
    struct.pack_into("<H", header, 18, _EM_CUDA)
    return bytes(header) + _MARKER + struct.pack("<I", number) + str(library).encode() + b"\0"


@contextmanager
def simulated_compiler(
    *, checked: bool = True, contract: bool = False, edit: Callable[[str], str] | None = None
) -> Iterator[None]:
    """While it lasts, CUDA C is compiled for the simulator. PTX, which no simulated GPU takes, is an empty text.

    Args:
        checked: whether accesses are checked.
        contract: whether products and sums become fused multiply-adds, which NVIDIA's compiler does where it likes.
        edit: what becomes of the source first, for mistakes that tests put in.
    """

    edited = edit or str

    def compile_for_cpu(source: str, arch: str, *_: Any, **__: Any) -> DeviceCode:
        content = (
            b".version 9.0\n"
            if nvrtc.is_virtual(arch)
            else image(edited(source), arch, checked=checked, contract=contract)
        )
        return DeviceCode(arch, content, "")

    def without_cache(
        source: str, target: Target, _cache: Any = None, jobs: int | None = None
    ) -> machine_code.MachineCode:
        return machine_code.machine_code(source, target, None, jobs)

    with (
        mock.patch.object(machine_code, "compile_code", compile_for_cpu),
        mock.patch.object(machine_code, "chosen_compiler", return_value="nvrtc"),
        mock.patch.object(code, "machine_code", without_cache),
        mock.patch.object(code, "kept_pieces", return_value=None),
    ):
        yield
