"""Graphopt and its peers as contenders: one model, the same sizes fixed, and weights held by nobody who only looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.driver.bench.compete import compete
from graphopt.driver.bench.entrants import head_of, open_axes_of, own_entrant, peer_entrant
from graphopt.driver.bench.peers.prepare import PEERS, peer_info
from graphopt.driver.compiling import compile
from graphopt.driver.reference import make_reference
from graphopt.errors import UserError
from tests.support.onnx_graphs import model_of, rand

W = rand(8, 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of open number and a matrix that is an initializer and an input, as older models have it."""
    proto = model_of({"x": "float[N,8]", "k": "float[2,M]"}, "p = MatMul(x, w)\ny = Relu(p)\nz = Neg(k)", "y z", w=W)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [8, 3]))
    path = tmp_path_factory.mktemp("entrants") / "m.onnx"
    onnx.save_model(proto, path)
    return path


@pytest.mark.parametrize("dynamic", [False, True])
def test_ours_beside_peers(model: Path, tmp_path: Path, dynamic: bool) -> None:
    feed = {"x": rand(4, 8), "k": rand(2, 3)}
    compiled = compile(model, "native", threads=1, shapes=None if dynamic else {"x": (4, 8), "k": (2, 3)})
    left = open_axes_of(compiled.signature)
    assert left == ({"x": [0], "k": [1]} if dynamic else {})
    peers = [name for name in PEERS if name != "tvm" and _is_installed(name)]
    entrants = [peer_entrant(name, model, tmp_path, feed, 1, left) for name in peers]
    found = compete([own_entrant(compiled, tmp_path, feed, 3.0), *entrants], 1, tolerance={"reduction": 8})
    assert [latency.name for latency in found.latencies] == ["graphopt", *peers], found.absent
    assert [latency.problem for latency in found.latencies] == [None] * (1 + len(peers))
    assert (found.latencies[0].compile_s or 0.0) > 3.0
    want = make_reference(model, "onnx")(feed)
    assert np.allclose(found.outputs["graphopt"]["y"], want["y"], atol=1e-5)
    assert np.array_equal(found.outputs["graphopt"]["z"], want["z"])


def _is_installed(name: str) -> bool:
    try:
        peer_info(name)
    except UserError:
        return False
    return True


def test_heads_have_no_weights(model: Path) -> None:
    proto = onnx.load_model(model)
    head = head_of(proto)
    assert [item.name for item in head.graph.input] == ["x", "k"]
    assert list(head.graph.output) == list(proto.graph.output)
    assert not head.graph.node
    assert not head.graph.initializer
