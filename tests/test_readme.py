"""The README's quickstart works as it stands, block by block, in an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.readme import README, blocks, commands


def run(command: list[str], folder: Path) -> None:
    """Run a command with this interpreter's scripts first in the PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_the_quickstart(tmp_path: Path) -> None:
    if shutil.which("graphopt", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("graphopt is not installed beside this interpreter")
    ran = []
    for language, text in blocks():
        if language == "bash":
            run(["bash", "-euo", "pipefail", "-c", text], tmp_path)
            assert (tmp_path / "out" / "logits.npy").is_file()
        elif language == "python":
            run([sys.executable, "-c", text], tmp_path)
        elif language == "make" and shutil.which("make"):
            (tmp_path / "digits.gopt").unlink()
            (tmp_path / "Makefile").write_text(text)
            run(["make"], tmp_path)
            assert (tmp_path / "digits.gopt").is_file()
        elif language == "cmake" and shutil.which("cmake"):
            (tmp_path / "CMakeLists.txt").write_text(text)
            run(["cmake", "-S", ".", "-B", "build"], tmp_path)
            run(["cmake", "--build", "build"], tmp_path)
            assert (tmp_path / "build" / "digits.gopt").is_file()
        ran.append(language)
    assert {"bash", "python", "make", "cmake"} <= set(ran)


def test_the_two_commands_are_what_ci_runs() -> None:
    """CI takes them from here; they make an environment of their own, then show the main job and run the tests."""
    assert len(commands()) == 2
    for command, last in zip(commands(), ("graphopt demo", "python -m pytest")):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert f" && .venv/bin/{last}" in command
    assert "-m tests.readme" in (README.parent / ".ci" / "run").read_text()


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert target.startswith("http") or (README.parent / target).exists(), target
