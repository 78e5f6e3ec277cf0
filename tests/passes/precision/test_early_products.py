"""Which products add up in float32 where a processor adds in float16: early and small ones, within a share of all."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.driver.compiling import to_program
from graphopt.ir.graph import Graph
from graphopt.ops.flops import node_flops
from graphopt.ops.registry import LINEAR, has_trait
from graphopt.passes.precision.early_products import SHARE, early_products
from tests.support.onnx_graphs import graph_of, model_of, rand

NET = """
a = Conv<pads=[1,1,1,1],strides=[2,2]>(x, first)
b = Conv<strides=[2,2]>(a, early)
c = Conv(b, large)
d = Conv(c, large_again)
y = Conv(d, late)
"""
WEIGHTS = {
    "first": rand(4, 3, 3, 3), "early": rand(8, 4, 1, 1), "large": rand(512, 8, 1, 1), "large_again": rand(512, 512, 1, 1),
    "late": rand(8, 512, 1, 1),
}  # fmt: skip


def _net(extent: str = "16") -> Graph:
    return graph_of({"x": f"float[1,3,{extent},{extent}]"}, NET, **WEIGHTS)


def _chosen(graph: Graph, share: float) -> set[str]:
    return {str(node.inputs[1].name) for node in early_products(graph, share) if node.inputs[1] is not None}


def test_the_first_ones_go_before_later_ones_of_the_same_size() -> None:
    order: list[str] = []
    for share in np.linspace(0, 1, 200):
        order += sorted(_chosen(_net(), float(share)) - set(order))
    assert order[:2] in (["early", "first"], ["first", "early"])
    assert order.index("late") < order.index("large_again")
    assert set(order) == set(WEIGHTS)


@pytest.mark.parametrize("share", [0.0, SHARE, 0.3])
def test_they_are_no_more_than_the_share(share: float) -> None:
    graph = _net()
    chosen = early_products(graph, share)
    cost = {node: node_flops(node) or 0 for node in graph.nodes if has_trait(node, LINEAR)}
    assert sum(cost[node] for node in chosen) <= share * sum(cost.values()) * 1.5  # what is stored counts besides
    assert bool(chosen) == (share > 0)


def test_of_open_sizes_it_isnt_known_what_is_small() -> None:
    assert not early_products(_net("N"), 1.0)


def test_a_model_without_products_has_none() -> None:
    assert not early_products(graph_of({"x": "float[2,3]"}, "y = Relu(x)"))


@pytest.mark.parametrize(("target", "wide"), [("arm:neoverse-n1", True), ("x86-64-v3", False)])
def test_the_first_layer_multiplies_float32_where_others_multiply_float16(target: str, wide: bool) -> None:
    model = model_of({"x": "float[1,3,16,16]"}, NET, **WEIGHTS)
    _, _, program = to_program(model, target, threads=1, precision="fp16")
    adds = []
    for name, function in program.functions.items():
        if "conv" in str(name):
            local = [line for line in function.script().splitlines() if "alloc_local" in line]
            adds.append("float16" if any("float16" in line for line in local) else "float32")
    assert "float32" in adds
    assert ("float16" in adds) == wide
