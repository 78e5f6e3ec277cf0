"""``graphopt sparsify``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.driver import sparsity
from tests.cli.conftest import Cli
from tests.support.onnx_graphs import model_of, rand


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparsity, "REPEAT", 2)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sparsify") / "net.onnx"
    body = "[first] h = MatMul(x, a)\n[act] r = Relu(h)\n[second] y = MatMul(r, b)"
    onnx.save_model(model_of({"x": "float[N,64]"}, body, a=rand(64, 48), b=rand(48, 32)), path)
    return path


@pytest.fixture(scope="module")
def calib(net: Path) -> Path:
    path = net.with_name("calib.npz")
    np.savez(path, x=rand(16, 64))
    return path


def weights(path: str) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    return {t.name: numpy_helper.to_array(t) for t in onnx.load_model(path).graph.initializer}


def test_writes_the_model_and_says_what_it_saves(cli: Cli, net: Path) -> None:
    before = net.read_bytes()
    done = cli("sparsify", net, "--ratio", "0.75", "-o", "out.onnx", "--threads", 1)
    assert done.code == 0, done.err
    for text in ("first", "2,304", "75.0", "SQNR dB on random inputs", "net.onnx -> out.onnx", "latency ms", "matmul"):
        assert text in done.out
    assert "no kernel skips zeros" in done.err
    assert net.read_bytes() == before
    assert {name: int((w == 0).sum()) for name, w in weights("out.onnx").items()} == {"a": 2304, "b": 1152}
    onnx.checker.check_model("out.onnx", full_check=True)


def test_json(cli: Cli, net: Path, calib: Path) -> None:
    words = ("sparsify", net, "--pattern", "2:4", "--method", "wanda", "--calib", calib, "-o", "out.onnx", "--json")
    done = cli(*words, "--exclude", "sec*", "--threads", 1)
    assert done.code == 0, done.err
    assert done.json["zeros"] == {"before": 0, "after": 1536}
    assert done.json["method"] == "wanda"
    assert [row["reason"] for row in done.json["layers"]] == [None, "it is excluded"]
    assert done.json["artifact_bytes"]["before"] > 0
    a = weights("out.onnx")["a"]
    assert (np.count_nonzero(a.T.reshape(48, 16, 4), axis=2) == 2).all()


def test_inspect_counts_compressed_constants(cli: Cli, net: Path) -> None:
    assert cli("sparsify", net, "--ratio", "0.75", "-o", "out.onnx", "--no-compile").code == 0
    assert cli("compile", "out.onnx", "-o", "out.gopt", "--threads", 1).code == 0
    found = cli("inspect", "out.gopt", "--json").json
    assert found["constants_as_bitmaps"] == 2
    assert cli("compile", net, "-o", "dense.gopt", "--threads", 1).code == 0
    dense = cli("inspect", "dense.gopt", "--json").json
    assert "constants_as_bitmaps" not in dense
    assert found["constant_bytes"] < 0.6 * dense["constant_bytes"]


def test_no_compile(cli: Cli, net: Path) -> None:
    done = cli("sparsify", net, "--ratio", "0.5", "-o", "out.onnx", "--no-compile", "--json")
    assert done.code == 0, done.err
    assert done.json["artifact_bytes"] is None
    assert done.json["latency_ms"] is None


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--ratio", "1.5"], "bad-ratio"),
        ([], "bad-ratio"),
        (["--pattern", "5:4"], "bad-pattern"),
        (["--pattern", "2:4", "--ratio", "0.8"], "contradictory-sparsity"),
        (["--ratio", "0.5", "--exclude", "frist"], "unknown-layer"),
        (["--ratio", "0.5", "--exclude", "*"], "nothing-to-sparsify"),
        (["--ratio", "0.5", "--method", "wanda"], "needs-calibration"),
        (["--ratio", "0.5", "--method", "wanda", "--calib", "no.npz"], "no-calibration"),
        (["--ratio", "0.5", "--method", "lottery"], "bad-usage"),
    ],
)
def test_bad_requests(cli: Cli, net: Path, words: list[str], code: str) -> None:
    done = cli("sparsify", net, "-o", "out.onnx", *words, "--json")
    assert done.code == 2
    assert done.json["error"]["code"] == code
    assert done.json["error"]["hint"]
    assert not Path("out.onnx").exists()


def test_the_output_is_onnx_and_not_the_input(cli: Cli, net: Path) -> None:
    assert cli("sparsify", net, "--ratio", "0.5", "-o", "out.gopt", "--json").json["error"]["code"] == "bad-output"
    assert cli("sparsify", net, "--ratio", "0.5", "-o", net, "--json").json["error"]["code"] == "output-is-input"


def test_the_pass_in_a_compilation(cli: Cli, net: Path) -> None:
    for name, words in (("dense.gopt", ()), ("sparse.gopt", ("--pass", "sparsify{ratio=0.9}", "--pass", "O2"))):
        done = cli("compile", net, "-o", name, "--threads", 1, *words)
        assert done.code == 0, done.err
    assert Path("sparse.gopt").stat().st_size < Path("dense.gopt").stat().st_size - 8000
