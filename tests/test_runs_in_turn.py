"""A second run leaves out what the first has passed, and nothing else."""

from __future__ import annotations

import json
import os
import re
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


CI = Path(__file__).parent.parent / ".ci" / "run"


def _project(root: Path, tests_of_it: str) -> Path:
    """A project laid out like this one: what pytest does with an option depends on where the conftest is found."""
    (root / "tests").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\ntestpaths = ["tests"]\nmarkers = ["slow"]\n')
    here = Path(tests.conftest.__file__).parent
    (root / "tests" / "support").mkdir()
    for name in ("__init__.py", "conftest.py", "support/__init__.py", "support/covering.py"):
        (root / "tests" / name).write_text((here / name).read_text())
    (root / "tests" / "test_it.py").write_text(tests_of_it)
    return root


def _run(project: Path, command: str, passed: Path, options: str = "") -> str:
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTEST_ADDOPTS": options}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=project,
        env={**os.environ, **environment, "passed": str(passed), "work": str(passed.parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: some tests failed
    return done.stdout


def _ci_line(pattern: str) -> str:
    """A line of the script that CI runs: the tests below run what CI does, however it spells the options."""
    (line,) = re.findall(pattern, CI.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return str(line)


def test_a_second_run_leaves_out_what_passed(tmp_path: Path) -> None:
    project, passed = _project(tmp_path / "project", TESTS), tmp_path / "elsewhere" / "passed.json"
    passed.parent.mkdir()
    first = f"export {_ci_line(r'export (PYTEST_ADDOPTS=.*)$')}; python -m pytest -n 1 -m 'not slow'"
    _run(project, first, passed)
    names = ["tests/test_it.py::test_each[c]", "tests/test_it.py::test_passes"]
    assert json.loads(passed.read_text()) == names

    (project / "tests" / "test_it.py").write_text(TESTS + "\ndef test_new(): pass\n")
    said = _run(project, _ci_line(r"^.*python -m pytest .*leave-out.*$"), passed, "-vv")
    assert "tests/test_it.py::test_passes" not in said
    assert "tests/test_it.py::test_each[c]" not in said
    ran = ["test_each[a b]", "test_skips", "test_fails_at_its_end", "test_not_selected", "test_fails_as_expected"]
    assert all(f"tests/test_it.py::{name}" in said for name in [*ran, "test_new"]), said


def test_a_missing_file_leaves_nothing_out_silently(tmp_path: Path) -> None:
    project = _project(tmp_path / "project", "def test_passes(): pass\n")
    with pytest.raises(AssertionError, match=r"there is no file .*missing\.json"):
        _run(project, "python -m pytest --leave-out=$passed", tmp_path / "missing.json")
