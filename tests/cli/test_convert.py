"""``graphopt convert`` and ``--precision``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.conftest import Cli
from tests.support.onnx_graphs import model_of, rand

BODY = "c = Conv<pads=[1,1,1,1]>(x, w)\nr = Relu(c)\nf = Flatten(r)\ng = Gemm<transB=1>(f, v)\ny = Softmax(g)"
NAMES = ("first", "relu", "flat", "classes", "softmax")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier."""
    path = tmp_path_factory.mktemp("convert") / "net.onnx"
    model = model_of({"x": "float[1,3,8,8]"}, BODY, w=rand(8, 3, 3, 3), v=rand(64, 512) * 0.02)
    for node, name in zip(model.graph.node, NAMES):
        node.name = name
    onnx.save_model(model, path)
    return path


def test_converts(cli: Cli, net: Path) -> None:
    before = net.read_bytes()
    done = cli("convert", net, "--precision", "fp16", "-o", "half.onnx")
    assert done.code == 0, done.err
    for text in (
        "first",
        "float16",
        "softmax",
        "float32",
        "rule",
        "a softmax divides",
        "net.onnx -> half.onnx",
        "casts",
    ):
        assert text in done.out
    model = onnx.load_model("half.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {t.data_type for t in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert net.read_bytes() == before


def test_options_and_json(cli: Cli, net: Path) -> None:
    done = cli(
        "convert", net, "--precision", "bf16", "--keep", "Gemm", "--keep", "fir*", "--io", "cast", "-o", "half.onnx", "--report",
        "r.json", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = {row["node"]: (row["precision"], row["why"]) for row in done.json["nodes"]}
    assert rows["first"] == rows["classes"] == ("float32", "asked")
    assert rows["softmax"] == ("float32", "rule")
    assert json.loads(Path("r.json").read_text()) == done.json
    model = onnx.load_model("half.onnx")
    assert [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)] == [
        onnx.TensorProto.BFLOAT16
    ] * 2
    assert model.opset_import[0].version == 22


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--precision", "fp61"), "did you mean 'fp16'?"),
        (("--precision", "fp16", "--keep", "frist"), "did you mean 'first'?"),
        (("--precision", "fp16", "--io", "cats"), "cats"),
        ((), "--precision"),
    ],
)
def test_errors_leave_nothing(cli: Cli, net: Path, options: tuple[str, ...], text: str) -> None:
    done = cli("convert", net, "-o", "half.onnx", *options)
    assert done.code == 2
    assert text in done.err
    assert list(Path().iterdir()) == []


def test_outputs_that_are_refused(cli: Cli, net: Path) -> None:
    for output, options in (("half.txt", ()), ("missing/half.onnx", ()), ("half.onnx", ("--report", "half.onnx"))):
        done = cli("convert", net, "--precision", "fp16", "-o", output, *options)
        assert done.code == 2
        assert list(Path().iterdir()) == []
    assert cli("convert", net, "--precision", "fp16", "-o", net).code == 2


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_check_and_compile_in_16_bits(cli: Cli, net: Path, precision: str) -> None:
    done = cli("check", net, "--precision", precision, "--json")
    assert done.code == 0, done.err
    (row,) = done.json["values"]
    assert 1e-5 < row["error"] < row["allowed"] == {"fp16": 0.01, "bf16": 0.1}[precision]
    done = cli("compile", net, "--precision", precision, "-o", "net.gopt", "--json")
    assert done.code == 0, done.err
    assert done.json["precision"] == precision
    small = Path("net.gopt").stat().st_size
    assert cli("compile", net, "-o", "net.gopt").code == 0
    assert small < Path("net.gopt").stat().st_size - 40000, "half of 132 kB of weights"


def test_check_fails_where_16_bits_are_not_enough(cli: Cli) -> None:
    """A small difference of large products."""
    w = rand(16, 16)
    body = "a = MatMul(x, w)\nb = MatMul(x, v)\ny = Sub(a, b)"
    onnx.save_model(model_of({"x": "float[4,16]"}, body, w=w, v=w * 1.0003), "net.onnx")
    assert cli("check", "net.onnx").code == 0
    done = cli("check", "net.onnx", "--precision", "bf16")
    assert done.code == 3
    assert "relative L2 error" in done.err
    assert "--max-error" in done.err


def test_bench_in_16_bits(cli: Cli, net: Path) -> None:
    done = cli("bench", net, "--precision", "fp16", "--repeat", 2, "--compare", "onnxruntime", "--json")
    assert done.code == 0, done.err
    assert done.json["precision"] == "fp16"
    assert [r["problem"] for r in done.json["results"]] == [None, None]
    assert done.json["results"][1]["error"] > 1e-5


@pytest.mark.parametrize("verb", [("compile", "-o", "net.gopt"), ("check",), ("bench",)])
def test_unknown_precision(cli: Cli, net: Path, verb: tuple[str, ...]) -> None:
    done = cli(verb[0], net, *verb[1:], "--precision", "bf61")
    assert done.code == 2
    assert "did you mean 'bf16'?" in done.err
    assert list(Path().iterdir()) == []


def test_artefacts_have_a_precision_already(cli: Cli, net: Path) -> None:
    assert cli("compile", net, "-o", "net.gopt").code == 0
    done = cli("bench", "net.gopt", "--precision", "fp16")
    assert done.code == 2
    assert "--precision" in done.err


def test_data_and_a_largest_error(cli: Cli, net: Path) -> None:
    np.savez("data.npz", x=rand(2, 3, 8, 8))
    done = cli("convert", net, "--precision", "bf16", "--calib", "data.npz", "--max-error", "0.001", "-o", "half.onnx")
    assert done.code == 0, done.err
    for text in ("SQNR dB", "sensitivity", "relative L2 error", "2 feeds of calibration data"):
        assert text in done.out
    np.savez("data.npz", x=np.full((1, 3, 8, 8), np.nan, np.float32))
    before = Path("half.onnx").read_bytes()
    done = cli("convert", net, "--precision", "bf16", "--calib", "data.npz", "-o", "half.onnx")
    assert done.code == 2
    assert "NaN" in done.err
    assert "data.npz" in done.err
    assert Path("half.onnx").read_bytes() == before
    assert sorted(p.name for p in Path().iterdir()) == ["data.npz", "half.onnx"]
