"""Innermost loops of compiled ARM code, as they stand: multiply-adds a modelled cycle, copies of registers and spills.

    python benchmarks/arm_loops.py [--target T] [--precision P] [--least N] [--kernel NAME] [--show] SOURCE ...

A SOURCE is an assembly file (``.s``), a shared library (``.so``), a model of the zoo or an ONNX file; models are compiled, nothing
is run and no emulator is needed. For every function, loops without loops inside that have at least N vector multiply-adds. "FMA" is
how many of these start a modelled cycle, in percent of what the core can start: 2 on neoverse-n1, 1 on cortex-a55.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from arm_code import Disassembler, Symbols, code_of, is_branch, kind
from arm_cycles import CORES, steady_cycles
from arm_kernels import source_and_feed
from arm_ours import compile_for
from report import Report, number


@dataclass(frozen=True)
class Loop:
    """Instructions from where a loop's last branch goes to, to that branch.

    Attributes:
        function: that it is in.
        texts: its instructions.
    """

    function: str
    texts: tuple[str, ...]

    def count(self, *kinds: str) -> int:
        """Instructions of these kinds."""
        return sum(kind(text) in kinds for text in self.texts)


def innermost(texts: Sequence[str], targets: Sequence[int | None]) -> Iterator[tuple[int, int]]:
    """First and last instruction of each loop that has none inside.

    Args:
        texts: of a function.
        targets: for each instruction the index of the one that it branches to, None for those that don't.
    """
    ranges = [(to, at) for at, to in enumerate(targets) if to is not None and to <= at and is_branch(texts[at])]
    for first, last in ranges:
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in ranges):
            yield first, last


def loops_of_assembly(text: str) -> list[Loop]:
    """Of an assembly file, as LLVM and GCC write it."""
    labels: dict[str, int] = {}
    texts: list[str] = []
    owner: list[str] = []
    function = ""
    for line in text.splitlines():
        bare = re.sub(r"\s+", " ", line.partition("//")[0]).strip()
        if label := re.match(r"^([\w.$]+):", bare):
            labels[label[1]] = len(texts)
            if not label[1].startswith("."):
                function = label[1]
        elif bare and not bare.startswith("."):
            texts.append(bare)
            owner.append(function)
    targets = [labels.get(text.rpartition(" ")[2]) if is_branch(text) else None for text in texts]
    return [Loop(owner[first], tuple(texts[first : last + 1])) for first, last in innermost(texts, targets)]


def loops_of_library(library: Path) -> list[Loop]:
    """Of a shared library's functions."""
    start, code = code_of(library)
    symbols = Symbols.of(library)
    words = [code[i : i + 4].hex() for i in range(0, len(code) - 3, 4)]
    texts = Disassembler().texts(words)
    targets = []
    for at, text in enumerate(texts):
        match = re.search(r"#(-\d+)$", text) if is_branch(text) else None
        targets.append(at + int(match[1]) // 4 if match else None)
    found = []
    for first, last in innermost(texts, targets):
        name = symbols.name(start + 4 * first)
        if name == symbols.name(start + 4 * last):
            found.append(Loop(name, texts[first : last + 1]))
    return found


def loops_of(source: str, target: str, precision: str | None) -> list[Loop]:
    """Of a file, or of what a model is compiled to."""
    path = Path(source)
    if path.suffix == ".s":
        return loops_of_assembly(path.read_text())
    if path.suffix == ".so":
        return loops_of_library(path)
    built = compile_for(*source_and_feed(source), target, precision).built
    assert built is not None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library.so"
        library.write_bytes(built.library_bytes())
        return loops_of_library(library)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--target", default="arm:neoverse-n1")
    parser.add_argument("--precision")
    parser.add_argument("--least", type=int, default=8, help="multiply-adds of a loop that is shown")
    parser.add_argument("--kernel", default="", help="only functions whose name begins so")
    parser.add_argument("--show", action="store_true", help="print the instructions")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    report = Report("Inner loops", "Cycles are what llvm-mca gives for a loop that runs for long, without caches.")
    cells = [f"{core.name}: {what}" for core in CORES.values() for what in ("cycles", "FMA")]
    kinds = ("multiply-add", "load", "copy", "spill", "prefetch", "other vector", "scalar")
    for source in args.sources:
        loops = [
            loop
            for loop in loops_of(source, args.target, args.precision)
            if loop.count("multiply-add") >= args.least and loop.function.startswith(args.kernel)
        ]
        times = {name: steady_cycles([loop.texts for loop in loops], core) for name, core in CORES.items()}
        report.add(f"## {source}", "")
        report.head("function", "instructions", *kinds, *cells)
        for loop in loops:
            found = []
            for name, core in CORES.items():
                spent = times[name][loop.texts][0]
                found += [number(spent, 1), number(100 * loop.count("multiply-add") / spent / core.multiply_adds, 0)]
            report.row(loop.function, len(loop.texts), *(loop.count(k) for k in kinds), *found)
            if args.show:
                report.add("", "```text", *loop.texts, "```", "")
        report.add("")
    report.write(args.write)


if __name__ == "__main__":
    main()
