"""Compiled models saved and loaded: the same results, in a process without onnx, and nothing wrong gets loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt.errors import ArtifactError, CompileError, DeviceError, GraphOptError, UserError
from graphopt.ir.dtypes import DType
from graphopt.runtime.artifact import read_artifact, write_artifact


def small_model() -> onnx.ModelProto:
    """``y = relu(x @ w)`` and ``-y``, with a symbolic number of rows."""
    w = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
            helper.make_node("Relu", ["p"], ["y"], name="activation"),
            helper.make_node("Neg", ["y"], ["negative"], name="negative"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 8])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 5]),
            helper.make_tensor_value_info("negative", TensorProto.FLOAT, ["rows", 5]),
        ],
        [onnx.numpy_helper.from_array(w, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def feed(rows: int) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.random.default_rng(rows).standard_normal((rows, 8)).astype(np.float32)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "small.onnx"
    onnx.save_model(small_model(), path)
    return path


@pytest.fixture(scope="module")
def saved(source: Path) -> Path:
    path = source.with_suffix(".gopt")
    graphopt.compile(source, "native", threads=1).save(path)
    return path


def test_a_loaded_model_gives_the_same_results_at_every_size(source: Path, saved: Path) -> None:
    compiled, loaded = graphopt.compile(source, "native", threads=1), graphopt.load(saved)
    assert (loaded.inputs, loaded.outputs) == (compiled.inputs, compiled.outputs)
    assert str(loaded.inputs[0]) == "x: f32[rows, 8]"
    for rows in (1, 3, 17):
        want, got = compiled.run(feed(rows)), loaded.run(feed(rows))
        assert got.keys() == want.keys()
        for name, array in want.items():
            np.testing.assert_array_equal(got[name], array)


def test_the_manifest_says_what_it_was_made_of(saved: Path, source: Path) -> None:
    manifest = read_artifact(saved).manifest
    assert manifest["source"]["name"] == "small.onnx"
    assert len(manifest["source"]["sha256"]) == 64
    assert manifest["threads"] == 1
    assert manifest["target"]["kind"] in ("x86", "arm")
    assert {"graphopt", "tvm", "tvm-ffi"} <= manifest["versions"].keys()


def test_a_loaded_model_can_be_saved_again(saved: Path, tmp_path: Path) -> None:
    graphopt.load(saved).save(tmp_path / "copy.gopt")
    want, got = graphopt.load(saved).run(feed(2)), graphopt.load(tmp_path / "copy.gopt").run(feed(2))
    np.testing.assert_array_equal(got["y"], want["y"])


def test_a_fresh_process_runs_it_without_onnx(saved: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", feed(4)["x"])
    code = (
        "import sys, numpy, graphopt\n"
        f"model = graphopt.load({str(saved)!r})\n"
        f"out = model.run({{'x': numpy.load({str(tmp_path / 'x.npy')!r})}})\n"
        f"numpy.save({str(tmp_path / 'y.npy')!r}, out['y'])\n"
        "foreign = ('onnx', 'onnx_graphsurgeon', 'onnxruntime')\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in foreign or m.startswith('graphopt.passes')]\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    want = graphopt.load(saved).run(feed(4))["y"]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), want)


def test_element_type_codes_are_onnxs() -> None:
    codes = dict(TensorProto.DataType.items())
    special = {"f32": "FLOAT", "f64": "DOUBLE", "bool": "BOOL", "string": "STRING"}
    families = {"f": "FLOAT", "bf": "BFLOAT", "i": "INT", "u": "UINT", "c": "COMPLEX"}
    seen = 0
    for dtype in DType:
        if dtype is DType.other:
            continue
        letters = str(dtype).rstrip("0123456789") if "e" not in str(dtype) else "f"
        name = special.get(str(dtype)) or families[letters] + str(dtype)[len(letters) :].upper()
        if name in codes:  # an older onnx may lack the newest types
            assert dtype.onnx == codes[name], dtype
            seen += 1
    assert seen >= 16


def rewritten(saved: Path, to: Path, **changes: Any) -> Path:
    """A copy with other manifest entries and correct hashes."""
    artifact = read_artifact(saved)
    manifest = {k: v for k, v in artifact.manifest.items() if k not in ("constants", "format", "sections", "versions")}
    manifest.update(changes)
    write_artifact(to, library=artifact.library, constants=artifact.constants, manifest=manifest)
    return to


def test_an_artifact_for_another_machine_names_it_and_the_remedy(saved: Path, tmp_path: Path) -> None:
    target = read_artifact(saved).manifest["target"]
    other = {"kind": "llvm", "mtriple": "riscv64-linux-gnu", "mcpu": "generic-rv64"}
    path = rewritten(saved, tmp_path / "m.gopt", target={**target, "name": "board", "config": other, "host": other})
    with pytest.raises(DeviceError, match=r"board.*riscv64") as caught:
        graphopt.load(path)
    assert caught.value.hint is not None
    assert "--target native" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [("signature", {}), ("signature", None), ("target", {"name": "x86"}), ("threads", 0), ("source", {})],
)
def test_a_manifest_of_another_form_is_refused(saved: Path, tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ArtifactError, match="holds no model"):
        graphopt.load(rewritten(saved, tmp_path / "m.gopt", **{key: value}))


def test_damage_is_refused(saved: Path, tmp_path: Path) -> None:
    data = bytearray(saved.read_bytes())
    bad = tmp_path / "bad.gopt"
    for position in (3, 40, 200, len(data) // 2, len(data) - 65):
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        bad.write_bytes(flipped)
        with pytest.raises(ArtifactError):
            graphopt.load(bad)
    for size in (0, 10, 1000, len(data) - 1):
        bad.write_bytes(data[:size])
        with pytest.raises(ArtifactError):
            graphopt.load(bad)
    with pytest.raises(ArtifactError):
        graphopt.load(tmp_path / "missing.gopt")


def test_another_tvm_is_refused(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.runtime import artifact as module

    versions = {**module._versions(), "tvm": "0.99.0"}
    monkeypatch.setattr(module, "_versions", lambda: versions)
    with pytest.raises(ArtifactError, match=r"apache-tvm .*0\.99"):
        graphopt.load(saved)


def test_a_model_is_never_replaced_by_its_artifact(source: Path) -> None:
    before = source.read_bytes()
    with pytest.raises(UserError, match="would destroy it"):
        graphopt.compile(source, threads=1).save(source)
    assert source.read_bytes() == before


def test_a_failed_save_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.backends.build import code_generation

    def none(*_: object) -> None:
        raise CompileError("no linker", code="no-linker")

    model = graphopt.compile(source, threads=1)
    monkeypatch.setattr(code_generation, "find_linker", none)
    with pytest.raises(CompileError, match="no linker"):
        model.save(tmp_path / "m.gopt")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    with pytest.raises(GraphOptError):
        model.save(tmp_path / "no" / "such" / "folder" / "m.gopt")


def test_the_manifest_is_json(saved: Path) -> None:
    assert json.loads(json.dumps(read_artifact(saved).manifest))


def test_models_with_many_zeros_take_less_room_and_compute_the_same(source: Path, tmp_path: Path) -> None:
    w = np.random.default_rng(0).standard_normal((256, 200)).astype(np.float32)
    w[np.random.default_rng(1).random(w.shape) < 0.8] = 0
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "sparse",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 200])],
        [onnx.numpy_helper.from_array(w, "w")],
    )
    model = graphopt.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), "native", threads=1)
    small, large, again = tmp_path / "small.gopt", tmp_path / "large.gopt", tmp_path / "again.gopt"
    model.save(small)
    model.save(large, compressed=False)
    assert large.stat().st_size - small.stat().st_size > w.nbytes * 0.7
    x = {"x": np.random.default_rng(2).standard_normal((3, 256)).astype(np.float32)}
    want = model.run(x)["y"]
    for path in (small, large):
        np.testing.assert_array_equal(graphopt.load(path).run(x)["y"], want)
    graphopt.load(small).save(again)
    assert again.read_bytes() == small.read_bytes()
