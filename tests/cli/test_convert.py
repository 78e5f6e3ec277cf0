"""``graphopt convert`` and ``--precision``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
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


def test_a_plan_is_written_edited_and_replayed(cli: Cli, net: Path) -> None:
    how = (
        "convert",
        net,
        "--precision",
        "bf16",
        "--keep",
        "first",
        "--max-error",
        "0.5",
        "--write-plan",
        "plan.json",
        "--json",
    )
    done = cli(*how, "-o", "half.onnx")
    assert done.code == 0, done.err
    plan = json.loads(Path("plan.json").read_text())
    assert plan["nodes"] == {row["node"]: row["precision"] for row in done.json["nodes"]}
    assert set(plan["nodes"].values()) == {"float32", "bfloat16"}
    done = cli(
        "convert", net, "--plan", "plan.json", "-o", "again.onnx", "--report", "r.json", "--write-plan", "p2.json"
    )
    assert done.code == 0, done.err
    assert Path("again.onnx").read_bytes() == Path("half.onnx").read_bytes()
    assert Path("p2.json").read_bytes() == Path("plan.json").read_bytes()
    assert json.loads(Path("r.json").read_text())["precision"] == "bf16"
    text = Path("plan.json").read_text().replace('"softmax": "float32"', '"softmax": "bfloat16"')
    Path("plan.json").write_text(text)
    done = cli("convert", net, "--plan", "plan.json", "--keep", "Gemm", "-o", "half.onnx", "--json")
    assert done.code == 0, done.err
    rows = {row["node"]: (row["precision"], row["why"]) for row in done.json["nodes"]}
    assert rows["softmax"] == ("bfloat16", None)
    assert rows["classes"] == ("float32", "asked")


def test_a_plan_is_compiled_checked_and_measured(cli: Cli, net: Path) -> None:
    """Inputs and outputs are cast, so that whoever compares has to cast as well."""
    nodes = dict.fromkeys(NAMES, "float16")
    graphopt.PrecisionChoices({**nodes, "classes": "float32"}, "fp16", "cast").save("plan.json")
    done = cli("compile", net, "--precision", "plan.json", "-o", "net.gopt", "--json", "--remarks")
    assert done.code == 0, done.err
    assert done.json["precision"] == "fp16"
    assert any("the plan has it in float32" in remark for remark in done.json["remarks"])
    assert "f16[1, 64]" in done.json["outputs"][0]
    done = cli("check", net, "--precision", "plan.json", "--json")
    assert done.code == 0, done.err
    assert 1e-5 < done.json["values"][0]["error"] < done.json["values"][0]["allowed"] == 0.01
    done = cli("bench", net, "--precision", "plan.json", "--repeat", 2, "--compare", "onnxruntime", "--json")
    assert done.code == 0, done.err
    assert done.json["precision"] == "fp16"
    assert [r["problem"] for r in done.json["results"]] == [None, None]
    assert done.json["results"][1]["error"] > 1e-5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("convert", "--plan", "plan.json", "--precision", "bf16", "-o", "h.onnx"), "leave --precision out"),
        (("convert", "--plan", "plan.json", "--io", "cast", "-o", "h.onnx"), "delete its line 'io'"),
        (("convert", "--plan", "plan.json", "-O1", "-o", "h.onnx"), "delete its line 'level'"),
        (("convert", "--plan", "plan.json", "--keep", "frist", "-o", "h.onnx"), "did you mean 'first'?"),
        (("convert", "--plan", "kernels.json", "-o", "h.onnx"), "a plan of kernels"),
        (("convert", "--precision", "plan.json", "-o", "h.onnx"), "--plan plan.json"),
        (
            ("convert", "--plan", "plan.json", "--write-plan", "plan.json", "-o", "h.onnx"),
            "is an input of this command",
        ),
        (("convert", "--plan", "plan.json", "--write-plan", "h.onnx", "-o", "h.onnx"), "name the same file"),
        (
            ("convert", "--plan", "plan.json", "--write-plan", "a", "--report", "a", "-o", "h.onnx"),
            "name the same file",
        ),
        (("compile", "--precision", "plan.json", "-o", "plan.json"), "is an input of this command"),
        (("compile", "--precision", "kernels.json", "-o", "n.gopt"), "a plan of kernels"),
        (("compile", "--plan", "plan.json", "-o", "n.gopt"), "a plan of precisions"),
        (("check", "--precision", "absent.json"), "can't be read"),
        (("bench", "--precision", "absent.json"), "can't be read"),
    ],
)
def test_plans_that_are_refused(cli: Cli, net: Path, options: tuple[str, ...], text: str) -> None:
    graphopt.PrecisionChoices({"first": "float16"}, "fp16", "keep", 2).save("plan.json")
    graphopt.KernelPlan({}).save("kernels.json")
    done = cli(options[0], net, *options[1:])
    assert done.code == 2
    assert text in done.err
    assert sorted(p.name for p in Path().iterdir()) == ["kernels.json", "plan.json"]
