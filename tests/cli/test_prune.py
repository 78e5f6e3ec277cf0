"""``graphopt prune`` and ``graphopt inspect --prune-groups``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.driver import pruning
from graphopt.errors import AccuracyError
from graphopt.models import zoo
from tests.cli.conftest import Cli, Result
from tests.support.onnx_graphs import model_of, rand
from tests.support.ort import run_ort

NODES = """
a = Conv<pads=[1,1,1,1]>(x, w1)
r = Relu(a)
c = Conv<pads=[1,1,1,1]>(r, w2)
s = Add(c, r)
p = GlobalAveragePool(s)
f = Flatten(p)
y = Gemm<transB=1>(f, w3)
"""
NAMES = ("first", "relu", "second", "sum", "mean", "flat", "classes")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two coupled convolutions of 32 channels and a classifier, batch open."""
    path = tmp_path_factory.mktemp("prune") / "net.onnx"
    weights = {"w1": rand(32, 3, 3, 3), "w2": rand(32, 32, 3, 3), "w3": rand(10, 32)}
    model = model_of({"x": "float[N,3,8,8]"}, NODES, **weights)
    for node, name in zip(model.graph.node, NAMES):
        node.name = name
    onnx.save_model(model, path)
    return path


def test_prunes(cli: Cli, net: Path) -> None:
    before = net.read_bytes()
    done = cli("prune", net, "--ratio", "0.5", "--multiple", "1", "-o", "small.onnx")
    assert done.code == 0, done.err
    for text in (
        "first",
        "32",
        "16",
        "y",
        "SQNR",
        "net.onnx -> small.onnx",
        "FLOPs",
        "they leave the graph as output 'y'",
    ):
        assert text in done.out
    model = onnx.load_model("small.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [n.name for n in model.graph.node] == list(NAMES)
    assert {t.name: list(t.dims) for t in model.graph.initializer} == {
        "w1": [16, 3, 3, 3], "w2": [16, 16, 3, 3], "w3": [10, 16]
    }  # fmt: skip
    assert run_ort(model, {"x": rand(3, 3, 8, 8)})[0].shape == (3, 10)
    assert net.read_bytes() == before
    assert [p.name for p in Path.cwd().iterdir()] == ["small.onnx"]


def test_json_and_report_file(cli: Cli, net: Path) -> None:
    done = cli(
        "prune", net, "--ratio", "0.25", "--multiple", "4", "-o", "s.onnx", "--report", "r.json", "--json", "--seed", 7
    )
    assert done.code == 0, done.err
    facts = done.json
    assert facts == json.loads(Path("r.json").read_text())
    assert facts["file_bytes"] == Path("s.onnx").stat().st_size
    assert facts["groups"][0]["channels"] == {"before": 32, "after": 24, "ratio": 0.75}
    assert facts["groups"][0]["layers"] == ["first", "second", "classes"]
    assert facts["frozen"] == [{"name": "classes", "size": 10, "reason": "they leave the graph as output 'y'"}]
    assert facts["reference"] == "onnxruntime"
    assert facts["outputs"][0]["error"] <= facts["outputs"][0]["allowed"]
    assert (facts["ratio"], facts["multiple"], facts["seed"]) == (0.25, 4, 7)
    params = sum(int(np.prod(t.dims)) for t in onnx.load_model("s.onnx").graph.initializer)
    assert facts["parameters"]["after"] == params


def test_options_reach_the_plan(cli: Cli, net: Path) -> None:
    def first(*options: object) -> int:
        done = cli("prune", net, "--ratio", "0.5", "-o", "s.onnx", "--json", *options)
        assert done.code == 0, done.err
        return int(done.json["groups"][0]["channels"]["after"])

    assert first("--target", "x86-64-v3", "--layer-ratio", "fir*=0.7") == 8
    assert first("--multiple", 1, "--layer-ratio", "first=0.25") == 24
    assert first("--multiple", 1, "--criterion", "random", "--ranking", "global") == 16
    done = cli(
        "prune", net, "--ratio", "0.5", "--multiple", 1, "-o", "s.onnx", "--json", "--no-verify", "--shape", "x=1x3x8x8"
    )
    assert done.json["reference"] is None
    assert [d.dim_value for d in onnx.load_model("s.onnx").graph.input[0].type.tensor_type.shape.dim] == [1, 3, 8, 8]


def test_calibration_and_budget(cli: Cli, net: Path) -> None:
    np.savez("data.npz", x=np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32))
    words = [
        "prune",
        net,
        "--budget",
        "flops=0.5x",
        "--multiple",
        1,
        "--criterion",
        "activation",
        "--calib",
        "data.npz",
        "-o",
        "s.onnx",
    ]
    done = cli(*words)
    assert done.code == 0, done.err
    assert "after reconstruction" in done.out
    assert "new weights" in done.err
    facts = cli(*words, "--json").json
    assert facts["budget"] == "flops=0.5x"
    assert facts["ratio"] is None
    assert 0.4 < facts["flops"]["ratio"] <= 0.5
    assert facts["outputs"][0]["recovered_db"] > facts["outputs"][0]["sqnr_db"]
    assert [r["name"] for r in facts["repairs"]] == ["second", "classes"]
    facts = cli(*words, "--json", "--no-reconstruct").json
    assert facts["repairs"] == []
    assert facts["outputs"][0]["recovered_db"] is None


