"""Putting machine code, never CUDA source, into an exported library.

Without a driver TVM serialises a CUDA module as its source. Its layout is the one of a compiled module, so the source
is compiled here and replaced before the blob becomes a section of the library::

    blob   = u64 size, u64[] indptr, u64[] children, modules
    module = string kind, and unless kind is "_lib": string content
    content of kind "cuda" = string format, function table, string code
    string = u64 length, bytes                                        (all little-endian)
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import get_global_func
from graphopt.backends.build.shared_library import Packer, object_bytes
from graphopt.backends.cuda.fatbin import MAGIC
from graphopt.errors import CompileError, InternalError

_ELF = b"\x7fELF"
_EM_CUDA = 190
_SOURCE = b"cuda"
_CUBIN, _FATBIN = b"cubin", b"fatbin"


def device_code_packer(target: Target, compiled: Callable[[bytes], bytes]) -> Packer:
    """A packer that puts machine code in the place of CUDA modules' source.

    Args:
        target: its host counts.
        compiled: from a source to what the driver loads.
    """

    def pack(module: Any) -> bytes:
        blob = replace_sources(_blob(module), compiled)
        host = json.dumps(target.host, sort_keys=True)
        return object_bytes(get_global_func("codegen.codegen_blob")(blob, False, host, ""))

    return pack


def cuda_source(module: Any) -> str:
    """The CUDA C of a module and all that it imports.

    Raises:
        InternalError: it has none, or several sources, where TVM makes one.
    """
    found: list[bytes] = []

    def see(source: bytes) -> bytes:
        found.append(source)
        return source

    replace_sources(_blob(module), see)
    if len(found) != 1:
        raise InternalError(f"TVM made {len(found)} CUDA sources of a module, where there should be one")
    return found[0].decode()


def _blob(module: Any) -> bytes:
    return bytes(get_global_func("runtime.ModulePackImportsToTensor")(module).numpy().tobytes())


def cubins_in(library: bytes) -> list[bytes]:
    """The headers (64 bytes each) of the CUDA machine-code images inside a library, those in a container too."""
    found = []
    at = library.find(_ELF)
    while at >= 0:
        header = library[at : at + 64]
        if len(header) == 64 and struct.unpack_from("<H", header, 18)[0] == _EM_CUDA:
            found.append(header)
        at = library.find(_ELF, at + 4)
    return found


def require_machine_code(library: Path | bytes) -> None:
    """Check that a library exported for CUDA holds machine code and no source.

    Raises:
        CompileError: it doesn't.
    """
    content = library if isinstance(library, bytes) else library.read_bytes()
    if not cubins_in(content) or b"__global__" in content:
        raise CompileError("the exported library has no CUDA machine code", code="no-device-code")


def replace_sources(blob: bytes, compile_source: Callable[[bytes], bytes]) -> bytes:
    """The import blob with each CUDA source replaced by ``compile_source`` of it; other modules stay as they are.

    Raises:
        InternalError: the blob isn't laid out as this TVM release does.
    """
    reader = _Reader(blob)
    if reader.u64() != len(blob) - 8:
        raise InternalError("TVM's module blob has an unexpected size")
    tree_start = reader.at
    modules = len(reader.vector()) - 1
    reader.vector()
    out = bytearray(blob[tree_start : reader.at])
    for _ in range(modules):
        kind = reader.string()
        out += _string(kind)
        if kind == b"_lib":
            continue
        content = reader.string()
        out += _string(_compiled(content, compile_source) if kind == b"cuda" else content)
    if reader.at != len(blob):
        raise InternalError("TVM's module blob has unexpected trailing bytes")
    return struct.pack("<Q", len(out)) + bytes(out)


def _compiled(content: bytes, compile_source: Callable[[bytes], bytes]) -> bytes:
    reader = _Reader(content)
    form = reader.string()
    if form != _SOURCE:
        if _ELF in content:
            return content
        raise InternalError(f"TVM serialised a CUDA module as {form.decode(errors='replace')!r}")
    table_start = reader.at
    for _ in range(reader.u64()):
        _skip_function(reader)
    table = content[table_start : reader.at]
    source = reader.string()
    if reader.at != len(content):
        raise InternalError("TVM's CUDA module has unexpected trailing bytes")
    code = compile_source(source)
    return _string(_FATBIN if code[:4] == struct.pack("<I", MAGIC) else _CUBIN) + table + _string(code)


def _skip_function(reader: _Reader) -> None:
    """Function table entry: key, name, argument types (4 bytes each), launch tags, argument kinds (i32 each)."""
    reader.string()
    reader.string()
    reader.skip(4 * reader.u64())
    for _ in range(reader.u64()):
        reader.string()
    reader.skip(4 * reader.u64())


def _string(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def skip(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise InternalError("TVM's module blob ends early")
        self.at += count
        return self.data[self.at - count : self.at]

    def u64(self) -> int:
        return int(struct.unpack("<Q", self.skip(8))[0])

    def vector(self) -> list[int]:
        count = self.u64()
        return list(struct.unpack(f"<{count}Q", self.skip(8 * count)))

    def string(self) -> bytes:
        return self.skip(self.u64())
