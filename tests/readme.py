"""The README's code blocks and its two commands. ``python -m tests.readme`` prints the commands, which ``.ci/run`` runs.

Needs nothing but Python, since it runs before anything is installed.
"""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPT = "$ "


def blocks() -> list[tuple[str, str]]:
    """Language and text of every fenced block."""
    return _FENCE.findall(README.read_text(encoding="utf-8"))


def commands() -> list[str]:
    """What the README tells a reader to type at a shell's prompt, a line each."""
    lines = [line for language, text in blocks() if language == "console" for line in text.splitlines()]
    return [line.removeprefix(_PROMPT) for line in lines if line.startswith(_PROMPT)]


if __name__ == "__main__":
    print("\n".join(commands()))
