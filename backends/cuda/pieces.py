"""What a module for GPUs is linked from, as the cache keeps it: a model that was compiled before needs no code generation at all.

An entry is the length of a JSON text, that text, then objects one after the other; the text has their sizes, and of each code for a
GPU what it is for, how large it is and what ptxas reported.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import tvm_ffi
from graphopt.backends.build import object_cache
from graphopt.backends.build.kernel_object import tvm_identity
from graphopt.backends.build.object_cache import ObjectCache
from graphopt.backends.cuda.nvrtc import available_compilers, compiler_identity, is_virtual
from graphopt.backends.cuda.resources import KernelResources, resources_in

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class CodeReport:
    """One code of the container: architecture, bytes, and what ptxas said of its kernels."""

    arch: str
    size: int
    log: str

    @property
    def resources(self) -> dict[str, KernelResources]:
        """By kernel; none of PTX."""
        return resources_in(self.log)


@dataclass(frozen=True)
class Pieces:
    """What is linked.

    Attributes:
        objects: object files: the host's code, and the container of machine code beside the VM's bytecode.
        codes: what is in the container.
    """

    objects: tuple[bytes, ...]
    codes: tuple[CodeReport, ...]

    def kernels(self) -> dict[str, dict[str, KernelResources]]:
        """By kernel, then by architecture."""
        found: dict[str, dict[str, KernelResources]] = {}
        for code in self.codes:
            for name, taken in code.resources.items():
                found.setdefault(name, {})[code.arch] = taken
        return found


def pieces_key(mod: Any, target: Target) -> str | None:
    """Hex SHA-256 of all that the pieces of a module depend on; None without a compiler of CUDA C."""
    present = available_compilers()
    if not present:
        return None
    goal = json.dumps([target.config, target.host], sort_keys=True)
    parts = ["cuda pieces", tvm_identity(), _own_code(), compiler_identity(present[0]), goal]
    digest = hashlib.sha256()
    for part in (*parts, tvm_ffi.serialization.to_json_graph_str(mod)):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def kept_pieces(cache: ObjectCache | None, key: str | None) -> Pieces | None:
    """The pieces that the cache has under a key."""
    entry = cache.get(key) if cache and key else None
    if entry is None:
        return None
    end = _LENGTH.size + _LENGTH.unpack_from(entry)[0]
    facts = json.loads(entry[_LENGTH.size : end])
    objects = []
    for size in facts["objects"]:
        objects.append(entry[end : end + size])
        end += size
    return Pieces(tuple(objects), tuple(CodeReport(**code) for code in facts["codes"]))


def keep_pieces(cache: ObjectCache | None, key: str | None, pieces: Pieces) -> None:
    """Leave pieces in the cache. What no compiler for GPUs has made (it reports on each code) isn't kept."""
    if cache is None or key is None or not all(code.log or is_virtual(code.arch) for code in pieces.codes):
        return
    codes = [{"arch": code.arch, "size": code.size, "log": code.log} for code in pieces.codes]
    facts = json.dumps({"objects": [len(o) for o in pieces.objects], "codes": codes}).encode()
    cache.put(key, _LENGTH.pack(len(facts)) + facts + b"".join(pieces.objects))
    cache.trim()


@cache
def _own_code() -> str:
    """Digest of the files here that make code of a module."""
    digest = hashlib.sha256()
    folders: Sequence[Path] = (Path(__file__).parent, Path(object_cache.__file__).parent)
    for file in sorted(f for folder in folders for f in folder.rglob("*") if f.suffix in (".py", ".cuh")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
