"""The question that libraries for ARM ask before their first kernel runs: whether the processor has their instructions.

Machine code made with each release, as that of the pool is; linking writes what the code needs into it. The loader of Python asks
before it loads a library; this is for whoever else loads one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from graphopt.errors import InternalError

ARCHITECTURES = ("aarch64", "armv7a")
REQUIRE = "graphopt_require_processor"
"""Name of the function, in a model's library, that fails on a processor that lacks something."""

_MARK = b"GRAPHOPT NEEDS:\0"
_TARGET_BYTES, _NAME_BYTES, _MOST = 64, 14, 24


@dataclass(frozen=True)
class KernelFlag:
    """How Linux tells of a feature.

    Attributes:
        name: in the ``Features`` of ``/proc/cpuinfo``.
        word: entry of the auxiliary vector: 0 for ``AT_HWCAP``, 1 for ``AT_HWCAP2``.
        bit: its bit there.
    """

    name: str
    word: int
    bit: int


def asks(triple: str) -> bool:
    """Whether libraries for an LLVM target triple ask: for Linux on the ``ARCHITECTURES``, which tells of features by bits."""
    architecture, _, system = triple.partition("-")
    return architecture in ARCHITECTURES and "linux" in system


def question(triple: str, target: str, needs: Sequence[KernelFlag]) -> list[bytes]:
    """The ELF objects that ask for ``needs``, to be linked into a library: one, or none where libraries don't ask.

    Args:
        triple: of the library.
        target: what it is compiled for, for the message.
        needs: features that the code uses.
    """
    if not asks(triple):
        return []
    if len(needs) > _MOST:
        raise InternalError(f"{len(needs)} features are more than a library can ask for")
    table = _text(target, _TARGET_BYTES)
    for flag in sorted(needs, key=lambda f: (f.word, f.bit)):
        table += bytes((flag.word, flag.bit)) + _text(flag.name, _NAME_BYTES)
    code = _object(triple.partition("-")[0])
    start = code.index(_MARK) + len(_MARK)
    return [code[:start] + table + code[start + len(table) :]]


def _text(text: str, size: int) -> bytes:
    """A text of ``size`` bytes with zeros at its end; it loses what doesn't fit."""
    return text.encode("ascii", "replace")[: size - 1].ljust(size, b"\0")


@cache
def _object(architecture: str) -> bytes:
    return (resources.files(__package__) / "objects" / f"{architecture}.o").read_bytes()
