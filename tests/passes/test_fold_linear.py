"""Folding into weights: each rule fires on what its equation says, and refuses for each of its reasons."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.driver.optimizing import optimize
from graphopt.rewrite.remarks import Remarks
from tests.support.onnx_graphs import assert_fires, assert_refuses, graph_of, ops, rand

X = {"x": "float[2,4,7,7]"}
BN = {"s": rand(6, positive=True), "t": rand(6), "m": rand(6, seed=3), "v": rand(6, seed=1, positive=True)}
BN4 = {"s": rand(4, positive=True), "t": rand(4), "m": rand(4, seed=3), "v": rand(4, seed=1, positive=True)}
NORM = "y = BatchNormalization<epsilon=0.01>(c, s, t, m, v)"


@pytest.mark.parametrize("bias", ["", ", b"])
@pytest.mark.parametrize(
    ("op", "shape"),
    [
        ("Conv<pads=[1,1,1,1]>", (6, 4, 3, 3)),
        ("Conv<group=2, strides=[2,2]>", (6, 2, 3, 3)),
        ("ConvTranspose<strides=[2,2]>", (4, 6, 3, 3)),
        ("ConvTranspose<group=2>", (4, 3, 2, 2)),
    ],
)
def test_batch_norm_after_convolution(op, shape, bias):
    g = graph_of(X, f"c = {op}(x, w{bias})\n{NORM}", w=rand(*shape), b=rand(6, seed=9), **BN)
    assert_fires(g, "fold-batch-norm", [op.split("<")[0]])


def test_batch_norm_after_gemm_and_matmul():
    for text, w in (
        ("Gemm(x, w)", rand(4, 6)),
        ("Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)", rand(6, 4)),
        ("MatMul(x, w)", rand(4, 6)),
    ):
        g = graph_of({"x": "float[N,4]"}, f"c = {text}\n{NORM}", w=w, b=rand(6), **BN)
        assert_fires(g, "fold-batch-norm", ["Gemm"])


def test_batch_norm_before_linear():
    g = graph_of(
        X, "c = BatchNormalization(x, s, t, m, v)\ny = Conv<group=2>(c, w, b)", w=rand(6, 2, 3, 3), b=rand(6), **BN4
    )
    assert_fires(g, "fold-batch-norm", ["Conv"])
    flat = {"x": "float[3,4]"}
    g = graph_of(
        flat,
        "c = BatchNormalization(x, s, t, m, v)\ny = Gemm<transB=1,alpha=0.5>(c, w, b)",
        w=rand(6, 4),
        b=rand(6),
        **BN4,
    )
    assert_fires(g, "fold-batch-norm", ["Gemm"])
    g = graph_of(flat, "c = BatchNormalization(x, s, t, m, v)\ny = MatMul(c, w)", w=rand(4, 6), **BN4)
    assert_fires(g, "fold-batch-norm", ["Gemm"])


def test_batch_norm_refusals():
    conv = "c = Conv(x, w)\n"
    w = rand(6, 4, 3, 3)
    g = graph_of(X, conv + NORM + "\nz = Relu(c)", "y z", w=w, **BN)
    assert_refuses(g, "fold-batch-norm", "other uses")
    g = graph_of(X, conv + NORM, "y c", w=w, **BN)
    assert_refuses(g, "fold-batch-norm", "graph output")
    g = graph_of(X, conv + NORM + "\nz = Conv(x, w)", "y z", w=w, **BN)
    assert_refuses(g, "fold-batch-norm", "shared")
    g = graph_of(X, "c = BatchNormalization(x, s, t, m, v)\ny = Conv<pads=[1,1,1,1]>(c, w)", w=w, **BN4)
    assert_refuses(g, "fold-batch-norm", "pads with zeros")
    g = graph_of({"x": "float[2,6,4]"}, f"c = MatMul(x, w)\n{NORM}", w=rand(4, 5), **BN)
    assert_refuses(g, "fold-batch-norm", "not on axis 1")


def test_training_batch_norm_is_left_alone():
    text = "c = Conv(x, w)\ny, rm, rv = BatchNormalization<training_mode=1>(c, s, t, m, v)"
    g = graph_of(X, text, w=rand(6, 4, 3, 3), **BN)
    assert_refuses(g, "fold-batch-norm", "training_mode")
    assert_refuses(g, "lower-batch-norm", "training_mode")


def test_remaining_batch_norm_becomes_arithmetic():
    g = graph_of(X, "y = BatchNormalization(x, s, t, m, v)", **BN4)
    assert_fires(g, "lower-batch-norm", ["Mul", "Add"])


C = rand(6, 1, 1, positive=True)


@pytest.mark.parametrize(
    "text",
    ["Mul(c, k)", "Mul(k, c)", "Div(c, k)", "Add(c, k)", "Add(k, c)", "Sub(c, k)", "Sub(k, c)"],
)
@pytest.mark.parametrize("bias", ["", ", b"])
@pytest.mark.parametrize("k", [C, C[None], np.float32(1.5)], ids=["channels", "four axes", "scalar"])
def test_affine_after_convolution(text, bias, k):
    g = graph_of(X, f"c = Conv(x, w{bias})\ny = {text}", w=rand(6, 4, 3, 3), b=rand(6), k=k)
    assert_fires(g, "fold-affine", ["Conv"])


@pytest.mark.parametrize("text", ["Mul(c, k)", "Div(c, k)", "Add(c, k)", "Sub(k, c)"])
@pytest.mark.parametrize("op", ["ConvTranspose<group=2>(x, w)", "Gemm<beta=0.5>(z, u, b)", "MatMul(z, u)"])
def test_affine_after_other_linear_operators(text, op):
    k = C if "Conv" in op else C.reshape(6)
    inputs = X if "Conv" in op else {"z": "float[3,4]"}
    g = graph_of(inputs, f"c = {op}\ny = {text}", w=rand(4, 3, 2, 2), u=rand(4, 6), b=rand(6), k=k)
    expected = (
        "ConvTranspose" if "Conv" in op else ("MatMul" if "MatMul" in op and text[:3] in ("Mul", "Div") else "Gemm")
    )
    assert_fires(g, "fold-affine", [expected])


def test_affine_before_linear():
    k = rand(4, 1, 1)
    g = graph_of(X, "c = Mul(x, k)\ny = Conv<pads=[1,1,1,1]>(c, w)", w=rand(6, 4, 3, 3), k=k)
    assert_fires(g, "fold-affine", ["Conv"])
    g = graph_of(X, "c = Add(x, k)\ny = Conv(c, w, b)", w=rand(6, 4, 3, 3), k=k, b=rand(6))
    assert_fires(g, "fold-affine", ["Conv"])
    g = graph_of({"x": "float[2,3,4]"}, "c = Mul(x, k)\ny = MatMul(c, w)", w=rand(4, 6), k=rand(4))
    assert_fires(g, "fold-affine", ["MatMul"])


def test_affine_refusals():
    w = rand(6, 4, 3, 3)
    g = graph_of(X, "c = Conv(x, w)\ny = Mul(c, k)", w=w, k=rand(1, 1, 5))
    assert_refuses(g, "fold-affine", "not a number per output channel")
    g = graph_of(X, "c = Conv(x, w)\ny = Div(c, k)", w=w, k=np.zeros((1,), np.float32))
    assert_refuses(g, "fold-affine", "divides by zero")
    g = graph_of(X, "c = Conv(x, w)\ny = Add(c, k)", w=w, k=rand(1, 1, 6, 1, 1))
    assert_refuses(g, "fold-affine", "not a number per output channel")
    g = graph_of(X, "c = Add(x, k)\ny = Conv<pads=[1,1,1,1]>(c, w)", w=w, k=rand(4, 1, 1))
    assert_refuses(g, "fold-affine", "pads with zeros")
    g = graph_of(X, "c = Conv(x, w)\ny = Mul(c, k)\nz = Conv(x, w)", "y z", w=w, k=C)
    assert_refuses(g, "fold-affine", "shared")
    g = graph_of({"x": "float[2,3,4]"}, "c = MatMul(x, w)\ny = Add(c, k)", w=rand(4, 6), k=rand(6))
    assert_refuses(g, "fold-affine", "batched MatMul")
    g = graph_of({"x": "float[2,4]"}, "c = Mul(x, k)\ny = Gemm<transA=1>(c, w)", w=rand(2, 6), k=rand(4))
    assert_refuses(g, "fold-affine", "transposed")


@pytest.mark.parametrize("pads", [[0, 0, 1, 2, 0, 0, 2, 1], [0, 0, 0, 1, 0, 0, 0, 0]])
def test_pad_into_convolution(pads):
    g = graph_of(X, "c = Pad(x, p)\ny = Conv<pads=[1,0,0,1]>(c, w)", w=rand(6, 4, 3, 3), p=np.array(pads))
    assert_fires(g, "fold-pad", ["Conv"])


def test_pad_refusals():
    w, p = rand(6, 4, 3, 3), np.array([0, 0, 1, 1, 0, 0, 1, 1])
    conv = "y = Conv(c, w)"
    g = graph_of(X, f'c = Pad<mode="reflect">(x, p)\n{conv}', w=w, p=p)
    assert_refuses(g, "fold-pad", "mode")
    g = graph_of(X, f"c = Pad(x, p, k)\n{conv}", w=w, p=p, k=np.float32(1))
    assert_refuses(g, "fold-pad", "not pad with zeros")
    g = graph_of(X, f"c = Pad(x, p)\n{conv}", w=rand(6, 5, 3, 3), p=np.array([0, 1, 0, 0, 0, 0, 0, 0]))
    assert_refuses(g, "fold-pad", "batch or channels")
    g = graph_of(X, f"c = Pad(x, p)\n{conv}", w=w, p=np.array([0, 0, -1, 0, 0, 0, 0, 0]))
    assert_refuses(g, "fold-pad", "crops")
    pool = "y = MaxPool<kernel_shape=[3,3]>(c)"
    g = graph_of(X, f"c = Pad(x, p)\n{pool}", p=p)
    assert_refuses(g, "fold-pad", "may be the maximum")
    g = graph_of(X, "c = Pad(x, p)\ny = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)", p=p)
    assert_refuses(g, "fold-pad", "does not count")


def test_pad_into_pooling():
    p = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    g = graph_of(X, "r = Relu(x)\nc = Pad(r, p)\ny = MaxPool<kernel_shape=[3,3],strides=[2,2]>(c)", p=p)
    assert_fires(g, "fold-pad", ["Relu", "MaxPool"])
    g = graph_of(X, "c = Pad(x, p, k)\ny = MaxPool<kernel_shape=[3,3]>(c)", p=p, k=np.float32(-np.inf))
    assert_fires(g, "fold-pad", ["MaxPool"])
    g = graph_of(X, "c = Pad(x, p)\ny = AveragePool<kernel_shape=[3,3]>(c)", p=p)
    assert_fires(g, "fold-pad", ["AveragePool"])


def test_gemm():
    flat = {"x": "float[3,4]"}
    g = graph_of(flat | {"k": "float[3,1]"}, "c = MatMul(x, w)\ny = Add(k, c)", w=rand(4, 6))
    assert_fires(g, "make-gemm", ["Gemm"])
    g = graph_of(
        flat, "t = Transpose<perm=[1,0]>(x)\nu = Transpose(w0)\ny = Gemm(t, u)".replace("w0", "z"), z=rand(6, 3)
    )
    assert_fires(g, "make-gemm", ["Gemm"])
    g = graph_of(flat | {"k": "float[5,3,6]"}, "c = MatMul(x, w)\ny = Add(c, k)", w=rand(4, 6))
    assert_refuses(g, "make-gemm", "widens")
    g = graph_of({"x": "float[2,3,4]"}, "c = MatMul(x, w)\ny = Add(c, k)", w=rand(4, 6), k=rand(6))
    assert_refuses(g, "make-gemm", "not a matrix")


@pytest.mark.parametrize(
    ("after", "consts", "left"),
    [
        ("y = Mul(c, k)", {"k": rand(4, 1, 1)}, []),
        ("y = Add(k, c)", {"k": rand(1, 4, 1, 1)}, []),
        ("d = Mul(c, k)\nr = Add(d, l)\ny = Relu(r)", {"k": rand(4, 1, 1), "l": rand(1, 1, 1)}, ["Relu"]),
    ],
)
def test_factors_and_offsets_after_a_norm_go_into_it(after, consts, left):
    g = graph_of(X, f"c = BatchNormalization<epsilon=0.01>(x, s, t, m, v)\n{after}", **BN4, **consts)
    assert_fires(g, "fold-batch-norm", ["BatchNormalization", *left])


def test_a_factor_that_is_not_by_channel_stays_behind_a_norm():
    g = graph_of(X, "c = BatchNormalization(x, s, t, m, v)\ny = Mul(c, k)", k=rand(7), **BN4)
    assert_refuses(g, "fold-batch-norm", "not a number per channel")
    g = graph_of(
        {"x": "float[1,4,7,7]"}, "c = BatchNormalization(x, s, t, m, v)\ny = Mul(c, k)", k=rand(2, 1, 1, 1), **BN4
    )
    assert_refuses(g, "fold-batch-norm", "widens")


def test_factors_that_overflow_the_weights_stay():
    # infinite weights would make NaN of zeros in the data
    big = np.full((2, 3, 1, 1), 1e30, np.float32)
    for text in ("h = Conv(x, w)\ny = Mul(h, c)", "h = Mul(x, c)\ny = Conv(h, w)"):
        g = graph_of({"x": "float[1,3,4,4]"}, text, w=big, c=np.float32(1e30))
        remarks = Remarks()
        after = optimize(g, passes=["fold-affine"], remarks=remarks, for_export=False)
        assert ops(after) == ops(g)
        assert any("overflow" in r.text for r in remarks.refusals(None))
