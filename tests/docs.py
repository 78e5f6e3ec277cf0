"""Blocks of printed output in docs/, made again and compared. ``python -m tests.docs --write`` refreshes them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"<!-- run: (?P<command>graphopt .*?) -->\n```text\n(?P<output>.*?)```", re.DOTALL)


def blocks(path: Path) -> list[tuple[str, str]]:
    """(command, printed output) of every block in a page."""
    return [(m["command"], m["output"]) for m in _BLOCK.finditer(path.read_text())]


def output_of(command: str) -> str:
    """What a ``graphopt`` command prints, run in an empty folder but for ``models``: what it writes is gone afterwards."""
    args = [sys.executable, "-m", "graphopt.cli.main", *shlex.split(command)[1:]]
    env = {"COLUMNS": "400", "NO_COLOR": "1", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "models").symlink_to(ROOT / "models")
        return subprocess.run(args, cwd=folder, capture_output=True, text=True, check=True, env=env).stdout


def pages() -> list[Path]:
    """Pages that hold such blocks."""
    return [p for p in sorted((ROOT / "docs").rglob("*.md")) if blocks(p)]


def main() -> None:
    """Write fresh output into every block."""
    for page in pages():
        text = _BLOCK.sub(
            lambda m: f"<!-- run: {m['command']} -->\n```text\n{output_of(m['command'])}```", page.read_text()
        )
        page.write_text(text)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m tests.docs --write")
    main()
