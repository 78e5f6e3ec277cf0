"""Every verb does its job, and prints one JSON document when asked to."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.driver.bench.peers.prepare import PEERS
from graphopt.models import zoo
from tests.cli.conftest import Cli, small_model


def test_compile_says_what_it_made(cli: Cli, model: Path) -> None:
    done = cli("compile", model, "--target", "x86-64-v2", "-o", "m.gopt", "--shape", "x=4x8", "-O1", "--threads", 1)
    assert done.code == 0, done.err
    assert "x86-64-v2" in done.out
    assert "input  x: f32[4, 8]" in done.out
    assert Path("m.gopt").is_file()


def test_compile_json(cli: Cli, model: Path) -> None:
    done = cli("compile", model, "-o", "m.gopt", "--json", "--remarks", "--verify-each", "-O", "2", "--threads", 1)
    assert done.code == 0, done.err
    assert done.json["bytes"] == Path("m.gopt").stat().st_size
    assert done.json["inputs"] == ["x: f32[rows, 8]"]
    assert done.json["threads"] == 1
    assert isinstance(done.json["remarks"], list)


def test_a_plan_is_written_and_followed(cli: Cli, model: Path) -> None:
    done = cli("compile", model, "-o", "m.gopt", "--threads", 1, "--write-plan", "plan.json")
    assert done.code == 0, done.err
    plan = graphopt.KernelPlan.load("plan.json")
    assert plan.threads == 1
    assert plan.kernels
    again = cli("compile", model, "-o", "n.gopt", "--threads", 1, "--plan", "plan.json", "--write-plan", "again.json")
    assert again.code == 0, again.err
    assert Path("again.json").read_bytes() == Path("plan.json").read_bytes()
    for verb in (["check", model], ["bench", model, "--repeat", 1], ["compile", model, "-o", "o.gopt"]):
        done = cli(*verb, "--threads", 2, "--plan", "plan.json", "--json")
        assert done.json["error"]["code"] == "plan-does-not-fit"
        assert done.code == 2
    for verb in (["check", model], ["bench", model, "--repeat", 1]):
        assert cli(*verb, "--threads", 1, "--plan", "plan.json").code == 0
    for written in ("plan.json", "m.gopt", model):
        done = cli("compile", model, "-o", "m.gopt", "--threads", 1, "--plan", "plan.json", "--write-plan", written)
        assert done.code == 2
    assert cli("bench", "m.gopt", "--plan", "plan.json").code == 2


def test_pass_options_reach_the_pipeline(cli: Cli, model: Path) -> None:
    done = cli("optimize", model, "-o", "b.onnx", "--pass", "dead-code", "--json")
    assert done.json["operators"]["Identity"] == {"before": 1, "after": 1}
    done = cli("optimize", model, "-o", "b.onnx", "--skip-pass", "remove-no-ops", "--json")
    assert done.code == 0, done.err


def test_optimize_writes_equivalent_onnx(cli: Cli, model: Path, array: Path) -> None:
    done = cli("optimize", model, "-o", "better.onnx", "--remarks")
    assert done.code == 0, done.err
    assert "Identity" in done.out
    x = {"x": np.load(array)}
    want, got = (ReferenceEvaluator(str(p)).run(None, x)[0] for p in (model, "better.onnx"))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert "Identity" not in [n.op_type for n in onnx.load_model("better.onnx").graph.node]


@pytest.mark.parametrize(("stage", "text"), [("graph", "MatMul"), ("fused", "fused small"), ("program", "program")])
def test_inspect_stages(cli: Cli, model: Path, stage: str, text: str) -> None:
    done = cli("inspect", model, "--stage", stage)
    assert done.code == 0, done.err
    assert text in done.out
    assert cli("inspect", model, "--stage", stage, "--json").json["stage"] == stage


def test_exact_leaves_winograd_out_and_costs_say_so(cli: Cli, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float32), "w")
    names = "xaby"  # the middle one has channels in blocks on both sides
    convs = [helper.make_node("Conv", [a, "w"], [b], f"c{a}", pads=[1, 1, 1, 1]) for a, b in itertools.pairwise(names)]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 64, 56, 56]) for n in "xy")
    path = tmp_path / "conv.onnx"
    onnx.save_model(helper.make_model(helper.make_graph(convs, "g", [x], [y], [weight])), path)
    usual = cli("inspect", path, "--stage", "program", "--costs").out
    assert "// conv2d-winograd WinogradConfig" in usual
    assert "231.21 MFLOP" in usual
    exact = cli("inspect", path, "--stage", "program", "--costs", "--exact").out
    assert "// conv2d-direct Conv2dConfig" in exact
    assert "conv2d-winograd: exact" in exact
    assert cli("inspect", path, "--costs").code == 2


def test_inspect_summaries(cli: Cli, model: Path, artifact: Path) -> None:
    assert cli("inspect", model, "--json").json["operators"] == {"Identity": 1, "MatMul": 1, "Relu": 1}
    facts = cli("inspect", artifact, "--json").json
    assert facts["inputs"] == ["x: f32[rows, 8]"]
    assert "small.onnx" in facts["source"]
    assert "MatMul" in cli("inspect", "--ops").out.split()


def test_run(cli: Cli, model: Path, artifact: Path, array: Path) -> None:
    done = cli("run", artifact, "--input", f"x={array}", "--output-dir", "out", "--json")
    assert done.code == 0, done.err
    assert done.json["outputs"]["y"]["shape"] == [3, 5]
    want = ReferenceEvaluator(str(model)).run(None, {"x": np.load(array)})[0]
    np.testing.assert_allclose(np.load("out/y.npy"), want, rtol=1e-5, atol=1e-6)
    assert [p.name for p in Path("out").iterdir()] == ["y.npy"]


def test_run_compiles_onnx_on_the_fly(cli: Cli, model: Path, array: Path) -> None:
    done = cli("run", model, "-i", f"x={array}", "--output-dir", "out", "--threads", 1)
    assert done.code == 0, done.err
    assert Path("out/y.npy").is_file()


def test_output_names_cannot_leave_the_folder(cli: Cli, array: Path, tmp_path: Path) -> None:
    onnx.save_model(small_model("../../evil/../y:0"), tmp_path / "evil.onnx")
    done = cli("run", tmp_path / "evil.onnx", "-i", f"x={array}", "--output-dir", "out", "--json")
    assert done.code == 0, done.err
    (entry,) = done.json["outputs"].values()
    assert Path(entry["file"]).resolve().parent == Path("out").resolve()
    assert Path(entry["file"]).is_file()
    assert {p.name for p in Path.cwd().iterdir()} == {"out"}


def test_check(cli: Cli, model: Path, array: Path) -> None:
    done = cli("check", model, "--reference", "onnx", "--seed", 3)
    assert done.code == 0, done.err
    assert "ok" in done.out
    done = cli("check", model, "--shape", "x=3x8", "--input", f"x={array}", "--json")
    assert done.json["ok"] is True
    assert done.json["values"][0]["name"] == "y"


def test_bench(cli: Cli, model: Path, artifact: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = cli("bench", model, "--repeat", 2, "--compare", "onnxruntime", "--threads", 1, "--json")
    assert done.code == 0, done.err
    assert [r["name"] for r in done.json["results"]] == ["graphopt", "onnxruntime"]
    assert all(r["runs"] >= 1 and r["median_ms"] > 0 for r in done.json["results"])
    assert done.json["results"][1]["problem"] is None
    assert done.json["absent"] == []
    assert "graphopt" in cli("bench", artifact, "--repeat", 1).out


def test_bench_lists_peers_in_one_go(cli: Cli, model: Path) -> None:
    for package in ("onnxruntime", "openvino", "MNN"):
        pytest.importorskip(package)
    done = cli("bench", model, "--repeat", 1, "--compare", "onnxruntime, openvino", "--compare", "mnn,onnxruntime")
    assert done.code == 0, done.err
    lines = {line.split()[0]: line for line in done.out.splitlines() if line.split()}
    assert [line for line in lines if line in ("graphopt", *PEERS)] == ["graphopt", "onnxruntime", "openvino", "mnn"]
    assert all("ok, error" in lines[name] for name in ("onnxruntime", "openvino", "mnn"))


def test_bench_reports_peers_that_fail_or_differ(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run in processes of their own, which import what they are named by."""
    from graphopt.driver.bench.peers import prepare
    from tests.driver.bench import fake_runtimes

    monkeypatch.setitem(prepare._TABLE, "openvino", prepare.Peer("OpenVINO", "numpy", "numpy", fake_runtimes.refuses))
    monkeypatch.setitem(prepare._TABLE, "mnn", prepare.Peer("MNN", "numpy", "numpy", fake_runtimes.zeros))
    options = ("--repeat", 1, "--compare", "openvino,mnn", "--threads", 1)
    done = cli("bench", model, *options)
    assert done.code == 0, done.err
    assert "OpenVINO can't take the model: ValueError: no kernel for Frobnicate" in done.out
    assert "DIFFERS: y: error" in done.out
    assert ("memory MB" in done.out) == (sys.platform == "linux")
    found = cli("bench", model, *options, "--json").json
    assert [entry["name"] for entry in found["absent"]] == ["openvino"]
    assert "error" in found["results"][1]["problem"]


