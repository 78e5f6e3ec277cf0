"""A small model, its inputs, and a way to run the command line as a user does but in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.cli.main import main


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The document on stdout, which must hold nothing else."""
        return json.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs ``graphopt`` with the given arguments in an empty folder."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*words: object) -> Result:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def small_model(output: str = "y") -> onnx.ModelProto:
    """``relu(x @ w + 0)`` with symbolic rows; the Identity is there to be removed."""
    w = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["x"], ["same"], name="copy"),
            helper.make_node("MatMul", ["same", "w"], ["p"], name="product"),
            helper.make_node("Relu", ["p"], [output], name="activation"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows", 5])],
        [onnx.numpy_helper.from_array(w, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model as a file."""
    path = tmp_path_factory.mktemp("cli") / "small.onnx"
    onnx.save_model(small_model(), path)
    return path


@pytest.fixture(scope="session")
def artifact(model: Path) -> Path:
    """The small model compiled."""
    path = model.with_suffix(".gopt")
    assert main(["compile", str(model), "-o", str(path), "--threads", "1", "--json"]) == 0
    return path


@pytest.fixture(scope="session")
def array(model: Path) -> Path:
    """An input for the small model."""
    path = model.with_name("x.npy")
    np.save(path, np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32))
    return path
