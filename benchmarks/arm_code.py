"""What aarch64 instructions are: their text as LLVM writes it, their kind, and which blocks of them follow one another."""

from __future__ import annotations

import re
import subprocess
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from arm_emulation import Block, Counts

_LLVM_MC = "llvm-mc-19"
_LLVM_NM = "llvm-nm-19"

KINDS = ("multiply-add", "load", "store", "copy", "spill", "prefetch", "other vector", "scalar", "branch")
"""Multiply-adds are those of vectors, dot products and products of matrices among them; a copy is one of a whole vector
register to another; spills are loads and stores of whole vector registers on the stack."""

_MULTIPLY_ADD = re.compile(
    r"^(fml[as]l?2?|[su]dot|usdot|sudot|[su]mmla|usmmla|bfdot|bfmmla|bfmlal[bt]|ml[as]|[su]ml[as]l2?)\s+v\d"
)
_COPY = re.compile(r"^mov\s+v\d+\.(16b|8b), v\d+\.\1$")
_BRANCH = re.compile(r"^(b|b\.\w+|bl|br|blr|ret|cbn?z|tbn?z)(\s|$)")
_VECTOR = re.compile(r"^\w+\s+(\{ )?[vqdshb]\d+\b")
_ANY_VECTOR = re.compile(r"[\s{,][vqdshb]\d+\b")
_STACK = re.compile(r"^(ld|st)\w+\s+q\d+.*\[sp")
_LEAVES = re.compile(r"^(b|bl|br|blr|ret)(\s|$)")


def kind(text: str) -> str:
    """One of `KINDS`."""
    if _MULTIPLY_ADD.match(text):
        return "multiply-add"
    if _BRANCH.match(text):
        return "branch"
    if _STACK.match(text):
        return "spill"
    if text.startswith("prf"):
        return "prefetch"
    if text.startswith("ld"):
        return "load"
    if text.startswith("st"):
        return "store"
    if _COPY.match(text):
        return "copy"
    return "other vector" if _VECTOR.match(text) or _ANY_VECTOR.search(text) else "scalar"


def is_wide_multiply_add(text: str) -> bool:
    """Whether an instruction multiplies and adds vectors of 128 bits."""
    return kind(text) == "multiply-add" and re.search(r" v\d+\.(4s|8h|16b|2d),", text) is not None


def is_branch(text: str) -> bool:
    """Whether an instruction may go elsewhere than to the next."""
    return _BRANCH.match(text) is not None


@dataclass
class Disassembler:
    """Texts of instructions, each asked for once."""

    known: dict[str, str] = field(default_factory=dict)

    def learn(self, words: Iterable[str]) -> None:
        """Look up many instructions, given as the hexadecimal digits of their bytes, in one call of LLVM's."""
        new = sorted({word for word in words if word not in self.known})
        if not new:
            return
        lines = ["".join(f"0x{word[i : i + 2]} " for i in range(0, 8, 2)) for word in new]
        done = subprocess.run(
            [_LLVM_MC, "--disassemble", "-triple=aarch64", "-mattr=+all"],
            input="\n".join(lines), capture_output=True, text=True, check=False,
        )  # fmt: skip
        invalid = {int(n) - 1 for n in re.findall(r"^<stdin>:(\d+):\d+: warning: invalid", done.stderr, re.MULTILINE)}
        texts = [line.strip() for line in done.stdout.splitlines() if line.startswith("\t") and line[1] != "."]
        valid = [word for index, word in enumerate(new) if index not in invalid]
        if len(texts) != len(valid):
            raise RuntimeError(f"{_LLVM_MC} gave {len(texts)} instructions for {len(valid)}: {done.stderr[-500:]}")
        self.known.update({new[index]: ".inst 0x" + _value(new[index]) for index in invalid})
        self.known.update(zip(valid, (re.sub(r"\s+", " ", text) for text in texts), strict=True))

    def texts(self, words: Sequence[str]) -> tuple[str, ...]:
        """Texts of instructions; ``.inst`` where LLVM knows none."""
        self.learn(words)
        return tuple(self.known[word] for word in words)


def _value(word: str) -> str:
    return bytes.fromhex(word)[::-1].hex()


@dataclass(frozen=True)
class Trace:
    """Instructions that run one after the other equally often: blocks of which each falls through to the next.

    Attributes:
        path: file that they are mapped from.
        offset: of the first in that file.
        texts: the instructions.
        count: how often the first one ran.
        executed: how many instructions ran, exactly.
    """

    path: str
    offset: int
    texts: tuple[str, ...]
    count: int
    executed: int

    @property
    def is_loop(self) -> bool:
        """Whether the last one branches to the first."""
        match = re.search(r"#(-\d+)$", self.texts[-1])
        return bool(match) and _BRANCH.match(self.texts[-1]) is not None and (
            int(match[1]) == -4 * (len(self.texts) - 1)  # type: ignore[index]
        )  # fmt: skip

    def kinds(self) -> Counter[str]:
        """How many of the instructions are of each kind."""
        return Counter(map(kind, self.texts))


