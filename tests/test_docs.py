"""Output printed in the documentation is what the commands print today; links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs import ROOT, blocks, output_of, pages

CASES = [(page, command, output) for page in pages() for command, output in blocks(page)]


@pytest.mark.parametrize(("page", "command", "output"), CASES, ids=[f"{c[0].name}:{c[1][9:60]}" for c in CASES])
def test_printed_output_is_current(page: Path, command: str, output: str) -> None:
    assert output_of(command) == output, f"{page.name} is stale: python -m tests.docs --write"


def test_relative_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "models" / "README.md"]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
