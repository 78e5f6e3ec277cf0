"""The device's code of a module: one source, compiled for every GPU of a target, side by side, or found in the cache."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from graphopt.backends.base.target import Target
from graphopt.backends.build.object_cache import ObjectCache
from graphopt.backends.build.worker_pool import default_jobs
from graphopt.backends.cuda.fatbin import fatbin
from graphopt.backends.cuda.headers import HEADERS, PREAMBLE
from graphopt.backends.cuda.nvrtc import (
    OPTIONS,
    Compiler,
    DeviceCode,
    chosen_compiler,
    compile_code,
    compiler_identity,
    complete_source,
)
from graphopt.backends.cuda.resources import KernelResources, resources_in

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class MachineCode:
    """Code of all kernels of a module.

    Attributes:
        codes: for each architecture, the oldest first; PTX last.
        cached: how many of them came from the cache.
    """

    codes: tuple[DeviceCode, ...]
    cached: int

    @property
    def image(self) -> bytes:
        """What the driver loads: a cubin where there is but one code, else a container of all of them."""
        return self.codes[0].content if len(self.codes) == 1 else fatbin(self.codes)

    @property
    def resources(self) -> Mapping[str, Mapping[str, KernelResources]]:
        """By architecture, then by kernel; none for PTX, which the driver compiles."""
        return {code.arch: resources_in(code.log) for code in self.codes if code.log}


def machine_code(
    source: str,
    target: Target,
    cache: ObjectCache | None = None,
    jobs: int | None = None,
    compiler: Compiler | None = None,
) -> MachineCode:
    """Compile CUDA C for all architectures of a target.

    Args:
        source: CUDA C as TVM generates it, of all kernels.
        target: a CUDA target.
        cache: where to look for code and to leave it.
        jobs: compilations that run at once; by default `default_jobs`. NVRTC compiles in threads: it lets go of Python's lock.
        compiler: by default the first that there is.

    Raises:
        CompileError: see `compile_code`.
    """
    chosen = chosen_compiler(compiler)
    arches = target.arches
    keys = [code_key(source, arch, chosen) for arch in arches] if cache else []
    found: list[DeviceCode | None] = [None] * len(arches)
    if cache:
        found = [_read(arch, cache.get(key)) for arch, key in zip(arches, keys)]
    missing = [i for i, code in enumerate(found) if code is None]
    if missing:
        with ThreadPoolExecutor(min(len(missing), jobs or default_jobs())) as pool:
            made = pool.map(lambda i: compile_code(source, arches[i], chosen), missing)
            for i, code in zip(missing, made):
                found[i] = code
                if cache:
                    cache.put(keys[i], _written(code))
    if cache:
        cache.trim()
    return MachineCode(tuple(code for code in found if code is not None), len(arches) - len(missing))


def code_key(source: str, arch: str, compiler: Compiler) -> str:
    """Hex SHA-256 of everything that code depends on: the whole source, architecture, compiler and how it is called."""
    parts = [
        "cuda",
        compiler_identity(compiler),
        arch,
        json.dumps([OPTIONS, PREAMBLE, HEADERS]),
        complete_source(source),
    ]
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _written(code: DeviceCode) -> bytes:
    """An entry of the cache: the length of the log, the log, the code."""
    log = code.log.encode()
    return _LENGTH.pack(len(log)) + log + code.content


def _read(arch: str, entry: bytes | None) -> DeviceCode | None:
    if entry is None:
        return None
    end = _LENGTH.size + _LENGTH.unpack_from(entry)[0]
    return DeviceCode(arch, entry[end:], entry[_LENGTH.size : end].decode())
