"""The guide for ARM: its C program and the commands around it, as they stand, under emulation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt.models import zoo
from graphopt.models.digits import digits_test

GUIDE = Path(__file__).parents[1] / "docs" / "deploy-arm.md"
TOOLS = {
    "Without Python": ("aarch64-linux-gnu-gcc", "qemu-aarch64"),
    "32 bits": ("arm-linux-gnueabihf-gcc", "qemu-arm"),
}


def _sections() -> dict[str, str]:
    """Text by heading."""
    parts = re.split(r"^## (.*)$", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.qemu
@pytest.mark.parametrize("section", TOOLS)
def test_the_c_program(section: str, tmp_path: Path) -> None:
    for tool in TOOLS[section]:
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    sections = _sections()
    (program,) = _blocks(sections["Without Python"], "c")
    image, label = digits_test()[0][0], digits_test()[1][0]
    pixels = ", ".join(f"{float(v)!r}f" for v in image.ravel())
    (tmp_path / "main.c").write_text(program.replace("{0}", f"{{{pixels}}}", 1))
    shutil.copy(zoo.get("digits").path(), tmp_path / "digits.onnx")
    scripts = tmp_path / "bin"
    scripts.mkdir()
    (scripts / "graphopt").write_text(f'#!/bin/sh\nexec {sys.executable} -m graphopt.cli.main "$@"\n')
    (scripts / "graphopt").chmod(0o755)
    env = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "PYTHONPATH": str(GUIDE.parents[1])}
    commands = "\n".join(_blocks(sections[section], "bash"))
    assert {tool for tool in TOOLS[section] if tool in commands} == set(TOOLS[section])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == str(label)