def test_bench_per_layer(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from graphopt.driver.bench import machine_peak

    bandwidth = machine_peak.Bandwidth("memory", 20.0, 10.0, 15.0, 17.0)
    peaks = machine_peak.MachinePeaks(1, 100.0, 100.0, (bandwidth,))
    monkeypatch.setattr(machine_peak, "machine_peaks", lambda target: peaks)
    model = zoo.get("digits").path()
    options = ("--shape", "image=1x1x8x8", "--threads", 1, "--repeat", 2)
    done = cli("bench", model, *options, "--per-layer", "--roofline", "r.png")
    assert done.code == 0, done.err
    assert "conv_relu" in done.out
    assert "Measured peaks: 100 GFLOP/s" in done.out
    assert Path("r.png").stat().st_size > 1000
    found = cli("bench", model, *options, "--per-layer", "--json").json["per_layer"]
    assert found["peaks"]["gflops"] == 100.0
    assert found["kernels_ms"] == pytest.approx(sum(layer["ms"] for layer in found["layers"]))
    assert {layer["bound"] for layer in found["layers"]} <= {"compute", "memory"}
    assert cli("compile", model, *options[:4], "-o", "d.gopt").code == 0
    assert "conv_relu" in cli("bench", "d.gopt", "--repeat", 1, "--per-layer").out


def test_bench_against_tvms_defaults(cli: Cli, model: Path) -> None:
    done = cli("bench", model, "--repeat", 1, "--compare", "tvm", "--shape", "x=4x8", "--threads", 1, "--json")
    assert done.code == 0, done.err
    assert done.json["results"][1]["name"] == "tvm"


def test_lists(cli: Cli) -> None:
    names = [p["name"] for p in cli("passes", "--json").json["passes"]]
    assert "dead-code" in names
    assert names == sorted(names)
    assert "dead-code" in cli("passes").out
    targets = {t["name"]: t for t in cli("targets", "--json").json["targets"]}
    assert {"x86", "arm", "cuda:sm_80"} <= targets.keys()
    assert "x86-64-v3" in cli("targets").out


def test_help_of_everything(cli: Cli) -> None:
    assert "compile" in cli("--help").out
    for verb in ("compile", "optimize", "inspect", "run", "check", "bench", "targets", "passes", "demo"):
        done = cli(verb, "--help")
        assert done.code == 0
        assert "--json" in done.out
    assert cli("--version").out.startswith("graphopt ")


@pytest.mark.slow
def test_demo(cli: Cli) -> None:
    report = cli("demo", "--quick", "--json").json
    assert report["ok"] is True
    assert report["accuracy"] == report["reference_accuracy"] > 0.9
    assert report["latencies"][0]["name"] == "graphopt"


def test_the_public_names_exist() -> None:
    for name in graphopt.__all__:
        assert getattr(graphopt, name) is not None
