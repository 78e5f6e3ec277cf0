"""Machine code of GPUs as text, by NVIDIA's disassembler from pip."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_.]+)", re.MULTILINE)
_SECTION = re.compile(r"^\.text\.(\w+):$", re.MULTILINE)


def disassembler() -> str | None:
    """Path of ``nvdisasm``, None if there is none."""
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations or () if spec else ():
        for found in sorted(Path(place).glob("cu*/bin/nvdisasm")):
            return str(found)
    return shutil.which("nvdisasm")


def instructions(cubin: bytes) -> dict[str, list[str]]:
    """The instructions of each kernel of a cubin, with their modifiers and without operands, in order.

    Raises:
        RuntimeError: there is no disassembler.
    """
    program = disassembler()
    if program is None:
        raise RuntimeError("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "code.cubin")
        path.write_bytes(cubin)
        text = subprocess.run([program, "-c", str(path)], capture_output=True, text=True, check=True).stdout
    parts = _SECTION.split(text)
    return {name: _INSTRUCTION.findall(body) for name, body in zip(parts[1::2], parts[2::2])}