def test_latency(cli: Cli, net: Path) -> None:
    words = ["prune", net, "--multiple", 1, "-o", "s.onnx", "--shape", "x=1x3x8x8", "--threads", 1]
    done = cli(*words, "--ratio", "0.5", "--measure")
    assert done.code == 0, done.err
    assert "predicted ms" in done.out
    assert "measured ms" in done.out
    done = cli(*words, "--budget", "latency=0.8x", "--target", "arm", "--json")
    assert done.code == 0, done.err
    assert done.json["predicted_ms"]["ratio"] <= 0.8
    assert done.json["measured_ms"] is None


def test_a_folder_of_samples(cli: Cli, net: Path) -> None:
    Path("data").mkdir()
    for i in range(3):
        np.savez(f"data/{i}.npz", x=rand(2, 3, 8, 8, seed=i))
    done = cli("prune", net, "--ratio", "0.5", "--multiple", 1, "--calib", "data", "-o", "s.onnx", "--json")
    assert done.code == 0, done.err
    assert done.json["data"] == "the last 1 of 3 feeds of calibration data"


def test_the_same_seed_gives_the_same_file(cli: Cli, net: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        assert cli("prune", net, "--ratio", "0.5", "--criterion", "random", "--seed", 3, "-o", name).code == 0
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["-o", "s.onnx"], ["how much", "--ratio", "--budget"]),
        (["--ratio", "0.5", "--budget", "params=0.5x", "-o", "s.onnx"], ["exclude each other"]),
        (["--budget", "params", "-o", "s.onnx"], ["params=1.5M"]),
        (["--budget", "flop=0.5x", "-o", "s.onnx"], ["did you mean 'flops'?"]),
        (["--budget", "params=0.001x", "-o", "s.onnx"], ["can't be met", "the lowest that can be reached"]),
        (["--ratio", "0.5", "-o", "s.onnx", "--criterion", "taylor"], ["'taylor' needs calibration data", "--calib"]),
        (["--ratio", "0.5", "-o", "s.onnx", "--calib", "nowhere"], ["nowhere does not exist"]),
        (["--ratio", "0", "-o", "s.onnx"], ["above 0 and below 1"]),
        (["--ratio", "1", "-o", "s.onnx"], ["above 0 and below 1"]),
        (["--ratio", "50", "-o", "s.onnx"], ["above 0 and below 1"]),
        (["--ratio", "half", "-o", "s.onnx"], ["--ratio"]),
        (["--ratio", "0.5"], ["-o"]),
        (["--ratio", "0.5", "-o", "s.gopt"], ["no .onnx file", "s.onnx"]),
        (["--ratio", "0.5", "-o", "NET"], ["is an input"]),
        (["--ratio", "0.5", "-o", "no/such/s.onnx"], ["no folder"]),
        (["--ratio", "0.5", "-o", "s.onnx", "--report", "no/such/r.json"], ["no folder"]),
        (["--ratio", "0.5", "-o", "s.onnx", "--report", "s.onnx"], ["same file"]),
        (["--ratio", "0.5", "-o", "s.onnx", "--criterion", "rnadom"], ["'rnadom'", "did you mean 'random'?"]),
        (["--ratio", "0.5", "-o", "s.onnx", "--ranking", "globl"], ["globl"]),
        (["--ratio", "0.5", "-o", "s.onnx", "--exclude", "frist"], ["'frist'", "did you mean 'first'?"]),
        (["--ratio", "0.5", "-o", "s.onnx", "--layer-ratio", "secnd=0.2"], ["'secnd'", "did you mean 'second'?"]),
        (["--ratio", "0.5", "-o", "s.onnx", "--layer-ratio", "second"], ["not NAME=VALUE"]),
        (["--ratio", "0.5", "-o", "s.onnx", "--layer-ratio", "second=much"], ["'much'"]),
        (["--ratio", "0.5", "-o", "s.onnx", "--layer-ratio", "second=1.5"], ["below 1"]),
        (["--ratio", "0.5", "-o", "s.onnx", "--exclude", "*"], ["excluded"]),
        (["--ratio", "0.5", "-o", "s.onnx", "--multiple", "0"], ["--multiple"]),
        (["--ratio", "0.02", "-o", "s.onnx", "--multiple", "64"], ["no group loses a channel", "--multiple"]),
        (["--ratio", "0.5", "-o", "s.onnx", "--target", "x68"], ["unknown target 'x68'"]),
        (["--ratio", "0.5", "-o", "s.onnx", "--shape", "z=1x3x8x8"], ["no input called 'z'"]),
    ],
)
def test_bad_requests(cli: Cli, net: Path, words: list[str], messages: list[str]) -> None:
    before = net.read_bytes()
    done = cli("prune", net, *(str(net) if word == "NET" else word for word in words))
    assert done.code == 2, done.err
    assert done.out == ""
    for message in messages:
        assert message in done.err
    assert list(Path.cwd().iterdir()) == []
    assert net.read_bytes() == before


