"""``graphopt quantize``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Calibration data for the small model."""
    path = tmp_path / "data.npz"
    np.savez(path, x=np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32))
    return path


def test_quantizes(cli: Cli, model: Path, data: Path) -> None:
    before = model.read_bytes()
    done = cli(
        "quantize", model, "--calib", data, "-o", "int8.onnx", "--write-table", "table.json", "--report", "r.json"
    )
    assert done.code == 0, done.err
    for text in ("product", "u8 x i8 weights (5 scales)", "SQNR dB", "small.onnx -> int8.onnx", "nodes quantized"):
        assert text in done.out
    quantized = onnx.load_model("int8.onnx")
    onnx.checker.check_model(quantized, full_check=True)
    assert [n.op_type for n in quantized.graph.node].count("DequantizeLinear") == 2
    assert model.read_bytes() == before
    assert json.loads(Path("r.json").read_text())["method"] == "mse"
    again = cli("quantize", model, "--table", "table.json", "-o", "again.onnx", "--json")
    assert again.code == 0, again.err
    assert again.json["outputs"] == []
    assert Path("again.onnx").read_bytes() == Path("int8.onnx").read_bytes()


def test_data_from_a_function_and_options(cli: Cli, model: Path) -> None:
    Path("my_samples.py").write_text(
        "import numpy as np\ndef load():\n    for i in range(3):\n        yield {'x': np.full((2, 8), i, np.float32)}\n"
    )
    done = cli(
        "quantize", model, "--calib", "my_samples:load", "--method", "minmax", "--activations", "s8", "--per-tensor", "--include",
        "prod*", "--no-compare", "-o", "int8.onnx", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["activations"] == "s8 symmetric"
    assert done.json["layers"][0]["stored"] == "i8 x i8 weights (1 scale)"


def test_plots(cli: Cli, model: Path, data: Path) -> None:
    for words, names in (((), {"ranges.png", "layers.png"}), (("--no-compare",), {"ranges.png"})):
        folder = Path(f"plots{len(words)}")
        done = cli("quantize", model, "--calib", data, "-o", "int8.onnx", "--plot", folder, *words)
        assert done.code == 0, done.err
        assert {path.name for path in folder.iterdir()} == names
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.iterdir())
    refused = cli("quantize", model, "--calib", data, "-o", "other.onnx", "--plot", "int8.onnx")
    assert refused.code == 2
    assert "int8.onnx is no folder" in refused.err
    assert not Path("other.onnx").exists()


def test_without_data(cli: Cli, model: Path) -> None:
    done = cli("quantize", model, "--dynamic", "-o", "int8.onnx")
    assert done.code == 0, done.err
    assert "u8 x u8 weights (5 scales)" in done.out
    assert "MatMulInteger" in [n.op_type for n in onnx.load_model("int8.onnx").graph.node]


def test_a_metric_of_ones_own(cli: Cli, model: Path, data: Path) -> None:
    Path("my_metric.py").write_text(
        "import numpy as np\ndef zeros(outputs, feeds):\n    return sum(float((o['y'] == 0).mean()) for o in outputs)\n"
        "def none(outputs, feeds):\n    return 1 / 0\nnumber = 3\n"
    )
    words = (
        "quantize",
        model,
        "--calib",
        data,
        "-o",
        "int8.onnx",
        "--evaluate",
        data,
        "--max-drop",
        "1",
        "--sensitivity",
    )
    done = cli(*words, "--metric", "my_metric:zeros")
    assert done.code == 0, done.err
    for text in (
        "my_metric:zeros in float",
        "my_metric:zeros in integers",
        "alone dB",
        "1 feed of the evaluation data",
    ):
        assert text in done.out
    for name, text in (
        ("my_metric:none", "failed with ZeroDivisionError"), ("my_metric:zero", "can't be imported"),
        ("zeros", "no module:function"), ("my_metric:number", "is a int"),
    ):  # fmt: skip
        done = cli(*words, "--metric", name)
        assert done.code == 2
        assert text in done.err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((), "calibration data"),
        (("--calib", "missing.npz"), "does not exist"),
        (("--calib", "nothing_here:load"), "nothing_here"),
        (("--calib", "json:lload"), "lload"),
        (("--calib", "DATA", "--method", "kl"), "no method 'kl'"),
        (("--calib", "DATA", "--exclude", "produt"), "did you mean 'product'?"),
        (("--table", "missing.json"), "can't be read"),
        (("--calib", "DATA", "--report", "int8.onnx"), "same file"),
        (("--calib", "DATA", "--max-drop", "0.1"), "--min-sqnr"),
        (("--calib", "DATA", "--for", "tensorrt", "--activations", "u8"), "s8 symmetric"),
        (("--calib", "DATA", "--overrides", "missing.json"), "missing.json can't be read"),
        (("--calib", "DATA", "--evaluate", "int8.onnx"), "does not exist"),
    ],
)
def test_errors_leave_nothing(cli: Cli, model: Path, data: Path, options: tuple[str, ...], text: str) -> None:
    words = [data if word == "DATA" else word for word in options]
    done = cli("quantize", model, "-o", "int8.onnx", *words)
    assert done.code == 2
    assert text in done.err
    assert list(Path().iterdir()) == []


def test_compile_quantizes_first(cli: Cli, model: Path, data: Path) -> None:
    done = cli("compile", model, "--precision", "int8", "--calib", data, "-o", "model.gopt", "--json")
    assert done.code == 0, done.err
    assert done.json["precision"] == "int8"
    assert Path("model.gopt").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--precision", "int8"), "needs calibration data"),
        (("--calib", "data.npz"), "for precision int8"),
        (("--precision", "int8", "--calib", "missing.npz"), "does not exist"),
    ],
)
def test_compile_in_int8_refuses(cli: Cli, model: Path, data: Path, options: tuple[str, ...], text: str) -> None:
    done = cli("compile", model, *options, "-o", "model.gopt")
    assert done.code != 0
    assert text in " ".join(done.err.split())
    assert not Path("model.gopt").exists()


def test_check_holds_a_quantized_model_against_float(cli: Cli, model: Path, data: Path) -> None:
    assert cli("quantize", model, "--calib", data, "--no-compare", "-o", "int8.onnx").code == 0
    np.save("x.npy", np.load(data)["x"])
    done = cli("check", "int8.onnx", "--float", model, "--input", "x=x.npy", "--json")
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in done.json["values"]}
    assert done.json["ok"]
    assert rows["p"]["node"] == "product (MatMul)"
    assert rows["y"]["sqnr_db"] > 28
    here = cli("check", model, "--precision", "int8", "--calib", data, "--json")
    assert here.json == done.json
    table = cli("check", "int8.onnx", "--float", model, "--input", "x=x.npy")
    for text in ("int8.onnx against float", "SQNR dB", "product (MatMul)"):
        assert text in table.out
    assert "random" not in table.err
    assert "x held random numbers" in cli("check", "int8.onnx", "--float", model).err
    for options, text in (
        (("--precision", "int8"), "needs calibration data"), (("--calib", data), "for precision int8"),
        (("--precision", "int8", "--calib", data, "--float", model), "leave one of them out"),
        (("--float", "missing.onnx"), "missing.onnx"),
    ):  # fmt: skip
        refused = cli("check", model, *options)
        assert refused.code == 2
        assert text in " ".join(refused.err.split())
