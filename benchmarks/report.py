"""What every report says: machine, versions, command; and the writing of it."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path

PACKAGES = {
    "graphopt": "graphopt", "TVM": "apache-tvm", "ONNX Runtime": "onnxruntime", "OpenVINO": "openvino", "MNN": "MNN",
    "numpy": "numpy",
}  # fmt: skip


class Report:
    """A markdown report that is printed line by line while it is made.

    Args:
        title: its heading.
        about: what the numbers are, in sentences.
    """

    def __init__(self, title: str, about: str) -> None:
        self.lines: list[str] = []
        command = " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
        self.add(
            f"# {title}", "", f"{date.today()}, {machine()}. {versions()}.", about, "", f"Made by `{command}`.", ""
        )

    def add(self, *lines: str) -> None:
        """Append and print lines."""
        for line in lines:
            print(line, flush=True)
        self.lines += lines

    def head(self, *columns: str) -> None:
        """Start a table."""
        self.add("| " + " | ".join(columns) + " |", "|---" * len(columns) + "|")

    def row(self, *cells: object) -> None:
        """A line of the table."""
        self.add("| " + " | ".join(map(str, cells)) + " |")

    def write(self, path: Path | None) -> None:
        """Save the report, if a path is given."""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(self.lines) + "\n")


def machine() -> str:
    """Processor, cores that this process may use, instruction set width, caches, operating system."""
    from graphopt.backends.targets.grammar import parse_target

    caps = parse_target("native").caps
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    caches = ", ".join(f"{n} {size >> 10} KB" for n, size in (("L1", caps.l1_bytes), ("L2", caps.l2_bytes)))
    l3 = f", L3 {caps.l3_bytes >> 20} MB" if caps.l3_bytes else ""
    return f"{cpu}, {cores} cores, {caps.vector_bits}-bit vectors, {caches}{l3}, {platform.system()}"


def versions() -> str:
    """Installed versions, and the commit measured."""
    found = []
    for name, package in PACKAGES.items():
        try:
            found.append(f"{name} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    commit = f" (commit {done.stdout.strip()})" if done.returncode == 0 else ""
    found[0] += commit
    return ", ".join([*found, f"Python {platform.python_version()}"])


def geometric_mean(values: Iterable[float]) -> float:
    """NaN for no values."""
    kept = [v for v in values if v > 0 and math.isfinite(v)]
    return math.exp(sum(map(math.log, kept)) / len(kept)) if kept else math.nan


def number(value: float | None, digits: int = 2) -> str:
    """A cell; empty for None."""
    return "" if value is None else f"{value:.{digits}f}"


def plural(count: int, what: str) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def listed(items: Sequence[str]) -> str:
    """Names in a sentence."""
    return ", ".join(items) if items else "none"
