"""Properties of quantized random networks: valid ONNX, invariants of placement, and nearly the same results."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.driver.precision.inner_values import float_results
from graphopt.ir.editor import clone
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.outputs import with_outputs
from graphopt.ir.verifier import verify
from graphopt.passes.quant.parameters import form_of
from graphopt.passes.quant.placement import place
from graphopt.passes.quant.plan import plan_quantization
from graphopt.passes.quant.ranges import Range
from graphopt.passes.quant.roles import Role
from graphopt.passes.quant.runtimes import RUNTIMES
from graphopt.passes.quant.switches import add_switches, layers_of
from graphopt.rewrite.passes import PassContext
from tests.support.ort import run_ort
from tests.support.precision import sqnr_db
from tests.support.quantizing import exact_ranges, quantized
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


def test_switched_networks() -> None:
    """With every switch off a random network computes the same bits as float, with all on nearly what the quantized one does."""
    noise = []
    for seed in range(12):
        graph = network(seed)
        feeds = {v.name: np.random.default_rng(seed).standard_normal(v.shape).astype(np.float32) for v in graph.inputs}  # type: ignore[arg-type]
        result, _ = quantized(graph, feeds)
        work = clone(graph)
        forms = form_of("u8"), form_of("s8", True)
        plan = plan_quantization(place(work), exact_ranges(graph, feeds), *forms)
        switches = add_switches([plan], PassContext()).inputs
        assert list(switches) == [node.name for node in layers_of(place(graph))]
        verify(work)
        names = [name for given in switches.values() for name in given]
        off, on = (
            run_ort(graphopt.export_onnx(work), {**feeds, **dict.fromkeys(names, np.asarray(s))}) for s in (False, True)
        )
        want, real = run_ort(graphopt.export_onnx(graph), feeds), run_ort(graphopt.export_onnx(result), feeds)
        for value, a, b, c, d in zip(graph.outputs, off, want, on, real):
            np.testing.assert_array_equal(a, b, err_msg=f"%{value.name} of network {seed}")
            noise.append((sqnr_db(c, d), sqnr_db(d, b)))
    assert np.median([same for same, _ in noise]) > np.median([cost for _, cost in noise]) + 10, (
        "nearer to it than it is to float"
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_random_networks_for_a_runtime(runtime: str) -> None:
    for seed in range(8):
        graph = network(seed)
        feeds = {v.name: np.random.default_rng(seed).standard_normal(v.shape).astype(np.float32) for v in graph.inputs}  # type: ignore[arg-type]
        inner = [v.name for v in float_results(graph)]
        values = dict(zip(inner, run_ort(graphopt.export_onnx(with_outputs(graph, inner)), feeds))) | feeds
        table = graphopt.RangeTable({n: Range(float(v.min()), float(v.max())) for n, v in values.items() if v.size})
        result, _ = graphopt.quantize(graph, table=table, level=0, runtime=runtime)
        model = graphopt.export_onnx(result)
        onnx.checker.check_model(model, full_check=True)
        assert [v.name for v in result.outputs] == [v.name for v in graph.outputs]
        for got, want in zip(run_ort(model, feeds), run_ort(graphopt.export_onnx(graph), feeds)):
            assert not np.any(want) or sqnr_db(got, want) > 5
        biases = [v for v in result.constants() if v.data is not None and v.data.dtype == np.int32]
        assert not biases or runtime == "onnxruntime"


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
