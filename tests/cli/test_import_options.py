"""``--value`` and ``--strict`` do the same on every verb that reads an ONNX model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.cli.values import values_of
from graphopt.errors import UserError
from tests.cli.conftest import Cli

VERBS: dict[str, list[str]] = {
    "compile": ["-o", "out.gopt"],
    "optimize": ["-o", "out.onnx"],
    "prune": ["-o", "out.onnx", "--ratio", "0.5", "--multiple", "1", "--no-verify"],
    "sparsify": ["-o", "out.onnx", "--ratio", "0.5", "--no-compile"],
    "inspect": [],
    "inspect --stage graph": ["--stage", "graph"],
    "inspect --prune-groups": ["--prune-groups"],
    "run": ["--output-dir", ".", "--input", "x=x.npy"],
    "check": ["--reference", "onnx"],
    "bench": ["--repeat", "1", "--compare", "onnxruntime"],
}


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, the result scaled by the input ``gain``; the output has no type, which the checker refuses."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in (("a", (8, 8)), ("b", (8, 4)))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"], name="first"),
        helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["q"], name="second"),
        helper.make_node("Mul", ["q", "gain"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in (("x", [2, 8]), ("gain", []))],
        [onnx.ValueInfoProto(name="y")], weights,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("options") / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_both(cli: Cli, scaled: Path, verb: str) -> None:
    np.save("x.npy", np.ones((2, 8), np.float32))
    words = [verb.split()[0], scaled, *VERBS[verb], "--value", "gain=2", "--json"]
    done = cli(*words)
    assert done.code == 0, done.err
    if verb in ("compile", "inspect"):
        assert done.json["inputs"] == ["x: f32[2, 8]"]
    refused = cli(*words, "--strict")
    assert refused.code == 2
    assert refused.json["error"]["code"] == "checker-failed"
    unknown = cli(*[w if w != "gain=2" else "gian=2" for w in words])
    assert unknown.code == 2
    assert "did you mean 'gain'?" in unknown.json["error"]["hint"]


def test_the_value_counts(cli: Cli, scaled: Path) -> None:
    np.save("x.npy", np.ones((2, 8), np.float32))
    results = []
    for gain in ("1", "-4"):
        done = cli("run", scaled, "--output-dir", ".", "--input", "x=x.npy", "--value", f"gain={gain}")
        assert done.code == 0, done.err
        results.append(np.load("y.npy"))
    np.testing.assert_array_equal(results[1], -4 * results[0])


def test_what_was_accepted_is_said(cli: Cli, scaled: Path) -> None:
    assert "no type is declared" in cli("inspect", scaled).out
    done = cli("optimize", scaled, "-o", "out.onnx", "--remarks", "--json")
    assert any(text.startswith("import/untyped-output") for text in done.json["remarks"])


def test_an_artefact_has_no_inputs_left_to_fix(cli: Cli, artifact: Path, array: Path) -> None:
    done = cli("run", artifact, "--output-dir", ".", "--input", f"x={array}", "--value", "x=1")
    assert done.code == 2
    assert "compiled already" in done.err


def test_forms_of_values(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    np.save(file, np.arange(3))
    found = values_of(["sr=16000", "half=0.5", "on=true", "axes=1,2", "one=[7]", "none=[]", f"x={file}"])
    array = found.pop("x")
    assert found == {"sr": 16000, "half": 0.5, "on": True, "axes": [1, 2], "one": [7], "none": []}
    np.testing.assert_array_equal(array, np.arange(3))


@pytest.mark.parametrize("text", ["sr", "sr=fast", "sr=1,,2", "=3"])
def test_malformed_values_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--value") as caught:
        values_of([text])
    assert caught.value.hint
