"""``graphopt convert`` and ``--precision``."""

from __future__ import annotations

import json
from pathlib import Path

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
    model = model_of({"x": "float[1,3,8,8]"}, BODY, w=rand(8, 3, 3, 3), v=rand(5, 512))
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
