"""Other runtimes compute the same as the reference on the same inputs, or say why they can't."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.driver.accuracy import compare_all
from graphopt.driver.bench.peers import onnxruntime, openvino, prepare
from graphopt.driver.bench.peers.mnn import with_fixed_shapes
from graphopt.driver.bench.peers.prepare import PEERS, Peer, peer, peer_info
from graphopt.driver.reference import make_reference
from graphopt.errors import CompileError, UserError
from tests.support.onnx_graphs import model_of, rand

INSTALLED = [name for name in PEERS if prepare._TABLE[name].version is not None]
REAL = [name for name in INSTALLED if name != "tvm"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of open batch and height through a convolution, and indices that pick rows of it; two results."""
    body = """
        c = Conv<pads = [1, 1, 1, 1]>(image, w)
        r = Relu(c)
        picked = Gather<axis = 1>(r, index)
        y = Neg(picked)
    """
    proto = model_of({"image": "float[N,3,H,8]", "index": "int64[2]"}, body, "y r", w=rand(4, 3, 3, 3))
    path = tmp_path_factory.mktemp("peers") / "m.onnx"
    onnx.save_model(proto, path)
    return path


@pytest.fixture(scope="module")
def feed() -> dict[str, np.ndarray]:
    return {"image": rand(2, 3, 6, 8), "index": np.array([3, 1])}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", REAL)
def test_same_results(name: str, threads: int, model: Path, feed: dict[str, np.ndarray]) -> None:
    found = peer(name, model, feed, threads)
    want = make_reference(model, "onnx")(feed)
    for _ in range(2):
        got = {key: array.copy() for key, array in found.run().items()}
        assert [c.problem for c in compare_all(got, want, reduction=27)] == [None, None]
    assert found.compile_s is not None
    assert found.compile_s > 0


def test_inputs_matter(model: Path, feed: dict[str, np.ndarray]) -> None:
    """Results depend on the inputs given: no peer answers from zeros."""
    for name in REAL:
        other = {**feed, "image": feed["image"] + 1}
        a, b = (peer(name, model, f, 1).run()["y"].copy() for f in (feed, other))
        assert not np.array_equal(a, b), name


@pytest.mark.parametrize("name", [name for name in ("onnxruntime", "openvino") if name in REAL])
def test_callers_share_what_was_opened(name: str, model: Path, feed: dict[str, np.ndarray]) -> None:
    """Each caller has the results of its own inputs, though one of them ran last; threads are the peer's own choice."""
    head = onnx.load_model(model)
    other = {**feed, "image": feed["image"] + 1}
    if name == "onnxruntime":
        session = onnxruntime.open_session(model, head, feed, None)
        runs = [onnxruntime.session_run(session, f) for f in (feed, other)]
    else:
        compiled = openvino.compile_network(model, feed, None)
        runs = [openvino.request_run(compiled, head, f) for f in (feed, other)]
    found = [run() for run in runs]
    for got, f in zip(found, (feed, other)):
        want = make_reference(model, "onnx")(f)
        assert [c.problem for c in compare_all(dict(got), want, reduction=27)] == [None, None]


@pytest.mark.parametrize("name", REAL)
def test_sizes_that_stay_open(name: str, model: Path, feed: dict[str, np.ndarray]) -> None:
    """The results are the same; only what was said to be fixed is."""
    head = onnx.load_model(model)
    left = {"image": [2]}
    run = prepare._TABLE[name].prepare(model, head, feed, 1, left)
    want = make_reference(model, "onnx")(feed)
    got = {key: np.copy(array) for key, array in run().items()}
    assert [c.problem for c in compare_all(got, want, reduction=27)] == [None, None]
    if name == "onnxruntime":
        session = onnxruntime.open_session(model, head, feed, 1, left)
        assert session.get_inputs()[0].shape == [2, 3, "H", 8]
        assert onnxruntime.open_session(model, head, feed, 1).get_inputs()[0].shape == [2, 3, 6, 8]
    if name == "openvino":
        compiled = openvino.compile_network(model, feed, 1, open_axes=left)
        assert str(compiled.input("image").partial_shape) == "[2,3,?,8]"
        assert str(openvino.compile_network(model, feed, 1).input("image").partial_shape) == "[2,3,6,8]"


@pytest.mark.parametrize("name", REAL)
def test_a_model_that_nobody_knows(name: str, tmp_path: Path) -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Unheard", ["x"], ["y"], domain="nowhere")],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [2])],
        [onnx.helper.make_tensor_value_info("y", 1, [2])],
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("nowhere", 1)]
    onnx.save_model(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx")
    with pytest.raises(CompileError, match="can't take the model") as caught:
        peer(name, tmp_path / "m.onnx", {"x": np.zeros(2, np.float32)}, 1)
    assert f"--compare {name}" in (caught.value.hint or "")


def test_unknown_and_absent_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="unknown peer") as caught:
        peer_info("openvin")
    assert "openvino" in (caught.value.hint or "")

    def never(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setitem(prepare._TABLE, "mnn", Peer("MNN", "no_such_module_here", "MNN", never))
    with pytest.raises(UserError, match="MNN is not installed") as caught:
        peer("mnn", Path("m.onnx"), {}, 1)
    assert "pip install MNN" in (caught.value.hint or "")


def test_shapes_are_fixed_for_who_needs_it(model: Path, feed: dict[str, np.ndarray], tmp_path: Path) -> None:
    fixed = with_fixed_shapes(model, feed, tmp_path / "fixed.onnx")
    dims = onnx.load_model(fixed).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [2, 3, 6, 8]
    assert with_fixed_shapes(fixed, feed, tmp_path / "again.onnx") == fixed
    assert not (tmp_path / "again.onnx").exists()
    partly = with_fixed_shapes(model, feed, tmp_path / "partly.onnx", {"image": [2]})
    dims = onnx.load_model(partly).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == [2, 3, "H", 8]
    assert with_fixed_shapes(model, feed, tmp_path / "none.onnx", {"image": [0, 2]}) == model


@pytest.mark.skipif("mnn" not in INSTALLED, reason="MNN is not installed")
def test_mnn_is_quiet_and_installs_nothing(model: Path, feed: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Its tools package calls pip and reports to its maker when it is imported, and its library prints."""
    arrays = tmp_path / "f.npz"
    np.savez(arrays, **feed)  # type: ignore[arg-type]
    code = (
        "import sys, numpy; from pathlib import Path; from graphopt.driver.bench.peers.prepare import peer\n"
        f"feed = dict(numpy.load({str(arrays)!r}))\n"
        f"peer('mnn', Path({str(model)!r}), feed, 1).run()\n"
        "assert not [m for m in sys.modules if m.startswith('MNN.tools')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
