"""What kernels take of a multiprocessor, as ptxas reports it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

_KERNEL = re.compile(r"Compiling entry function '([^']+)'")
_NUMBERS = {
    "registers": re.compile(r"Used (\d+) registers"),
    "spilled": re.compile(r"(\d+) bytes spill stores"),
    "stack": re.compile(r"(\d+) bytes stack frame"),
    "shared": re.compile(r"(\d+) bytes smem"),
    "barriers": re.compile(r"used (\d+) barriers"),
}


@dataclass(frozen=True)
class KernelResources:
    """Of one kernel on one architecture.

    Attributes:
        registers: of a thread; 65536 of a multiprocessor are shared by all that it runs at once.
        spilled: bytes that a thread stores to local memory because it has no registers left for them, each store counted.
        stack: bytes of a thread's local memory, those spilled and arrays with indices known at run time only.
        shared: bytes of a block's static shared memory; what a launch asks for besides is not in it.
        barriers: barriers of a block.
    """

    registers: int
    spilled: int = 0
    stack: int = 0
    shared: int = 0
    barriers: int = 0

    def __str__(self) -> str:
        rest = [
            f"{self.spilled} bytes spilled" if self.spilled else "no spills",
            *([f"{self.stack} bytes of stack"] if self.stack else []),
            *([f"{self.shared} bytes of shared memory"] if self.shared else []),
        ]
        return f"{self.registers} registers, {', '.join(rest)}"

    def to_dict(self) -> dict[str, int]:
        """JSON-ready form."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def resources_in(log: str) -> dict[str, KernelResources]:
    """The kernels in a log of ``ptxas -v``, by name, in alphabetical order: ptxas works on several at once."""
    found: dict[str, KernelResources] = {}
    parts = _KERNEL.split(log)
    for name, text in zip(parts[1::2], parts[2::2]):
        numbers = {key: int(match[1]) for key, pattern in _NUMBERS.items() if (match := pattern.search(text))}
        if "registers" in numbers:
            found[name] = KernelResources(**numbers)
    return dict(sorted(found.items()))


def of_function(function: str, kernels: Mapping[str, KernelResources]) -> dict[str, KernelResources]:
    """The kernels that TVM cut a function into: ``f_kernel``, ``f_kernel_1`` and so on, in order of launch."""
    pattern = re.compile(re.escape(function) + r"_kernel(?:_(\d+))?")
    named = [(int(match[1] or 0), name) for name in kernels if (match := pattern.fullmatch(name))]
    return {name: kernels[name] for _, name in sorted(named)}
