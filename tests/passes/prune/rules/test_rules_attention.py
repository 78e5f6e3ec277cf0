"""Attention nodes, and operators on images that newer operator sets brought."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from graphopt.driver.importing import import_onnx
from graphopt.ir.graph import Graph
from graphopt.passes.prune.groups import find_groups
from tests.passes.prune.rules.test_rules_movement import ints
from tests.support.onnx_graphs import rand
from tests.support.pruning import check_pruning, sandwich


def rows(body: str, opset: int = 23, **consts: Any) -> Graph:
    """x: [2, 5, 12] -> q, k, v: [2, 5, 12] -> ``body`` -> o: [2, 5, n] -> y."""
    lines = f"q = MatMul(x, wq)\nk = MatMul(x, wk)\nv = MatMul(x, wv)\n{body}\ny = MatMul(o, wo)"
    weights = {f"w{n}": rand(12, 12, seed=i) for i, n in enumerate("qkv")}
    weights = {**weights, "wo": rand(12, 7), **consts}
    graph = helper.make_graph(
        [parser.parse_node(line.strip()) for line in lines.splitlines() if line.strip()], "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 5, 12])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["a", "b", "c"])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )  # fmt: skip
    return import_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11))


APART = """
q0 = Reshape(q, split)
k0 = Reshape(k, split)
v0 = Reshape(v, split)
q4 = Transpose<perm=[0,2,1,3]>(q0)
k4 = Transpose<perm=[0,2,1,3]>(k0)
v4 = Transpose<perm=[0,2,1,3]>(v0)
"""
TOGETHER = "t = Transpose<perm=[0,2,1,3]>(a)\no = Reshape(t, merge)"
SHAPES = ints(split=[0, 0, 3, 4], merge=[0, 0, -1])

CASES = {
    "packed": ("o = Attention<q_num_heads=3,kv_num_heads=3>(q, k, v)", {"q": 3, "q#2": 4, "v": 4}),
    "packed with a scale": ("o = Attention<q_num_heads=3,kv_num_heads=3,scale=0.3>(q, k, v)", {"q": 3, "q#2": 4, "v": 4}),
    "packed and causal": ("o = Attention<q_num_heads=3,kv_num_heads=3,is_causal=1>(q, k, v)", {"q": 3, "q#2": 4, "v": 4}),
    "apart": (f"{APART}a = Attention(q4, k4, v4)\n{TOGETHER}", {"q": 3, "q#2": 4, "v": 4}),
    "mask for all heads": (f"{APART}a = Attention(q4, k4, v4, m1)\n{TOGETHER}", {"q": 3, "q#2": 4, "v": 4}),
    "mask a head": (f"{APART}a = Attention(q4, k4, v4, m3)\n{TOGETHER}", {"q": 4, "v": 4}),
    "rotary, packed": (
        "r = RotaryEmbedding<num_heads=3>(q, c, s)\nu = RotaryEmbedding<num_heads=3>(k, c, s)\n"
        "o = Attention<q_num_heads=3,kv_num_heads=3>(r, u, v)", {"q": 3, "v": 4},
    ),
    "rotary, apart": (f"{APART}r = RotaryEmbedding(q4, c, s)\na = Attention(r, k4, v4)\n{TOGETHER}", {"q": 3, "v": 4}),
}  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), CASES.values(), ids=CASES)
def test_attention(body: str, expected: dict[str, int]) -> None:
    angles = rand(2, 5, 2)
    graph = rows(body, **SHAPES, m1=rand(1, 1, 5, 5), m3=rand(1, 3, 5, 5), c=np.cos(angles), s=np.sin(angles))
    check_pruning(graph, expected)


def test_shared_heads_stay_but_not_their_width() -> None:
    graph = rows("o = Attention<q_num_heads=3,kv_num_heads=1>(q, k, v)", wk=rand(12, 4), wv=rand(12, 4, seed=1))
    groups = check_pruning(graph, {"q": 4, "v": 4})
    assert groups.groups[0].layers[0].name == "q"


def test_present_key_as_an_output_keeps_the_keys() -> None:
    graph = rows(
        "o, pk = Attention<q_num_heads=3,kv_num_heads=3>(q, k, v)\nu = ReduceMax(pk)\no2 = Mul(o, u)", wo=rand(12, 7)
    )
    assert {g.name: g.size for g in find_groups(graph).groups} == {"v": 4}


IMAGES: dict[str, tuple[str, dict[str, int], dict[str, Any]]] = {
    "crop or pad space": ("t = CenterCropPad<axes=[2,3]>(h, n)", {"h": 8}, ints(n=[4, 9])),
    "crop or pad with channels named": ("t = CenterCropPad(h, n)", {"h": 8}, ints(n=[2, 8, 9, 3])),
    "crop channels": ("t = CenterCropPad<axes=[1]>(h, n)", {}, {"after": 5, **ints(n=[5])}),
    "deformable": (
        "t = DeformConv<pads=[1,1,1,1]>(h, k, f, b, m)", {"h": 8, "t": 5},
        {"after": 5, "k": rand(5, 8, 3, 3), "f": rand(2, 18, 6, 6), "b": rand(5), "m": rand(2, 9, 6, 6)},
    ),
    "deformable in groups": (
        "t = DeformConv<pads=[1,1,1,1],group=2>(h, k, f)", {}, {"k": rand(8, 4, 3, 3), "f": rand(2, 18, 6, 6)},
    ),
    "one-hot and friends stay": ("t = Trilu(h)", {}, {}),
    "scatter stays": ("t = ScatterND(h, i, u)", {}, {"u": rand(1, 6, 6), **ints(i=[[0, 3]])}),
    "gather by element stays": ("t = GatherElements<axis=1>(h, i)", {}, ints(i=np.zeros((2, 8, 6, 6)))),
}  # fmt: skip


@pytest.mark.parametrize(("body", "expected", "consts"), IMAGES.values(), ids=IMAGES)
def test_other_operators(body: str, expected: dict[str, int], consts: dict[str, Any]) -> None:
    check_pruning(sandwich(body, opset=22, **consts), expected)
