"""Properties of quantized random networks: valid ONNX, invariants of placement, and nearly the same results."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

import graphopt
from graphopt.ir.graph import Graph, Node, Value
from graphopt.passes.quant.placement import place
from graphopt.passes.quant.roles import Role
from tests.support.ort import run_ort
from tests.support.precision import sqnr_db
from tests.support.quantizing import quantized
from tests.support.random_networks import Network


def network(seed: int) -> Graph:
    net = Network(random.Random(seed).choice)
    for _ in range(12):
        net.grow()
    return net.finish()


def parameters_before(node: Node, value: Value | None) -> Any:
    """Scale and zero point of the integers that an operand was, None for a float one."""
    maker = None if value is None else value.producer
    return None if maker is None or maker.op != "DequantizeLinear" else tuple(maker.inputs[1:])


def parameters_behind(value: Value) -> Any:
    """Scale and zero point of the integers that a value becomes."""
    found = {tuple(node.inputs[1:]) for node in value.consumers if node.op == "QuantizeLinear"}
    assert len(found) <= 1, "quantized once"
    return next(iter(found), None)


def check(graph: Graph, result: Graph) -> None:
    placement = place(graph)
    twins = {node.name: node for node in result.nodes}
    for node, role in placement.roles.items():
        twin = twins[node.name]
        for index, _ in placement.operands(node):
            assert parameters_before(twin, twin.inputs[index]) is not None, f"{node.label} reads integers"
        if node in placement.weights:
            assert twin.inputs[placement.weights[node]].producer.op == "DequantizeLinear"  # type: ignore[union-attr]
        if role is Role.KEEPS:
            seen = {parameters_before(twin, twin.inputs[index]) for index, _ in placement.operands(node)}
            seen |= {p for v in twin.outputs if v is not None and (p := parameters_behind(v)) is not None}
            assert len(seen) == 1, f"{node.label} has one scale on all sides"
    for node in placement.left:
        assert all(parameters_before(twins[node.name], v) is None for v in twins[node.name].inputs), (
            "floats read floats"
        )


def test_random_networks() -> None:
    noise = []
    for seed in range(20):
        graph = network(seed)
        feeds = {v.name: np.random.default_rng(seed).standard_normal(v.shape).astype(np.float32) for v in graph.inputs}  # type: ignore[arg-type]
        for options in ({}, {"activations": "u16"}):
            result, _ = quantized(graph, feeds, **options)
            check(graph, result)
            assert [v.name for v in result.outputs] == [v.name for v in graph.outputs]
            runs = [run_ort(graphopt.export_onnx(g), feeds) for g in (result, graph)]
            if options:
                noise += [sqnr_db(got, want) for got, want in zip(*runs) if np.any(want)]
    assert min(noise) > 15
    assert np.median(noise) > 40, "what 8 bits of weights cost"
