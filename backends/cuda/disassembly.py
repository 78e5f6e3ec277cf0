"""Machine code of GPUs as text: what instructions a kernel has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import CompileError

_SECTION = re.compile(r"\n\s*\.section\s+\.text\.(\w+)")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[T\d]+\s+)?([A-Z][A-Z0-9_.]*)")
_LOCAL = ("LDL", "STL")
_SPECIAL = ("MUFU",)


def disassembler() -> str | None:
    """NVIDIA's disassembler: that of pip's nvidia-cuda-nvdisasm, else one on PATH."""
    packages = Path(sysconfig.get_paths()["purelib"], "nvidia")
    found = sorted(packages.glob("cu*/bin/nvdisasm"))
    return str(found[-1]) if found else shutil.which("nvdisasm")


@dataclass(frozen=True)
class Machine:
    """A kernel's machine code.

    Attributes:
        instructions: in the order of memory, up to the last store or exit of the common path: what follows are subroutines for
            numbers that a division or a root treats apart.
    """

    instructions: tuple[str, ...]

    def count(self, *names: str) -> int:
        """Instructions whose name begins with one of ``names``."""
        return sum(i.startswith(names) for i in self.instructions)

    @property
    def uses_local_memory(self) -> bool:
        """Whether registers were spilled, or an array didn't become registers."""
        return self.count(*_LOCAL) > 0

    @property
    def special(self) -> int:
        """Exponentials, logarithms, reciprocals and roots."""
        return self.count(*_SPECIAL)

    def __str__(self) -> str:
        return ", ".join(f"{n} {name}" for name, n in sorted(Counter(self.instructions).items()))


def kernels_in(cubin: bytes) -> Mapping[str, Machine]:
    """The kernels of a cubin, by name.

    Raises:
        CompileError: there is no disassembler.
    """
    program = disassembler()
    if program is None:
        raise CompileError("no nvdisasm on this machine", hint="pip install nvidia-cuda-nvdisasm")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([program, "-c", file.name], capture_output=True, text=True, check=True).stdout
    parts = _SECTION.split("\n" + text)
    found = {}
    for name, body in zip(parts[1::2], parts[2::2]):
        names = _INSTRUCTION.findall(body)
        last = max((i for i, n in enumerate(names) if n.startswith("ST")), default=len(names) - 1)
        found[name] = Machine(tuple(names[: last + 2]))
    return found
