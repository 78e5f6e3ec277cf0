"""NVIDIA's container for code of several architectures, of which the driver takes what fits the GPU when it loads it.

It is a header, then entries one after the other, each a header and machine code or PTX; numbers are little-endian. NVIDIA doesn't
document it. What is written here is byte for byte what libnvfatbin 13.0 writes without compression (a test compares them).

    magic 0xBA55ED50 (u32) | version 1 (u16) | 16, the size of this header (u16) | bytes that follow (u64)

    entry: kind (u16: 1 PTX, 2 ELF) | 0x101 (u16) | size of the entry's header (u32) | size of its content (u64)
           compressed size (u32) | place of options in the header (u32) | minor, major version of the code (u16 each)
           architecture (u32) | place, length of the name in the header (u32 each) | flags (u64) | 0 (u64) | uncompressed size (u64)
           name, padded to 8 | of PTX: place and text of options for ptxas
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

from graphopt.backends.cuda.nvrtc import DeviceCode, is_virtual
from graphopt.errors import InternalError

MAGIC = 0xBA55ED50
_FILE = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQIIHHIIIQQQ")
_PTX, _ELF = 1, 2
_ENTRY_VERSION = 0x101
_64_BIT, _LINUX, _ONLY_THIS = 0x1, 0x10, 0x100000
_NAME = b"kernels"
_ABI_VERSION = 8
"""Where an ELF file says which version of NVIDIA's ABI it follows."""


def fatbin(codes: Sequence[DeviceCode]) -> bytes:
    """The container of these codes, all of the same kernels."""
    entries = b"".join(map(_entry, codes))
    return _FILE.pack(MAGIC, 1, _FILE.size, len(entries)) + entries


def entries_of(container: bytes) -> list[tuple[str, bytes]]:
    """What `fatbin` packed: architecture (``sm_80`` of machine code, ``compute_90`` of PTX) and content.

    Raises:
        InternalError: it is no such container.
    """
    magic, _, start, size = _FILE.unpack_from(container) if len(container) >= _FILE.size else (0, 0, 0, 0)
    end = start + size
    if magic != MAGIC or end > len(container):
        raise InternalError("not a container of CUDA code")
    found = []
    while start < end:
        kind, _, header, length, *_, sm, _, _, flags, _, _ = _ENTRY.unpack_from(container, start)
        content = container[start + header : start + header + length]
        arch = f"compute_{sm}" if kind == _PTX else f"sm_{sm}{'a' if flags & _ONLY_THIS else ''}"
        found.append((arch, content.rstrip(b"\0") if kind == _PTX else content))
        start += header + length
    return found


def _entry(code: DeviceCode) -> bytes:
    name = _padded(_NAME + b"\0")
    header = _ENTRY.size + len(name)
    flags = _64_BIT | _LINUX | (_ONLY_THIS if code.arch.endswith("a") else 0)
    sm = int(re.sub(r"\D", "", code.arch))
    if is_virtual(code.arch):
        version = re.search(rb"^\.version (\d+)\.(\d+)", code.content, re.MULTILINE)
        if version is None:
            raise InternalError("PTX without a version")
        kind, options, (major, minor) = _PTX, header, map(int, version.groups())
        name += struct.pack("<QQ", header + 8, 0)  # no options
        header += 16
        content = _padded(_without_comments(code.content) + b"\0")
    else:
        kind, options, major, minor = _ELF, 0, 1, code.content[_ABI_VERSION]
        content = _padded(code.content)
    fields = (kind, _ENTRY_VERSION, header, len(content), 0, options, minor, major, sm, _ENTRY.size, len(_NAME))
    return _ENTRY.pack(*fields, flags, 0, 0) + name + content


def _without_comments(ptx: bytes) -> bytes:
    """Shorter by a third; a string, where ``//`` would be no comment, is in debugging information only."""
    return re.sub(rb"//[^\n]*|\t", b"", ptx)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 8)
