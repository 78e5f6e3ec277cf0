"""ELF objects of data: bytes, names for places in them, and pointers that the linker fills in. Little-endian, 64 and 32 bits."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from graphopt.errors import InternalError


@dataclass(frozen=True)
class Machine:
    """What objects of an architecture have in common.

    Attributes:
        bits: of a pointer.
        number: ``e_machine``.
        pointer: type of the relocation that stores an address.
        flags: ``e_flags``.
    """

    bits: int
    number: int
    pointer: int
    flags: int = 0


MACHINES = {"x86_64": Machine(64, 62, 1), "aarch64": Machine(64, 183, 257), "armv7a": Machine(32, 40, 2, 0x05000400)}
"""By the machine of a triple. ARM's flags: version 5 of its ABI, floats in registers."""


@dataclass
class Section:
    """A part of an object.

    Attributes:
        name: ``.rodata``, or ``.data.rel.ro`` if it holds pointers.
        data: its bytes; zeros where pointers go.
        symbols: public names, each of an offset and a number of bytes; programs that refer to a library's data may copy so many.
        pointers: by offset, the symbol or section to point to, and how far into it. Each has 8 bytes, whatever the machine.
    """

    name: str
    data: bytes
    symbols: dict[str, tuple[int, int]] = field(default_factory=dict)
    pointers: dict[int, tuple[str, int]] = field(default_factory=dict)


_ALIGNMENT = 64
_PROGBITS, _SYMTAB, _STRTAB, _RELA, _REL = 1, 2, 3, 4, 9
_WRITE, _ALLOC, _INFO_LINK = 1, 2, 0x40


def elf_object(architecture: str, sections: list[Section]) -> bytes:
    """The object file; names that no section has are looked up when it is linked.

    Args:
        architecture: of `MACHINES`.
        sections: each starts at a multiple of 64 bytes in memory.

    Raises:
        InternalError: there is no such architecture.
    """
    if architecture not in MACHINES:
        raise InternalError(f"no ELF objects for {architecture}")
    return _Writer(MACHINES[architecture], sections).content()


class _Names:
    """A table of strings."""

    def __init__(self) -> None:
        self.data = bytearray(1)

    def add(self, text: str) -> int:
        at = len(self.data)
        self.data += text.encode("ascii") + b"\0"
        return at


class _Writer:
    def __init__(self, machine: Machine, sections: list[Section]) -> None:
        self.machine, self.sections = machine, sections
        self.wide = machine.bits == 64
        self.names = _Names()
        self.numbers = {section.name: i for i, section in enumerate(sections, 1)}  # of sections, and of their symbols
        self.symbols = [self._symbol(0, 0, 0, 0, 0)] + [self._symbol(0, 0, 0, 3, i) for i in self.numbers.values()]
        self.locals = len(self.symbols)
        for section in sections:
            for name, (at, size) in section.symbols.items():
                self._add(name, at, size, 0x11, self.numbers[section.name])  # global, an object
        for section in sections:
            for name, _ in section.pointers.values():
                if name not in self.numbers:
                    self._add(name, 0, 0, 0x10, 0)

    def content(self) -> bytes:
        parts: list[tuple[str, int, int, bytes, int, int, int, int]] = []
        for section in self.sections:
            data = bytearray(section.data)
            if not self.wide:  # addends lie where the pointers go
                for at, (_, addend) in section.pointers.items():
                    struct.pack_into("<I", data, at, addend)
            flags = _ALLOC | (_WRITE if section.pointers else 0)
            parts.append((section.name, _PROGBITS, flags, bytes(data), 0, 0, _ALIGNMENT, 0))
        table = len(self.sections) + sum(bool(s.pointers) for s in self.sections) + 1
        for section in self.sections:
            if section.pointers:
                kind, prefix, size = (_RELA, ".rela", 24) if self.wide else (_REL, ".rel", 8)
                found = b"".join(self._relocation(at, *to) for at, to in sorted(section.pointers.items()))
                number = self.numbers[section.name]
                parts.append((prefix + section.name, kind, _INFO_LINK, found, table, number, 8, size))
        entry = 24 if self.wide else 16
        parts.append((".symtab", _SYMTAB, 0, b"".join(self.symbols), table + 1, self.locals, 8, entry))
        parts.append((".strtab", _STRTAB, 0, bytes(self.names.data), 0, 0, 1, 0))
        parts.append((".note.GNU-stack", _PROGBITS, 0, b"", 0, 0, 1, 0))  # no code here wants to run on the stack
        return self._file(parts)

    def _file(self, parts: list[tuple[str, int, int, bytes, int, int, int, int]]) -> bytes:
        names = _Names()
        starts = [names.add(part[0]) for part in parts]
        own = names.add(".shstrtab")
        parts = [*parts, (".shstrtab", _STRTAB, 0, bytes(names.data), 0, 0, 1, 0)]
        head = 64 if self.wide else 52
        out = bytearray(head)
        headers = [self._header(0, 0, 0, 0, 0, 0, 0, 0, 0)]
        for start, (_, kind, flags, data, link, info, alignment, entry) in zip([*starts, own], parts, strict=True):
            out += bytes(-len(out) % alignment)
            headers.append(self._header(start, kind, flags, len(out), len(data), link, info, alignment, entry))
            out += data
        out += bytes(-len(out) % 8)
        identity = b"\x7fELF" + bytes([2 if self.wide else 1, 1, 1]) + bytes(9)
        form = "<16sHHIQQQIHHHHHH" if self.wide else "<16sHHIIIIIHHHHHH"
        struct.pack_into(
            form, out, 0, identity, 1, self.machine.number, 1, 0, 0, len(out), self.machine.flags, head, 0, 0,
            64 if self.wide else 40, len(headers), len(headers) - 1,
        )  # fmt: skip
        return bytes(out) + b"".join(headers)

    def _header(self, *values: int) -> bytes:
        name, kind, flags, offset, size, link, info, alignment, entry = values
        form = "<IIQQQQIIQQ" if self.wide else "<IIIIIIIIII"
        return struct.pack(form, name, kind, flags, 0, offset, size, link, info, alignment, entry)

    def _add(self, name: str, value: int, size: int, info: int, section: int) -> None:
        if name not in self.numbers:
            self.numbers[name] = len(self.symbols)
            self.symbols.append(self._symbol(self.names.add(name), value, size, info, section))

    def _symbol(self, name: int, value: int, size: int, info: int, section: int) -> bytes:
        if self.wide:
            return struct.pack("<IBBHQQ", name, info, 0, section, value, size)
        return struct.pack("<IIIBBH", name, value, size, info, 0, section)

    def _relocation(self, at: int, name: str, addend: int) -> bytes:
        number, kind = self.numbers[name], self.machine.pointer
        if self.wide:
            return struct.pack("<QQq", at, number << 32 | kind, addend)
        return struct.pack("<II", at, number << 8 | kind)
