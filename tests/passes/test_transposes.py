"""Transposes moved until they cancel."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.onnx_graphs import assert_refuses, graph_of, ops, rand, run_pass

X = {"x": "float[2,3,4,5]", "z": "float[2,3,4,5]"}
TO, BACK = "Transpose<perm=[0,2,3,1]>", "Transpose<perm=[0,3,1,2]>"

CANCEL = {
    "unary": "a = Relu(t)\nb = Tanh(a)\n",
    "constant by channel": "b = Mul(t, k)\n",
    "constant of full rank": "b = Add(k4, t)\n",
    "scalar": "b = Pow(t, two)\n",
    "clip": "b = Clip(t, zero, two)\n",
    "diamond": "a = Sigmoid(t)\nb = Mul(a, t)\n",
    "reduce": "a = ReduceMean<keepdims=1>(t, axes)\nb = Sub(t, a)\n",
    "softmax": "b = Softmax<axis=3>(t)\n",
    "softmax, negative axis": "b = Softmax<axis=-1>(t)\n",
    "pad": "b = Pad(t, amounts, , padded)\n",
    "slice": "b = Slice(t, ones, twos, padded)\n",
    "concat": f"u = {TO}(z)\nb = Concat<axis=-1>(t, u)\n",
    "split": "p, q, w = Split<axis=3, num_outputs=3>(t)\nb = Concat<axis=3>(q, p, w)\n",
    "add of two": f"u = {TO}(z)\nb = Add(t, u)\n",
}
K = {
    "k": rand(3), "k4": rand(1, 4, 1, 3), "two": np.float32(2), "zero": np.float32(0), "axes": np.array([-1, 1]),
    "amounts": np.array([1, 2]), "padded": np.array([-1]), "ones": np.array([1]), "twos": np.array([3]),
}  # fmt: skip


@pytest.mark.parametrize("name", CANCEL)
def test_transposes_around_a_chain_cancel(name):
    g = graph_of(X, f"t = {TO}(x)\n{CANCEL[name]}y = {BACK}(b)", **K)
    after, remarks = run_pass(g, "move-transposes")
    assert "Transpose" not in ops(after), [str(r) for r in remarks]


def test_one_of_two_transposes_is_saved_behind_a_join():
    g = graph_of(X, f"t = {TO}(x)\nu = {TO}(z)\ny = Add(t, u)")
    after, _ = run_pass(g, "move-transposes")
    assert ops(after) == ["Add", "Transpose"]


def test_a_region_may_have_other_users():
    g = graph_of(
        X,
        f"t = {TO}(x)\na = Relu(t)\nu = {TO}(z)\nb = Add(a, u)\nw = {BACK}(b)\ny = Exp(w)\n"
        "v = ReduceSum<keepdims=0>(a)",
        "y v",
        **K,
    )
    after, _ = run_pass(g, "move-transposes")
    assert ops(after).count("Transpose") <= 1


def test_refusals():
    reason = "no group of nodes"
    assert_refuses(graph_of(X, f"t = {TO}(x)\ny = Relu(t)"), "move-transposes", reason)
    g = graph_of(X, f"t = {TO}(x)\nr = ReduceMean<keepdims=0>(t, axes)\ny = Exp(r)", **K)
    assert_refuses(g, "move-transposes", reason)
    g = graph_of({**X, "p": "float[3]"}, f"t = {TO}(x)\na = Add(t, p)\ny = {BACK}(a)")
    assert_refuses(g, "move-transposes", reason)


def test_quantization_by_channel_is_left_alone():
    body = f"t = {TO}(x)\nq = QuantizeLinear<axis=3>(t, s)\nd = DequantizeLinear<axis=3>(q, s)\ny = {BACK}(d)"
    assert_refuses(graph_of(X, body, s=rand(3, positive=True) / 50), "move-transposes", "no group of nodes")
    g = graph_of(X, body, s=np.float32(0.02))
    after, _ = run_pass(g, "move-transposes")
    assert ops(after) == ["QuantizeLinear", "DequantizeLinear"]
