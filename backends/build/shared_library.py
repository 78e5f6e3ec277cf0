"""A TVM module as a shared library: its machine code as objects, everything else packed into one more, all of it linked.

TVM's own ``export_library`` has LLVM write the objects to files, and LLVM ends the process when a disk is full. Here LLVM
writes to memory, and Python to files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from graphopt.backends.base.scratch import scratch_folder
from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import get_global_func
from graphopt.backends.build.link import Linker
from graphopt.errors import CompileError

try:
    import resource
except ImportError:  # not a POSIX system, so there is no such limit
    resource = None  # type: ignore[assignment,unused-ignore]

_LARGEST_OBJECT = 16 << 20
"""Bytes, with much to spare: a kernel's object has tens of kilobytes."""

Packer = Callable[[Any], bytes]
"""From a module to an object that holds, as data, what of it and its imports is no machine code of the host."""


def object_bytes(module: Any) -> bytes:
    """The object file of an LLVM module.

    Raises:
        CompileError: the process may not write files that are large enough, which includes those in memory.
        OSError: there is no room for it.
    """
    _require_file_size()
    if not hasattr(os, "memfd_create"):
        with scratch_folder() as folder:
            path = folder / "module.o"
            module.write_to_file(str(path), "o")
            return path.read_bytes()
    handle = os.memfd_create("graphopt-object")
    try:
        module.write_to_file(f"/proc/self/fd/{handle}", "o")
        with open(handle, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)


def host_objects(module: Any) -> list[bytes]:
    """Objects of a module and its imports, as far as they are machine code of the host."""
    return [object_bytes(part) for part in _tree(module) if part.is_compilation_exportable()]


def pack_imports(module: Any, target: Target) -> bytes:
    """A packer for modules of a CPU: the VM's bytecode and its constants."""
    packed = get_global_func("runtime.ModulePackImportsToLLVM")(
        module, False, json.dumps(target.host, sort_keys=True), ""
    )
    return object_bytes(packed)


def link_objects(objects: Sequence[bytes], path: Path, linker: Linker, options: Sequence[str] = ()) -> None:
    """Link objects into the shared library ``path``, with further options of the linker.

    Raises:
        CompileError: the linker failed.
        OSError: there is no room for the objects.
    """
    with scratch_folder() as folder:
        files = [folder / f"object{i}.o" for i in range(len(objects))]
        for file, content in zip(files, objects):
            file.write_bytes(content)
        linker(path, [str(file) for file in files], options)


def _require_file_size() -> None:
    """Refuse early: when it hits the limit, LLVM ends the process."""
    if resource is None:
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and limit < _LARGEST_OBJECT:
        raise CompileError(
            f"this process may write files of {limit} bytes only; machine code needs up to {_LARGEST_OBJECT}",
            code="file-size-limit",
            hint="raise the limit (ulimit -f)",
        )


def _tree(module: Any) -> Iterator[Any]:
    yield module
    for part in module.imports:
        yield from _tree(part)
