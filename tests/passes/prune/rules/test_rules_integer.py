"""Layers on quantised data: channels go from their sums where zero and the zero point agree.

With constant scales QLinearConv and QLinearMatMul are imported as products of dequantized operands, of which a channel of zeros is
zeros whatever the zero points are; with computed ones they stay.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.onnx_graphs import graph_of, rand
from tests.support.pruning import check_pruning

RNG = np.random.default_rng(0)


def bytes_(*shape: int, signed: bool = True) -> np.ndarray:
    """Small integers of 8 bits."""
    return RNG.integers(-9, 9, shape).astype(np.int8) if signed else RNG.integers(0, 20, shape).astype(np.uint8)


def consts(zero: int) -> dict[str, np.ndarray]:
    """Weights, scales and zero points of the models below."""
    return {
        "w": bytes_(8, 3, 1, 1), "u": bytes_(5, 8, 1, 1), "g": bytes_(8, 4, 1, 1), "d": bytes_(8, 1, 3, 3),
        "s": np.float32(0.05), "s8": rand(8, positive=True) / 20, "z": np.uint8(zero), "z8": np.zeros(8, np.int8),
        "zi": np.int8(0), "other": np.uint8(zero + 1), "b": RNG.integers(-50, 50, 8).astype(np.int32),
        "m": bytes_(3, 8), "n": bytes_(8, 4),
    }  # fmt: skip


IMAGES = {
    "zero points agree": ("t = QLinearConv(h, s, z, u, s, zi, s, z)", {"h": 8}),
    "zero points differ": ("t = QLinearConv(h, s, other, u, s, zi, s, z)", {}),
    "in between": (
        "p = MaxPool<kernel_shape=[2,2]>(h)\nc = Concat<axis=2>(p, p)\nt = QLinearConv(c, s, z, u, s, zi, s, z)", {"h": 8}),
    "depthwise": ("k = QLinearConv<group=8>(h, s, other, d, s8, z8, s, z, b)\nt = QLinearConv(k, s, z, u, s, zi, s, z)", {"h": 8}),
    "in groups": ("k = QLinearConv<group=2>(h, s, z, g, s8, z8, s, z, b)\nt = QLinearConv(k, s, z, u, s, zi, s, z)", None),
    "int32 sums": ("i = ConvInteger(h, u, z, zi)\nf = Cast<to=1>(i)\nt = QuantizeLinear(f, s, z)", {"h": 8}),
    "int32 sums without zero points": ("i = ConvInteger(h, u)\nf = Cast<to=1>(i)\nt = QuantizeLinear(f, s, z)", None),
}  # fmt: skip


FORMS = pytest.mark.parametrize("computed", [False, True], ids=["constant scales", "computed scales"])
COMPUTED = "e = Exp(si)\ns = Mul(e, s0)\n"


@FORMS
@pytest.mark.parametrize("zero", [0, 7])
@pytest.mark.parametrize(("body", "expected"), IMAGES.values(), ids=IMAGES)
def test_convolutions(body: str, expected: dict[str, int] | None, zero: int, computed: bool) -> None:
    weights = consts(zero)
    if computed:
        weights["s0"] = weights.pop("s") / np.float32(2)
    if expected == {} and not computed:
        expected = {"h": 8}
    graph = graph_of(
        {"x": "float[2,3,5,5]", **({"si": "float[]"} if computed else {})},
        f"{COMPUTED if computed else ''}q = QuantizeLinear(x, s, z)\nh = QLinearConv(q, s, z, w, s8, z8, s, z, b)\n{body}\n"
        "y = DequantizeLinear(t, s, z)",
        opset=18, **weights,
    )  # fmt: skip
    assert ("QLinearConv" in {n.op for n in graph.nodes}) == computed
    groups = check_pruning(graph, expected)
    if expected is None and "without" in body:
        assert bool(groups.groups) == (zero == 0)


ROWS = {
    "agree": ("i = MatMulInteger(h, n, z, zi)\ny = Cast<to=1>(i)", {"h": 8}),
    "differ": ("i = MatMulInteger(h, n, other, zi)\ny = Cast<to=1>(i)", {}),
    "scaled": ("k = QLinearMatMul(h, s, z, n, s, zi, s, z)\ny = DequantizeLinear(k, s, z)", {"h": 8}),
    "scaled, differ": ("k = QLinearMatMul(h, s, other, n, s, zi, s, z)\ny = DequantizeLinear(k, s, z)", {}),
    "weights first": (
        "t = Transpose(h)\nv = Transpose(n)\nk = QLinearMatMul(n2, s, zi, t, s, z, s, z)\ny = DequantizeLinear(k, s, z)",
        {"h": 8},
    ),
}  # fmt: skip


@FORMS
@pytest.mark.parametrize(("body", "expected"), ROWS.values(), ids=ROWS)
def test_products(body: str, expected: dict[str, int], computed: bool) -> None:
    weights = {**consts(7), "n2": bytes_(4, 8)}
    if computed:
        weights["s0"] = weights.pop("s") / np.float32(2)
    if expected == {} and not computed and "QLinearMatMul" in body:
        expected = {"h": 8}
    graph = graph_of(
        {"x": "float[5,3]", **({"si": "float[]"} if computed else {})},
        f"{COMPUTED if computed else ''}q = QuantizeLinear(x, s, z)\nh = QLinearMatMul(q, s, z, m, s8, z8, s, z)\n{body}",
        opset=21, **weights,
    )  # fmt: skip
    check_pruning(graph, expected)


def test_sums_keep_channels_where_the_zero_point_is_computed() -> None:
    graph = graph_of(
        {"x": "float[5,3]"},
        "f = MatMul(x, w)\nq, s, z = DynamicQuantizeLinear(f)\ni = MatMulInteger(q, n, z)\ny = Cast<to=1>(i)",
        opset=18, w=rand(3, 8), n=bytes_(8, 4),
    )  # fmt: skip
    check_pruning(graph, {})


def test_quantised_weights_lose_channels_before_they_are_dequantised() -> None:
    graph = graph_of(
        {"x": "float[1,3,5,5]"},
        """
        w = DequantizeLinear<axis=0>(wq, s8, z8)
        a = Conv(x, w, b)
        r = Relu(a)
        q = QuantizeLinear(r, s, z)
        d = DequantizeLinear(q, s, z)
        y = Conv(d, v)
        """,
        opset=18, wq=bytes_(8, 3, 3, 3), s8=rand(8, positive=True) / 20, z8=np.zeros(8, np.int8), b=rand(8), s=np.float32(0.02),
        z=np.uint8(3), v=rand(2, 8, 1, 1),
    )  # fmt: skip
    groups = check_pruning(graph)
    assert [g.size for g in groups.groups] == [8]
