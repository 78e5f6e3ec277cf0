"""Models as C libraries, with no runtime behind them: kernels, a table of what to call on what, and code that goes through it.

The code is compiled with each release, as the pool's is (`run.c`); the table and the constants are an ELF object written here. The
kernels are the very objects that TVM's virtual machine calls.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.backends.build.elf_object import MACHINES, Section, elf_object
from graphopt.backends.build.link import Linker
from graphopt.backends.build.processor import asks
from graphopt.backends.build.shared_library import link_objects

ARCHITECTURES = tuple(MACHINES)
INPUT, OUTPUT, MEMORY, CONSTANT = range(4)
"""Where a tensor lies, as in ``run.c``."""

_ALIGNMENT = 64
_TABLE, _CONSTANTS = ".data.rel.ro", ".rodata"


def writes_for(triple: str) -> bool:
    """Whether there are libraries for an LLVM target triple."""
    architecture, _, system = triple.partition("-")
    return architecture in ARCHITECTURES and "linux" in system


@dataclass(frozen=True)
class Place:
    """Memory of a tensor: an argument of the run, the memory that it works in, or the constants.

    Attributes:
        kind: one of the four above.
        index: which input, output or constant.
        offset: bytes from its start.
    """

    kind: int
    index: int = 0
    offset: int = 0


@dataclass(frozen=True)
class CModel:
    """What a library runs.

    Attributes:
        name: a C identifier; the library's data is called ``<name>_model``.
        memory: bytes that a run works in.
        calls: kernels in order, each with the places of its arguments.
        copies: results that lie elsewhere in the end: where, which output, how many bytes.
        constants: in the order of their indices.
    """

    name: str
    memory: int
    calls: Sequence[tuple[str, Sequence[Place]]]
    copies: Sequence[tuple[Place, int, int]]
    constants: Sequence[npt.NDArray[Any]]


def link_c_library(
    model: CModel, objects: Sequence[bytes], added: Sequence[bytes], triple: str, path: Path, linker: Linker
) -> None:
    """Link the shared library ``path``.

    Args:
        model: what to run.
        objects: the kernels.
        added: what every library has: see `shared_library.added_objects`.
        triple: LLVM's, of Linux on one of the `ARCHITECTURES`.
        path: file to write.
        linker: that of the target.

    Raises:
        CompileError: the linker failed.
        OSError: there is no room for the objects.
    """
    architecture = triple.partition("-")[0]
    table = _model_object(model, architecture, "graphopt_missing_features" if asks(triple) else None)
    # Names of kernels are those of other models too: each library calls its own. Of data there is the pool, which all share.
    own = "-Wl,-Bsymbolic-functions" if linker.is_driver else "-Bsymbolic-functions"
    link_objects([*objects, table, _run_object(architecture), *added], path, linker, [own])


def _model_object(model: CModel, architecture: str, question: str | None) -> bytes:
    """The table and the constants, in the layout of ``struct graphopt_model``."""
    starts, constants = _laid_out(model.constants)
    calls, places, copies = bytearray(), bytearray(), bytearray()
    pointers: dict[int, tuple[str, int]] = {}
    for name, arguments in model.calls:
        pointers[len(calls)] = f"__tvm_ffi_{name}", 0
        calls += struct.pack("<QII", 0, len(places) // 16, len(arguments))
        for place in arguments:
            places += _packed(place, starts)
    for place, output, size in model.copies:
        copies += _packed(place, starts) + struct.pack("<QQ", output, size)
    most = max((len(arguments) for _, arguments in model.calls), default=0)
    head = struct.pack("<Q4I5Q", model.memory, len(model.calls), len(model.copies), most, 0, *[0] * 5)
    first = len(head)
    pointers = {first + at: to for at, to in pointers.items()}
    pointers |= {24: (_TABLE, first), 32: (_TABLE, first + len(calls)), 40: (_TABLE, first + len(calls) + len(places))}
    pointers[48] = _CONSTANTS, 0
    if question is not None:
        pointers[56] = question, 0
    table = Section(_TABLE, bytes(head + calls + places + copies), {f"{model.name}_model": (0, len(head))}, pointers)
    return elf_object(architecture, [table, Section(_CONSTANTS, constants)])


def _packed(place: Place, starts: Sequence[int]) -> bytes:
    """A place as ``run.c`` has it, where constants are offsets from the first one."""
    offset = place.offset + (starts[place.index] if place.kind == CONSTANT else 0)
    return struct.pack("<IIQ", place.kind, place.index, offset)


def _laid_out(constants: Sequence[npt.NDArray[Any]]) -> tuple[list[int], bytes]:
    """Where each constant starts in the bytes of all of them."""
    starts, parts, size = [], [], 0
    for array in constants:
        starts.append(size)
        data = np.ascontiguousarray(array).tobytes()
        parts.append(data + bytes(-len(data) % _ALIGNMENT))
        size += len(parts[-1])
    return starts, b"".join(parts)


@cache
def declarations() -> str:
    """What the header of every library declares: that of ``run.c``, which several headers of one program may hold."""
    return (resources.files(__package__) / "graphopt_model.h").read_text(encoding="utf-8")


@cache
def _run_object(architecture: str) -> bytes:
    return (resources.files(__package__) / "objects" / f"{architecture}.o").read_bytes()
