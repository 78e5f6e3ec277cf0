"""A second run leaves out what the first has passed, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tests.conftest

TESTS = """
import pytest

def test_passes(): pass

@pytest.mark.parametrize("x", ["a b", "c"])
def test_each(x): assert x == "c"

def test_skips(): pytest.skip("something is missing")

@pytest.fixture
def broken():
    yield
    raise RuntimeError

def test_fails_at_its_end(broken): pass

@pytest.mark.slow
def test_not_selected(): pass

@pytest.mark.xfail
def test_fails_as_expected(): assert False
"""


def _run(folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *options]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: some tests failed
    return done.stdout


def test_a_second_run_leaves_out_what_passed(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    (tmp_path / "conftest.py").write_text(Path(tests.conftest.__file__).read_text())
    (tmp_path / "test_it.py").write_text(TESTS)
    _run(tmp_path, "-n", "1", "-m", "not slow", "--write-passed", "passed.json")
    assert json.loads((tmp_path / "passed.json").read_text()) == ["test_it.py::test_each[c]", "test_it.py::test_passes"]

    (tmp_path / "test_it.py").write_text(TESTS + "\ndef test_new(): pass\n")
    said = _run(tmp_path, "-v", "--leave-out", "passed.json")
    assert "2 deselected" in said
    assert "test_it.py::test_passes" not in said
    assert "test_it.py::test_each[c]" not in said
    ran = ["test_each[a b]", "test_skips", "test_fails_at_its_end", "test_not_selected", "test_fails_as_expected"]
    assert all(f"test_it.py::{name}" in said for name in [*ran, "test_new"]), said


def test_a_missing_file_leaves_nothing_out_silently(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(Path(tests.conftest.__file__).read_text())
    (tmp_path / "test_it.py").write_text("def test_passes(): pass\n")
    with pytest.raises(AssertionError, match=r"there is no file .*missing\.json"):
        _run(tmp_path, "--leave-out", "missing.json")