def test_a_graph_of_frozen_groups_says_why(cli: Cli, tmp_path: Path) -> None:
    onnx.save_model(model_of({"x": "float[1,3,8,8]"}, "y = Conv(x, w)", w=rand(8, 3, 3, 3)), tmp_path / "one.onnx")
    done = cli("prune", tmp_path / "one.onnx", "--ratio", "0.5", "-o", "s.onnx", "--json")
    assert done.code == 2
    assert done.json["error"]["code"] == "nothing-to-prune"
    assert any("leave the graph as output 'y'" in note for note in done.json["error"]["notes"])
    assert list(Path.cwd().iterdir()) == []


def test_a_failed_proof_writes_nothing(cli: Cli, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AccuracyError("differs", node="second (Conv)")

    monkeypatch.setattr(pruning, "prove", fail)
    done = cli("prune", net, "--ratio", "0.5", "-o", "s.onnx", "--report", "r.json")
    assert done.code == 3
    assert "second (Conv)" in done.err
    assert list(Path.cwd().iterdir()) == []


def groups(cli: Cli, model: Path, *options: str) -> Result:
    """``inspect --prune-groups``, which must succeed."""
    done = cli("inspect", model, "--prune-groups", *options)
    assert done.code == 0, done.err
    return done


def test_inspect_groups(cli: Cli, net: Path) -> None:
    out = groups(cli, net).out
    assert "1 group, 32 channels" in out
    assert "first (out), second (out and in), classes (in)" in out
    assert "they leave the graph as output 'y'" in out


def test_inspect_groups_in_json(cli: Cli, net: Path) -> None:
    facts = groups(cli, net, "--json", "--shape", "x=1x3x8x8").json
    (group,) = facts["groups"]
    assert group["name"] == "first"
    assert group["channels"] == 32
    assert group["parameters_per_channel"] == 27 + 2 * 32 * 9 - 9 + 10
    assert group["bytes_per_channel"] == 4 * group["parameters_per_channel"]
    # both convolutions, ReLU, addition, pooling, classifier
    assert group["flops_per_channel"] == 64 * 2 * (27 + 2 * 32 * 9 - 9) + 3 * 64 + 20
    roles = {(m["node"], m["role"], m["axis"]) for m in group["members"]}
    assert {("first", "out", 0), ("second", "out", 0), ("second", "in", 1), ("classes", "in", 1)} < roles
    assert any(m["tensor"] == "s" and m["node"] is None and m["axis"] == 1 for m in group["members"])
    assert facts["frozen"] == [{"layer": "classes", "channels": 10, "reason": "they leave the graph as output 'y'"}]


def test_inspect_groups_of_a_real_model(cli: Cli) -> None:
    out = groups(cli, zoo.get("digits").path()).out
    assert "conv2 (out), bn2 (parameter), conv3 (in), conv4 (out), bn4 (parameter), fc (in)" in out


def test_inspect_groups_refuses(cli: Cli, net: Path, artifact: Path) -> None:
    assert cli("inspect", net, "--prune-groups", "--stage", "graph").code == 2
    done = cli("inspect", artifact, "--prune-groups")
    assert done.code == 2
    assert "compiled" in done.err
