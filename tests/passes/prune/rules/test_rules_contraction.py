"""Layers that sum over channels, and operators over space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.passes.prune.rules.test_rules_movement import ints
from tests.support.onnx_graphs import graph_of, rand
from tests.support.pruning import check_pruning, sandwich

CONV: dict[str, tuple[str, dict[str, int] | None, dict[str, Any]]] = {
    "strided with padding": (
        "t = Conv<strides=[2,1],pads=[1,0,1,2],dilations=[1,2]>(h, k, b)",
        {"h": 8, "t": 5},
        {"after": 5, "k": rand(5, 8, 3, 2), "b": rand(5)},
    ),
    "same padding": ('t = Conv<auto_pad="SAME_UPPER">(h, k)', {"h": 8, "t": 5}, {"after": 5, "k": rand(5, 8, 2, 3)}),
    "depthwise": ("t = Conv<group=8>(h, k, b)", {"h": 8}, {"k": rand(8, 1, 3, 3), "b": rand(8)}),
    "depthwise with multiplier": ("t = Conv<group=8>(h, k)", None, {"after": 16, "k": rand(16, 1, 3, 3)}),
    "two groups": ("t = Conv<group=2>(h, k, b)", None, {"after": 6, "k": rand(6, 4, 1, 1), "b": rand(6)}),
    "four groups": ("t = Conv<group=4>(h, k, b)", None, {"after": 12, "k": rand(12, 2, 1, 1), "b": rand(12)}),
    "groups after groups": (
        "a = Conv<group=2>(h, k)\nb = Relu(a)\nt = Conv<group=4>(b, l)",
        None,
        {"k": rand(8, 4, 1, 1), "l": rand(8, 2, 1, 1)},
    ),
    "groups beside a residual": ("a = Conv<group=4>(h, k)\nt = Add(a, h)", None, {"k": rand(8, 2, 1, 1)}),
    "groups of a concat": (
        "g = Conv(x, u)\nc = Concat<axis=1>(h, g)\nt = Conv<group=3>(c, k)",
        None,
        {"after": 9, "u": rand(4, 3, 1, 1, seed=4), "k": rand(9, 4, 1, 1)},
    ),
    "groups after a shuffle": (
        "a = Conv<group=2>(h, k)\nf = Reshape(a, s)\ng = Transpose<perm=[0,2,1,3,4]>(f)\nr = Reshape(g, u)\n"
        "t = Conv<group=2>(r, l)",
        None,
        {"k": rand(8, 4, 1, 1), "l": rand(8, 4, 1, 1, seed=9), **ints(s=[2, 2, 4, 6, 6], u=[2, 8, 6, 6])},
    ),
    "transposed": (
        "t = ConvTranspose<strides=[2,2],output_padding=[1,0]>(h, k, b)",
        {"h": 8, "t": 5},
        {"after": 5, "k": rand(8, 5, 3, 2), "b": rand(5)},
    ),
    "transposed in groups": (
        "t = ConvTranspose<group=4,strides=[2,2]>(h, k, b)",
        None,
        {"after": 12, "k": rand(8, 3, 2, 2), "b": rand(12)},
    ),
    "transposed depthwise": ("t = ConvTranspose<group=8>(h, k)", {"h": 8}, {"k": rand(8, 1, 2, 2)}),
    "transposed with a given size": (
        "t = ConvTranspose<strides=[2,2],output_shape=[12,12]>(h, k)",
        {"h": 8, "t": 5},
        {"after": 5, "k": rand(8, 5, 3, 3)},
    ),
    "computed weights": (
        "k = Mul(q, two)\nt = Conv(h, k)",
        {"h": 8, "y": 5},
        {"after": 5, "q": rand(5, 8, 1, 1), "two": np.float32(2)},
    ),
    "computed weights in groups": (
        "k = Mul(q, two)\nt = Conv<group=2>(h, k)",
        None,
        {"after": 6, "q": rand(6, 4, 1, 1), "two": np.float32(2)},
    ),
    "constant image": ("g = Conv(c, k)\nt = Mul(h, g)", None, {"c": rand(1, 5, 6, 6), "k": rand(8, 5, 1, 1)}),
    "max pool": ("t = MaxPool<kernel_shape=[2,3],strides=[2,1],ceil_mode=1>(h)", {"h": 8}, {}),
    "max pool's positions": (
        "p, i = MaxPool<kernel_shape=[2,2]>(h)\nf = Cast<to=1>(i)\nm = ReduceMax<keepdims=0>(f)\nt = Add(p, m)",
        {},
        {},
    ),
    "average pool": ("t = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1],count_include_pad=1>(h)", {"h": 8}, {}),
    "lp pool": ("t = LpPool<kernel_shape=[2,2],p=2>(h)", {"h": 8}, {}),
    "global pools": (
        "a = GlobalAveragePool(h)\nb = GlobalMaxPool(h)\nc = GlobalLpPool(h)\nt = Sum(a, b, c)",
        {"h": 8},
        {},
    ),
    "grid sample": ("t = GridSample(h, g)", {"h": 8}, {"g": rand(2, 4, 5, 2)}),
    "regions": (
        "t = RoiAlign<output_height=2,output_width=2>(h, r, i)",
        {"h": 8},
        {"r": np.float32([[0, 0, 3, 3], [1, 1, 4, 5], [0, 2, 5, 5]]), **ints(i=[0, 1, 0])},
    ),
    "max regions": (
        "t = MaxRoiPool<pooled_shape=[2,2]>(h, r)",
        {"h": 8},
        {"r": np.float32([[0, 0, 0, 3, 3], [1, 1, 1, 4, 5]])},
    ),
    "resize by scales": ("t = Resize(h, , f)", {"h": 8}, {"f": np.float32([1, 1, 2, 1.5])}),
    "resize by sizes": ('t = Resize<mode="linear">(h, , , n)', {"h": 8}, ints(n=[2, 8, 3, 9])),
    "resize of named axes": ('t = Resize<mode="cubic",axes=[3,2]>(h, , , n)', {"h": 8}, ints(n=[9, 4])),
    "resize of named axes with channels": (
        't = Resize<mode="linear",axes=[-2,-1,1]>(h, , , n)',
        {"h": 8},
        ints(n=[9, 4, 8]),
    ),
    "resize with aligned corners": (
        't = Resize<mode="linear",coordinate_transformation_mode="align_corners">(h, , , n)',
        {"h": 8},
        ints(n=[2, 8, 3, 9]),
    ),
    "resize keeps the aspect": (
        't = Resize<keep_aspect_ratio_policy="not_larger",axes=[2,3]>(h, , , n)',
        {"h": 8},
        ints(n=[9, 12]),
    ),
    "resize crops": (
        't = Resize<mode="linear",coordinate_transformation_mode="tf_crop_and_resize">(h, r, , n)',
        {},
        {"r": np.float32([0, 0, 0.2, 0, 1, 1, 0.8, 1]), **ints(n=[2, 8, 3, 9])},
    ),
    "resize of channels": ("t = Resize(h, , , n)", {}, {"after": 16, **ints(n=[2, 16, 6, 6])}),
    "resize of channels by a little": ("t = Resize(h, , f)", {}, {"f": np.float32([1, 1.1, 1, 1])}),
    "resize to the size of another": (
        "k = AveragePool<kernel_shape=[2,2]>(h)\ns = Shape(h)\nr = Resize(k, , , s)\nt = Add(r, h)",
        {"h": 8},
        {},
    ),
    "resize, then channels of another": (
        "g = Conv(x, u)\ns = Shape(g)\nr = Resize(h, , , s)\nt = Concat<axis=1>(r, g)",
        {"h": 8, "g": 8},
        {"after": 16, "u": rand(8, 3, 1, 1, seed=3)},
    ),
}


@pytest.mark.parametrize(("body", "expected", "consts"), CONV.values(), ids=CONV)
def test_images(body: str, expected: dict[str, int] | None, consts: Mapping[str, Any]) -> None:
    check_pruning(sandwich(body, opset=20, **consts), expected)


ROWS: dict[str, tuple[str, dict[str, int] | None, dict[str, Any]]] = {
    "linear layers": (
        "a = Gemm(x, w, b)\nr = Relu(a)\ny = Gemm<alpha=0.5>(r, v)",
        {"a": 8},
        {"w": rand(6, 8), "b": rand(8), "v": rand(8, 3)},
    ),
    "stored transposed": (
        "a = Gemm<transB=1,beta=2.0>(x, w, b)\ny = Gemm<transB=1>(a, v)",
        {"a": 8},
        {"w": rand(8, 6), "b": rand(8), "v": rand(3, 8)},
    ),
    "bias for a column": (
        "a = Gemm(x, w, b)\ny = Gemm(a, v)",
        {"a": 8},
        {"w": rand(6, 8), "b": rand(5, 1), "v": rand(8, 3)},
    ),
    "bias for a row": (
        "a = Gemm(x, w, b)\ny = Gemm(a, v)",
        {"a": 8},
        {"w": rand(6, 8), "b": rand(1, 8), "v": rand(8, 3)},
    ),
    "one number as bias": (
        "a = Gemm(x, w, b)\ny = Gemm(a, v)",
        {"a": 8},
        {"w": rand(6, 8), "b": rand(), "v": rand(8, 3)},
    ),
    "bias of one": ("a = Gemm(x, w, b)\ny = Gemm(a, v)", {"a": 8}, {"w": rand(6, 8), "b": rand(1), "v": rand(8, 3)}),
    "weights first": (
        "a = Gemm<transB=1>(w, x, b)\nr = Relu(a)\ny = Gemm<transA=1>(r, v)",
        {"a": 8},
        {"w": rand(8, 6), "b": rand(8, 1), "v": rand(8, 3)},
    ),
    "matrix products": (
        "a = MatMul(x, w)\nr = Relu(a)\ny = MatMul(r, v)",
        {"a": 8},
        {"w": rand(6, 8), "v": rand(8, 3)},
    ),
    "product with a vector": (
        "a = MatMul(x, w)\nb = MatMul(a, v)\nc = MatMul(u, a)\nd = MatMul(c, v)\ny = Add(b, d)",
        {"a": 8},
        {"w": rand(6, 8), "v": rand(8), "u": rand(5)},
    ),
    "stacks of matrices": (
        "a = MatMul(x, w)\nb = MatMul(a, v)\ny = ReduceSum(b)",
        None,
        {"w": rand(4, 6, 8), "v": rand(1, 8, 3)},
    ),
    "batches that are stretched": (
        "a = MatMul(x, w)\nb = MatMul(a, v)\ny = ReduceSum(b)",
        None,
        {"w": rand(1, 6, 8), "v": rand(4, 8, 3)},
    ),
    "product of two constants": (
        "k = MatMul(w, u)\na = MatMul(x, k)\ny = MatMul(a, v)",
        None,
        {"w": rand(6, 7), "u": rand(7, 8), "v": rand(8, 3)},
    ),
    "sum of products": (
        'a = Einsum<equation="ij,jk->ik">(x, w)\ny = Einsum<equation="ik, kl -> li">(a, v)',
        {"a": 8},
        {"w": rand(6, 8), "v": rand(8, 3)},
    ),
    "outer product": (
        'a = Einsum<equation="ij,j,jk->ki">(x, s, w)\ny = Einsum<equation="ki,kl->il">(a, v)',
        {"a": 8},
        {"w": rand(6, 8), "s": rand(6), "v": rand(8, 3)},
    ),
    "letter of one operand only": ('a = MatMul(x, w)\ny = Einsum<equation="ij->i">(a)', {"a": 8}, {"w": rand(6, 8)}),
    "constants among themselves": (
        'a = MatMul(x, w)\ny = Einsum<equation="ij,k,k->ij">(a, p, q)',
        None,
        {"w": rand(6, 3), "p": rand(4), "q": rand(4, seed=1)},
    ),
    "a letter of one, stretched": (
        'a = MatMul(x, w)\ny = Einsum<equation="ij,ij->i">(a, q)',
        {"a": 8},
        {"w": rand(6, 8), "q": rand(1, 8, seed=1)},
    ),
    "diagonal": (
        'a = MatMul(x, w)\nb = MatMul(x, u)\nc = Gemm<transA=1>(a, b)\nd = Einsum<equation="ii->i">(c)\ny = ReduceSum(d)',
        {"a": 8},
        {"w": rand(6, 8), "u": rand(6, 8, seed=1)},
    ),
    "implicit result": ('a = MatMul(x, w)\ny = Einsum<equation="ij,jk">(a, v)', {}, {"w": rand(6, 8), "v": rand(8, 3)}),
    "low rank of a constant pair": (
        "a = MatMul(x, w)\nb = MatMul(u, v)\ny = MatMul(a, b)",
        None,
        {"w": rand(6, 8), "u": rand(8, 7), "v": rand(7, 3)},
    ),
}


@pytest.mark.parametrize(("body", "expected", "consts"), ROWS.values(), ids=ROWS)
def test_matrices(body: str, expected: dict[str, int] | None, consts: Mapping[str, Any]) -> None:
    groups = check_pruning(graph_of({"x": "float[5,6]"}, body, opset=20, **consts), expected)
    if expected is None:
        assert groups.groups


def test_attention_heads_and_their_width() -> None:
    """Q and K share the width of a head, V and the projection theirs, and a head goes with all four."""
    graph = graph_of(
        {"x": "float[2,5,12]"},
        """
        q = MatMul(x, wq)
        k = MatMul(x, wk)
        v = MatMul(x, wv)
        q4 = Reshape(q, split)
        k4 = Reshape(k, split)
        v4 = Reshape(v, split)
        qt = Transpose<perm=[0,2,1,3]>(q4)
        kt = Transpose<perm=[0,2,3,1]>(k4)
        vt = Transpose<perm=[0,2,1,3]>(v4)
        s = MatMul(qt, kt)
        d = Div(s, scale)
        p = Softmax<axis=-1>(d)
        o = MatMul(p, vt)
        ot = Transpose<perm=[0,2,1,3]>(o)
        m = Reshape(ot, merge)
        r = MatMul(m, wo)
        a = Add(r, x)
        n = LayerNormalization(a, g, b)
        f = MatMul(n, w1)
        e = Gelu(f)
        z = MatMul(e, w2)
        c = Add(z, n)
        y = LayerNormalization(c, g, b)
        """,
        opset=20, wq=rand(12, 16), wk=rand(12, 16, seed=1), wv=rand(12, 16, seed=2), wo=rand(16, 12), g=rand(12), b=rand(12),
        w1=rand(12, 20), w2=rand(20, 12), scale=np.float32(2), **ints(split=[0, 0, 4, 4], merge=[0, 0, 16]),
    )  # fmt: skip
    groups = check_pruning(graph, {"q": 4, "q#2": 4, "v": 4, "f": 20}, depth=8)
    heads = next(g for g in groups.groups if len(g.layers) == 4)
    assert [n.name for n in heads.layers] == ["q", "k", "v", "r"]
    assert any("input of the graph" in f.reason for f in groups.frozen if f.name == "r")


def test_recurrent_layers_read_pruned_channels() -> None:
    graph = graph_of(
        {"x": "float[5,2,6]"},
        "a = MatMul(x, w)\nh, hn, cn = LSTM<hidden_size=3>(a, wi, wr, b)\nm = ReduceMax<keepdims=1>(h, k)\n"
        "s = Squeeze(m, k)\ng, gn = GRU<hidden_size=2>(s, gi, gr)\nl = Squeeze(g, k)\ny = MatMul(l, v)",
        w=rand(6, 8), wi=rand(1, 12, 8), wr=rand(1, 12, 3), b=rand(1, 24), gi=rand(1, 6, 3), gr=rand(1, 6, 2), v=rand(2, 2),
        k=np.asarray([1]),
    )  # fmt: skip
    check_pruning(graph, {"a": 8})
