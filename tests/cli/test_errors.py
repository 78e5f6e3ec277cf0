"""What goes wrong gets a message that says what to do, its exit code, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.cli import main as entry
from graphopt.cli.arrays import file_names
from graphopt.errors import CompileError, InternalError
from tests.cli.conftest import Cli, small_model


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["cmpile", "m.onnx"], ["No such command 'cmpile'", "'compile'"]),
        (["compile", "MODEL", "--taget", "x86", "-o", "m.gopt"], ["--taget", "did you mean --state or --target?"]),
        (["compile", "MODEL"], ["-o", "--help"]),
        (["compile", "MODEL", "-o", "m.gopt", "-O7"], ["no optimisation level 7", "0: nothing"]),
        (["compile", "MODEL", "-o", "m.gopt", "-Ofast"], ["--level", "integer"]),
        (["compile", "MODEL", "-o", "m.gopt", "--target", "x68"], ["unknown target 'x68'", "'x86'"]),
        (["compile", "MODEL", "-o", "m.gopt", "--pass", "dead-cod"], ["'dead-cod'", "did you mean 'dead-code'?"]),
        (["compile", "MODEL", "-o", "m.gopt", "--skip-pass", "dead-cod"], ["'dead-cod'", "did you mean 'dead-code'?"]),
        (["compile", "MODEL", "-o", "m.gopt", "--shape", "x"], ["not NAME=VALUE", "x=1x3x224x224"]),
        (["compile", "MODEL", "-o", "m.gopt", "--shape", "z=1x8"], ["no input called 'z'"]),
        (["compile", "MODEL", "-o", "m.gopt", "--shape", "x=2x9"], ["x"]),
        (["compile", "MODEL", "-o", "m.gopt", "--threads", "0"], ["threads must be at least 1"]),
        (["compile", "MODEL", "-o", "no/such/m.gopt"], ["no folder"]),
        (["compile", "MODEL", "-o", "MODEL"], ["is an input of this command"]),
        (["optimize", "MODEL", "-o", "MODEL"], ["is an input of this command"]),
        (["compile", "missing.onnx", "-o", "m.gopt"], ["missing.onnx", "does not exist"]),
        (["inspect", "missing.gopt"], ["missing.gopt does not exist"]),
        (["inspect", "MODEL", "--stage", "grahp"], ["grahp"]),
        (["inspect"], ["needs a model"]),
        (["check", "MODEL", "--reference", "tensorflow"], ["tensorflow"]),
        (["bench", "MODEL", "--compare", "tvmm"], ["unknown peer 'tvmm'", "did you mean 'tvm'?"]),
        (["bench", "MODEL", "--repeat", "0"], ["at least 1"]),
    ],
)
def test_wrong_invocations(cli: Cli, model: Path, words: list[str], messages: list[str]) -> None:
    before = model.read_bytes()
    done = cli(*(str(model) if word == "MODEL" else word for word in words))
    assert done.code == 2, done.err
    assert done.out == ""
    for message in messages:
        assert message in done.err
    assert list(Path.cwd().iterdir()) == []
    assert model.read_bytes() == before


def test_errors_in_json(cli: Cli, model: Path) -> None:
    done = cli("compile", model, "-o", "m.gopt", "--target", "x68", "--json")
    assert done.code == 2
    assert done.json["error"]["exit_code"] == 2
    assert "x86" in done.json["error"]["hint"]
    assert cli("compile", "--json").json["error"]["code"] == "bad-usage"


def test_damaged_and_foreign_files(cli: Cli, model: Path, artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(model.read_bytes()[:-20])
    (tmp_path / "text.onnx").write_text("hello")
    for name in ("cut.onnx", "text.onnx"):
        done = cli("compile", tmp_path / name, "-o", "m.gopt")
        assert done.code == 2
        assert name in done.err
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.gopt").write_bytes(data)
    done = cli("run", tmp_path / "bad.gopt", "--output-dir", "out")
    assert done.code == 2
    assert "bad.gopt" in done.err
    assert list(Path.cwd().iterdir()) == []


def test_unknown_operator_names_node_and_remedy(cli: Cli, tmp_path: Path) -> None:
    model = small_model()
    model.graph.node[2].op_type = "Frobnicate"
    model.graph.node[2].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save_model(model, tmp_path / "odd.onnx")
    done = cli("compile", tmp_path / "odd.onnx", "-o", "m.gopt")
    assert done.code == 2
    assert "Frobnicate" in done.err
    assert "activation" in done.err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("z", np.zeros((3, 8), np.float32), "no input 'z'"),
        ("x", np.zeros((3, 8), np.float64), "dtype float64"),
        ("x", np.zeros((3, 9), np.float32), "dimension 1 must be 8"),
        ("x", np.zeros((8,), np.float32), "1 dimensions"),
        ("x", np.array(["a"], object), "not a plain .npy array"),
    ],
)
def test_bad_inputs_at_run_time(
    cli: Cli, artifact: Path, tmp_path: Path, name: str, array: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    done = cli("run", artifact, "--input", f"{name}={tmp_path / 'a.npy'}", "--output-dir", "out")
    assert done.code == 2
    assert message in done.err
    assert not Path("out").exists()


def test_missing_inputs(cli: Cli, artifact: Path, array: Path) -> None:
    assert "input x" in cli("run", artifact, "--output-dir", "out").err
    done = cli("run", artifact, "--input", "x=nowhere.npy", "--output-dir", "out")
    assert done.code == 2
    assert "nowhere.npy does not exist" in done.err
    assert "twice" in cli("run", artifact, "-i", f"x={array}", "-i", f"x={array}", "--output-dir", "out").err


def test_an_output_never_replaces_an_input(cli: Cli, artifact: Path, array: Path, tmp_path: Path) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    (folder / "y.npy").write_bytes(array.read_bytes())
    done = cli("run", artifact, "--input", f"x={folder / 'y.npy'}", "--output-dir", folder)
    assert done.code == 2
    assert "would replace the input" in done.err
    assert (folder / "y.npy").read_bytes() == array.read_bytes()


def test_an_artifact_takes_no_compile_options(cli: Cli, artifact: Path) -> None:
    assert "compiled already" in cli("run", artifact, "--shape", "x=1x8", "--output-dir", "out").err
    assert "peers can't read" in cli("bench", artifact, "--compare", "onnxruntime").err
    assert "no stages" in cli("inspect", artifact, "--stage", "graph").err


def test_a_difference_names_the_node(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.driver import checking

    true = checking.make_reference

    def lying(src, kind=None):  # the reference says twice what relu gives
        reference = true(src, kind)

        def run(feed):
            out = dict(zip(reference.outputs, reference._run(feed)))
            return [2 * v if name == "y" else v for name, v in out.items()]

        return type(reference)(reference.kind, reference.outputs, run)

    monkeypatch.setattr(checking, "make_reference", lying)
    done = cli("check", model, "--reference", "onnx")
    assert done.code == 3
    assert "activation (Relu)" in done.err
    assert "differs" in done.out
    done = cli("check", model, "--reference", "onnx", "--json")
    assert done.code == 3
    assert done.json["ok"] is False
    assert done.json["error"]["node"] == "activation (Relu)"


def raising(error: BaseException):
    def app(*_args: object, **_options: object) -> None:
        raise error

    return lambda _: app


def test_a_crash_leaves_a_report_without_model_data(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry.typer.main, "get_command", raising(KeyError("oops")))
    done = cli("compile", model, "-o", "m.gopt", "--json")
    assert done.code == 70
    assert done.json["error"]["code"] == "crash"
    (folder,) = Path.cwd().glob("graphopt-report-*")
    report = json.loads((folder / "report.json").read_text())
    assert report["files"][0]["name"] == model.name
    assert len(report["files"][0]["sha256"]) == 64
    assert "apache-tvm" in report["versions"]
    assert {p.name for p in folder.iterdir()} == {"report.json", "traceback.txt"}


@pytest.mark.parametrize(
    ("error", "code"),
    [(InternalError("broken"), 70), (CompileError("no code"), 4), (KeyboardInterrupt(), 130), (MemoryError(), 2)],
)
def test_exit_codes(cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    monkeypatch.setattr(entry.typer.main, "get_command", raising(error))
    assert cli("demo").code == code


def test_an_interrupt_that_tvm_swallows(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def app(*_args: object, **_options: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise CompileError("TVM could not generate code") from None

    monkeypatch.setattr(entry.typer.main, "get_command", lambda _: app)
    done = cli("demo")
    assert done.code == 130
    assert done.err.strip() == "interrupted"


def test_file_names_are_safe_and_unique() -> None:
    names = ["a/b", "a_b", "A_B", "../x", "", ".hidden", "x" * 500, "résumé"]
    files = file_names(names)
    assert len({f.lower() for f in files.values()}) == len(names)
    assert all("/" not in f and not f.startswith(".") and len(f) < 130 for f in files.values())


def test_compiling_for_what_cannot_hold_the_model(cli: Cli, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["s"], ["t"])],
        "strings",
        [helper.make_tensor_value_info("s", TensorProto.STRING, [2])],
        [helper.make_tensor_value_info("t", TensorProto.STRING, [2])],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "s.onnx")
    done = cli("compile", tmp_path / "s.onnx", "-o", "m.gopt")
    assert done.code == 2
    assert list(Path.cwd().iterdir()) == []
