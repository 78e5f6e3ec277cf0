"""The README's quickstart works as it stands, block by block, in an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt.models import zoo
from tests.readme import README, blocks, commands


def run(command: list[str], folder: Path) -> None:
    """Run a command with this interpreter's scripts first in the PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


BUILDS = {
    "make": ("Makefile", [["make"]]),
    "cmake": ("CMakeLists.txt", [["cmake", "-S", ".", "-B", "build"], ["cmake", "--build", "build"]]),
}
"""By the language of a block and the tool's name: where the block goes, and what builds ``digits.gopt`` then."""


@pytest.fixture
def graphopt_on_path() -> None:
    """The blocks call it by its name."""
    if shutil.which("graphopt", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("graphopt is not installed beside this interpreter")


@pytest.mark.slow
@pytest.mark.usefixtures("graphopt_on_path")
def test_the_quickstart(tmp_path: Path) -> None:
    ran = []
    for language, text in blocks():
        if language == "bash":
            run(["bash", "-euo", "pipefail", "-c", text], tmp_path)
            assert (tmp_path / "out" / "logits.npy").is_file()
        elif language == "python":
            run([sys.executable, "-c", text], tmp_path)
        ran.append(language)
    assert {"bash", "python", *BUILDS} <= set(ran)


@pytest.mark.slow
@pytest.mark.usefixtures("graphopt_on_path")
@pytest.mark.parametrize("tool", BUILDS)
def test_a_build_step(tool: str, tmp_path: Path) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool}")
    name, commands = BUILDS[tool]
    shutil.copy(zoo.get("digits").path(), tmp_path / "digits.onnx")
    (text,) = (text for language, text in blocks() if language == tool)
    (tmp_path / name).write_text(text)
    for command in commands:
        run(command, tmp_path)
    assert list(tmp_path.rglob("digits.gopt"))


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
