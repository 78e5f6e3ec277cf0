"""The same model, target and options make the same file, byte by byte, wherever and however it is compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt.models import zoo

_COMPILE = """
import sys
import graphopt
source, output, jobs, cache = sys.argv[1:]
model = graphopt.compile(source, target="x86-64-v3", threads=2, jobs=int(jobs), cache=cache == "cache")
model.save(output)
"""


def compiled(source: Path, folder: Path, seed: int, jobs: int, cache: Path | None) -> bytes:
    """What a new process makes of a copy of the model in ``folder``, with temporary files there too."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    model, output = folder / "model.onnx", folder / "model.gopt"
    model.write_bytes(source.read_bytes())
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "TMPDIR": str(folder / "tmp")}
    environment["GRAPHOPT_CACHE"] = str(cache) if cache else "off"
    command = [sys.executable, "-c", _COMPILE, str(model), str(output), str(jobs), "cache" if cache else "none"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return output.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "digits",  # its batch is symbolic: six sizes are computed when it runs
        "bert_tiny",  # two symbolic dimensions
        "vit_tiny",
    ],
)
def test_compiling_twice_makes_the_same_bytes(name: str, tmp_path: Path) -> None:
    source = zoo.get(name).path()
    first = compiled(source, tmp_path / "a", seed=1, jobs=1, cache=None)
    cold = compiled(source, tmp_path / "another" / "folder", seed=2, jobs=2, cache=tmp_path / "cache")
    assert cold == first
    warm = compiled(source, tmp_path / "a", seed=3, jobs=3, cache=tmp_path / "cache")
    assert warm == first
