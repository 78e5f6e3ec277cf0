"""The default run has every value of every parameter, and the run with slow tests every combination."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.support.covering import covering

TESTS = """
import pytest

@pytest.mark.parametrize("x", ["a", "b", "c"])
@pytest.mark.parametrize(("y", "z"), [(1, 1), (1, 2), (2, 1)])
def test_many(x, y, z): pass

@pytest.mark.parametrize("x", range(9))
def test_of_one_parameter(x): pass

@pytest.mark.parametrize("x", [0, 1])
@pytest.mark.parametrize("y", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_few(x, y): pass
"""


def test_every_value_once_and_all_as_often() -> None:
    shapes, levels = range(12), ("old", "new", "newest")
    combinations = [frozenset((("shape", s), ("level", n))) for s, n in itertools.product(shapes, levels)]
    taken = [combinations[i] for i in sorted(covering(combinations))]
    counts = Counter(value for combination in taken for value in combination)
    assert len(taken) == 12
    assert {counts["shape", s] for s in shapes} == {1}
    assert {counts["level", n] for n in levels} == {4}


def test_nothing_to_choose() -> None:
    assert covering([]) == set()
    assert covering([frozenset()]) == set()
    assert covering([frozenset({i}) for i in range(5)]) == set(range(5))


def test_what_is_collected(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: takes long\n")

    def collected(*options: str) -> list[str]:
        command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "tests.conftest", *options]
        found = subprocess.run([*command, "--rootdir", str(tmp_path), str(tmp_path)], capture_output=True, text=True)
        assert found.returncode == 0, found.stdout + found.stderr
        return [line.partition("::")[2] for line in found.stdout.splitlines() if "::" in line]

    assert len(collected("-m", "slow or not slow")) == 9 + 9 + 4
    default = collected("-m", "not slow")
    assert default == [
        "test_many[1-1-a]", "test_many[1-2-b]", "test_many[2-1-c]", *(f"test_of_one_parameter[{i}]" for i in range(9)),
        "test_few[1-0]", "test_few[1-1]",
    ]  # fmt: skip