def traces(counts: Counts, disassembler: Disassembler, tolerance: float = 0.02) -> list[Trace]:
    """Blocks, joined where one that ends with a branch not taken is followed by one that runs as often.

    A loop with an exit in its middle, or one that lies in two pages of memory, is several blocks for qemu. Where the second page is
    also jumped to, it runs more often: what falls into it gets a copy of it.

    Args:
        tolerance: by which part the counts of blocks that are joined may differ; that of the first is taken for all.
    """
    disassembler.learn(word for block in counts for word in block.words)
    counts = _up_to_branches(counts, disassembler)
    starting = defaultdict(list)
    for block in counts:
        starting[block.path, block.offset].append(block)
    following = {}
    for block, count in counts.items():
        if _LEAVES.match(disassembler.known[block.words[-1]]):
            continue
        near = [b for b in starting[block.path, block.end] if abs(counts[b] - count) <= tolerance * count]
        if block.path and len(near) == 1:
            following[block] = near[0]
    inner = set(following.values())
    found, seen = [], set()
    # Blocks that others fall through to come last: they are left over where they follow one another in a circle.
    for block in sorted(counts, key=lambda b: b in inner):
        chain = []
        link = block if block not in seen else None
        while link is not None and link not in seen:
            seen.add(link)
            chain.append(link)
            link = following.get(link)
        if chain:
            words = [word for part in chain for word in part.words]
            executed = sum(counts[part] * len(part.words) for part in chain)
            found.append(Trace(block.path, block.offset, disassembler.texts(words), counts[block], executed))
    return found


def _up_to_branches(counts: Counts, disassembler: Disassembler) -> Counts:
    """Blocks, those that end with no branch together with the one that always follows."""
    whole: Counts = Counter(counts)
    starting = defaultdict(list)
    for block in counts:
        starting[block.path, block.offset].append(block)
    # From the last one on, so that one that follows is whole before it is copied.
    for block in sorted(counts, key=lambda block: -block.offset):
        following = starting[block.path, block.end]
        if not block.path or is_branch(disassembler.known[block.words[-1]]) or len(following) != 1:
            continue
        rest, count = following[0], whole[block]
        if whole[rest] < count:  # an interrupt, or code that changed
            continue
        whole[rest] -= count
        del whole[block]
        joined = Block(block.path, block.offset, block.code + rest.code)
        whole[joined] += count
        starting[block.path, block.offset] = [joined]
    return +whole


@dataclass(frozen=True)
class Symbols:
    """Functions of a shared library by the offset of their code in the file."""

    starts: tuple[int, ...]
    names: tuple[str, ...]

    @staticmethod
    def of(library: Path) -> Symbols:
        """Read them, local ones too."""
        done = subprocess.run([_LLVM_NM, "--defined-only", str(library)], capture_output=True, text=True, check=True)
        rows = [line.split() for line in done.stdout.splitlines()]
        shift = _code_shift(library)
        places = sorted((int(r[0], 16) - shift, r[2]) for r in rows if len(r) == 3 and r[1] in "tTwW")
        places = [p for p in places if not p[1].startswith("$")]  # marks of code and data among the code
        return Symbols(tuple(p[0] for p in places), tuple(p[1] for p in places))

    def name(self, offset: int) -> str:
        """The function that an instruction belongs to; empty before the first."""
        index = bisect_right(self.starts, offset) - 1
        return self.names[index] if index >= 0 else ""


def code_of(library: Path) -> tuple[int, bytes]:
    """Offset and bytes of the section ``.text`` of an ELF file."""
    data = library.read_bytes()
    table, size, count, names = (_number(data, a, b) for a, b in ((40, 48), (58, 60), (60, 62), (62, 64)))
    sections = [data[table + size * i : table + size * (i + 1)] for i in range(count)]
    strings = _number(sections[names], 24, 32)
    for section in sections:
        name = strings + _number(section, 0, 4)
        if data[name : data.index(0, name)] == b".text":
            offset = _number(section, 24, 32)
            return offset, data[offset : offset + _number(section, 32, 40)]
    raise ValueError(f"{library} has no code")


def _code_shift(library: Path) -> int:
    """By how much addresses of code exceed its offsets in an ELF file."""
    data = library.read_bytes()
    table, size, count = (_number(data, a, b) for a, b in ((32, 40), (54, 56), (56, 58)))
    load, executable = 1, 1
    for start in range(table, table + size * count, size):
        header = data[start : start + size]
        if _number(header, 0, 4) == load and _number(header, 4, 8) & executable:
            return _number(header, 16, 24) - _number(header, 8, 16)
    raise ValueError(f"{library} has no code")


def _number(data: bytes, start: int, end: int) -> int:
    return int.from_bytes(data[start:end], "little")
