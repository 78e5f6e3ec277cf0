"""Recognition of well-known subgraphs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphopt.driver.optimizing import optimize
from graphopt.rewrite.remarks import Remarks
from tests.support.onnx_graphs import assert_fires, assert_refuses, graph_of, ops, rand, run_pass

X = {"x": "float[2,5,8]"}
F = np.float32
ERF = "a = Div(x, r2)\nb = Erf(a)\nc = Add(b, one)\n"
TANH = "p = Pow(x, three)\nq = Mul(p, k)\ns = Add(x, q)\nt = Mul(s, rpi)\nu = Tanh(t)\nc = Add(u, one)\n"
G = {
    "r2": F(math.sqrt(2)), "one": F(1), "half": F(0.5), "three": F(3), "k": F(0.044715),
    "rpi": F(math.sqrt(2 / math.pi)),
}  # fmt: skip


@pytest.mark.parametrize(
    "tail", ["m = Mul(x, c)\ny = Mul(m, half)", "m = Mul(half, x)\ny = Mul(m, c)", "m = Mul(c, half)\ny = Mul(x, m)"]
)
@pytest.mark.parametrize("head", [ERF, TANH], ids=["erf", "tanh"])
def test_gelu(head, tail):
    assert_fires(graph_of(X, head + tail, **G), "recognise-gelu", ["Gelu"])


def test_gelu_refusals():
    tail = "m = Mul(x, c)\ny = Mul(m, half)"
    g = graph_of(X, ERF + tail + "\nz = Relu(b)", "y z", **G)
    assert_refuses(g, "recognise-gelu", "other uses")
    g = graph_of(X, ERF + tail, **{**G, "r2": np.full((7, 1, 1, 1), math.sqrt(2), F)})
    assert_refuses(g, "recognise-gelu", "widens")
    g = graph_of(X, ERF + tail, **{**G, "r2": F(1.4)})
    assert ops(optimize(g, passes=["recognise-gelu"])) == ops(g)


ACTIVATIONS = {
    "silu": ("a = Sigmoid(x)\ny = Mul(a, x)", "Swish"),
    "swish": ("b = Mul(x, half)\na = Sigmoid(b)\ny = Mul(x, a)", "Swish"),
    "mish": ("b = Softplus(x)\na = Tanh(b)\ny = Mul(x, a)", "Mish"),
    "hard sigmoid": ("a = Add(x, three)\nb = Clip(a, zero, six)\ny = Div(b, six)", "HardSigmoid"),
    "hard sigmoid, factor": ("a = Add(three, x)\nb = Clip(a, zero, six)\ny = Mul(b, sixth)", "HardSigmoid"),
    "hard swish of hard sigmoid": ("a = HardSigmoid<alpha=0.16666667, beta=0.5>(x)\ny = Mul(x, a)", "HardSwish"),
    "hard swish, divided last": (
        "a = Add(x, three)\nb = Clip(a, zero, six)\nc = Mul(x, b)\ny = Div(c, six)",
        "HardSwish",
    ),
    "hard swish, divided first": (
        "a = Add(x, three)\nb = Clip(a, zero, six)\nc = Div(b, six)\ny = Mul(x, c)",
        "HardSwish",
    ),
    "hard swish, factor last": (
        "a = Add(x, three)\nb = Clip(a, zero, six)\nc = Mul(b, x)\ny = Mul(c, sixth)",
        "HardSwish",
    ),
    "hard swish, data divided": (
        "a = Add(x, three)\nb = Clip(a, zero, six)\nc = Div(x, six)\ny = Mul(c, b)",
        "HardSwish",
    ),
}
K = {"half": F(0.5), "three": F(3), "zero": F(0), "six": F(6), "sixth": F(1 / 6)}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    text, expected = ACTIVATIONS[name]
    assert_fires(graph_of(X, text, **K), "recognise-activations", [expected])


def test_hard_sigmoid_of_another_slope_is_no_hard_swish():
    g = graph_of(X, "a = HardSigmoid<alpha=0.2, beta=0.5>(x)\ny = Mul(x, a)")
    assert_refuses(g, "recognise-activations", "alpha=0.2")


def test_operators_newer_than_the_limit_are_not_introduced():
    g, remarks = graph_of(X, "a = Sigmoid(x)\ny = Mul(a, x)"), Remarks()
    assert ops(optimize(g, passes=["recognise-activations"], remarks=remarks)) == ["Sigmoid", "Mul"]
    assert "Swish needs opset 24, and the limit is 22" in [r.text for r in remarks]


LN = "m = ReduceMean(x, ax)\nd = Sub(x, m)\nq = {square}\nv = ReduceMean(q, ax)\na = Add(v, eps)\ns = Sqrt(a)\n"
N = {"ax": np.array([-1]), "eps": F(1e-5), "two": F(2), "one": F(1), "w": rand(8), "b": rand(8, seed=5)}


@pytest.mark.parametrize("square", ["Pow(d, two)", "Mul(d, d)"])
@pytest.mark.parametrize(
    "norm", ["n = Div(d, s)", "r = Reciprocal(s)\nn = Mul(r, d)", "r = Div(one, s)\nn = Mul(d, r)"]
)
@pytest.mark.parametrize("tail", ["y = Identity(n)", "y = Mul(n, w)", "e = Mul(n, w)\ny = Add(e, b)"])
def test_layer_norm(square, norm, tail):
    after = optimize(graph_of(X, LN.format(square=square) + norm + "\n" + tail, **N), passes=["remove-no-ops"])
    assert_fires(after, "recognise-norms", ["LayerNormalization"])


def test_layer_norm_refusals():
    body = LN.format(square="Mul(d, d)") + "y = Div(d, s)"
    assert_refuses(graph_of(X, body, **{**N, "ax": np.array([1])}), "recognise-norms", "not the last ones")
    assert_refuses(graph_of(X, body + "\nz = Relu(v)", "y z", **N), "recognise-norms", "other uses")
    assert_refuses(graph_of({"x": "float[2,N]"}, body, **N), "recognise-norms", "not known")
    assert_refuses(
        graph_of({"x": "double[2,8]"}, body, "y:double", **{**N, "eps": np.float64(1e-5)}),
        "recognise-norms",
        "not used for f64",
    )
    other = body.replace("v = ReduceMean(q, ax)", "v = ReduceMean(q, ay)")
    after, remarks = run_pass(graph_of(X, other, **N, ay=np.array([1, 2])), "recognise-norms")
    assert "LayerNormalization" not in ops(after)
    assert any("different axes" in r.text for r in remarks)


def test_factor_of_another_axis_stays_outside_the_norm():
    body = LN.format(square="Mul(d, d)") + "n = Div(d, s)\ny = Mul(n, w)"
    assert_fires(graph_of(X, body, **{**N, "w": rand(5, 1)}), "recognise-norms", ["LayerNormalization", "Mul"])


@pytest.mark.parametrize("norm", ["n = Div(x, s)", "r = Reciprocal(s)\nn = Mul(x, r)"])
def test_rms_norm(norm):
    g = graph_of(X, f"q = Mul(x, x)\nv = ReduceMean(q, ax)\na = Add(v, eps)\ns = Sqrt(a)\n{norm}\ny = Mul(w, n)", **N)
    assert_fires(g, "recognise-norms", ["RMSNormalization"])


def test_softmax():
    body = "m = ReduceMax(x, ax)\nd = Sub(x, m)\ne = Exp(d)\ns = ReduceSum(e, ay)\ny = Div(e, s)"
    assert_fires(graph_of(X, body, ax=np.array([1]), ay=np.array([-2])), "recognise-softmax", ["Softmax"])
    assert_refuses(graph_of(X, body, ax=np.array([1]), ay=np.array([2])), "recognise-softmax", "different axes")
    both = {"ax": np.array([1, 2]), "ay": np.array([1, 2])}
    assert_refuses(graph_of(X, body, **both), "recognise-softmax", "several axes")


QKV = {"q": "float[2,3,5,8]", "k": "float[2,3,6,8]", "v": "float[2,3,6,4]", "m": "float[2,1,5,6]"}
HEAD = "t = Transpose<perm=[0,1,3,2]>(k)\na = MatMul(q, t)\n"
ATTENTION = {
    "plain": "s = Softmax<axis=-1>(a)\n",
    "scaled": "b = Mul(a, c)\ns = Softmax<axis=3>(b)\n",
    "divided and masked": "b = Div(a, c)\nd = Add(b, m)\ns = Softmax<axis=-1>(d)\n",
    "masked": "d = Add(m, a)\ns = Softmax<axis=-1>(d)\n",
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name):
    g = graph_of(QKV, HEAD + ATTENTION[name] + "y = MatMul(s, v)", c=F(2.5))
    assert_fires(g, ["recognise-attention", "merge-views", "remove-no-ops", "dead-code"], ["Attention"])


def test_attention_refusals():
    g = graph_of(QKV, HEAD + "s = Softmax<axis=2>(a)\ny = MatMul(s, v)")
    assert_refuses(g, "recognise-attention", "over the keys")
    g = graph_of({**QKV, "v": "float[1,1,6,4]"}, HEAD + ATTENTION["plain"] + "y = MatMul(s, v)")
    assert_refuses(g, "recognise-attention", "broadcast")
    g = graph_of({**QKV, "m": "float[5,1]"}, HEAD + ATTENTION["masked"] + "y = MatMul(s, v)")
    assert_refuses(g, "recognise-attention", "mask is broadcast")
