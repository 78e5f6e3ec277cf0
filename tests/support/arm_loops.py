"""The loops of 64-bit ARM machine code, as LLVM prints it: what tests say of its shape."""

from __future__ import annotations

import re
from collections import Counter

_LABEL = re.compile(r"([.\w$]+):")
_BRANCH = re.compile(r"(?:b|b\.\w+|cbn?z|tbn?z)\s+(?:.*,\s*)?(\.\w+)$")


def innermost_loops(assembly: str) -> list[list[str]]:
    """The instructions of each loop that holds no other one: code from a label to a branch back to it."""
    lines = [line.split("//")[0].strip() for line in assembly.splitlines()]
    places = {found[1]: i for i, line in enumerate(lines) if (found := _LABEL.match(line))}
    loops = []
    for end, line in enumerate(lines):
        found = _BRANCH.match(line)
        if found is not None and (start := places.get(found[1], end)) < end:
            loops.append((start, end))
    inner = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return [
        [line for line in lines[start : end + 1] if line and line[0] != "." and not _LABEL.match(line)]
        for start, end in inner
    ]


def mnemonics(loop: list[str]) -> Counter[str]:
    """How often each instruction occurs in a loop; copies between vector registers are ``mov v``."""
    return Counter("mov v" if re.match(r"mov\s+v\d+\.16b", line) else line.split()[0] for line in loop)
