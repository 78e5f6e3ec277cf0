"""Functions are expanded and loops unrolled by passes: with remarks, skippable, within limits; results stay the same."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from graphopt.driver.compiling import prepare
from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import optimize
from graphopt.errors import UnsupportedOpError
from graphopt.ir.graph import Graph
from graphopt.passes.canonical.unroll_loops import UnrollLoops
from graphopt.passes.pipelines import kernel_phases, level_pipeline
from graphopt.rewrite.passes import PassContext
from graphopt.rewrite.pipeline import Pipeline
from graphopt.rewrite.remarks import Remarks
from tests.support.evaluate import evaluate_graph, random_inputs
from tests.support.onnx_graphs import graph_of, ops

HEAD = '<ir_version: 9, opset_import: ["": 18]>\n'
LOOP = """g (float[3] x, int64 n) => (float[3] y) {
  trips = Constant<value = int64 {TRIPS}>()
  yes = Constant<value = bool {1}>()
  y = Loop (COUNT, yes, x) < body = step (int64 i, bool go, float[3] s) => (bool on, float[3] t) {
    on = Identity(go)
    half = Constant<value = float {0.5}>()
    u = Mul(s, half)
    t = Add(u, x)
  }>
}"""


def loop(trips: int = 3, count: str = "trips") -> Graph:
    return import_onnx(onnx.parser.parse_model(HEAD + LOOP.replace("TRIPS", str(trips)).replace("COUNT", count)))


def test_unrolled_loops_compute_the_same_and_are_remarked_on() -> None:
    graph, remarks = loop(), Remarks()
    flat = optimize(graph, passes=["unroll-loops"], verify_each=True, remarks=remarks, for_export=False)
    assert "Loop" not in ops(flat)
    assert ops(flat).count("Mul") == 3
    feed = random_inputs(graph)
    np.testing.assert_array_equal(evaluate_graph(flat, feed), evaluate_graph(graph, feed))
    assert [(r.pass_name, r.applied, r.text) for r in remarks] == [("unroll-loops", True, "unrolled, 3 iterations")]


@pytest.mark.parametrize(
    ("trips", "count", "limit", "reason"),
    [
        (3, "n", 4096, "not known"),
        (0, "trips", 4096, "never runs"),
        (3, "trips", 8, "3 iterations of 3 nodes are more than 8 nodes"),
    ],
)
def test_loops_that_stay_say_why(trips: int, count: str, limit: int, reason: str) -> None:
    graph, ctx = loop(trips, count), PassContext()
    version = graph.version
    UnrollLoops(max_nodes=limit).run(graph, ctx)
    assert graph.version == version
    assert [reason in r.text and not r.applied for r in ctx.remarks] == [True]


def test_only_what_the_target_lacks_is_expanded() -> None:
    graph = graph_of({"x": "float[2,3]"}, "a = Celu(x)\ny = Softsign(a)")
    ctx = PassContext(lowerable=lambda node: node.op != "Celu")
    expanded = Pipeline(kernel_phases(1)).run(graph, ctx)
    assert "Celu" not in ops(expanded)
    assert "Softsign" in ops(expanded)
    assert any(r.pass_name == "expand-functions" and r.applied and "Celu" in r.node for r in ctx.remarks)
    feed = random_inputs(graph)
    np.testing.assert_allclose(evaluate_graph(expanded, feed)[0], evaluate_graph(graph, feed)[0], rtol=1e-6)
    assert ops(Pipeline(kernel_phases(1)).run(graph)) == ops(graph)  # no target: nothing is lacking


def test_functions_are_expanded_by_name() -> None:
    graph = graph_of({"x": "float[2,3]"}, "a = Softsign(x)\ny = Relu(a)")
    expanded = optimize(graph, passes=["expand-functions{ops=[Softsign]}"], verify_each=True)
    assert "Softsign" not in ops(expanded)
    feed = random_inputs(graph)
    np.testing.assert_allclose(evaluate_graph(expanded, feed)[0], evaluate_graph(graph, feed)[0], rtol=1e-6)


def test_compiling_expands_and_unrolls_unless_told_not_to() -> None:
    prepared = prepare(loop(), None, 2, None, (), True)
    assert "Loop" not in ops(prepared)
    kept = prepare(loop(), None, 2, None, ("unroll-loops",), True)
    assert "Loop" in ops(kept)
    model = onnx.parser.parse_model(
        HEAD + "g (float[2,3] x, int64[2] t) => (float y) { y = NegativeLogLikelihoodLoss(x, t) }"
    )
    assert "NegativeLogLikelihoodLoss" not in ops(prepare(import_onnx(model), None, 2, None, (), True))
    with pytest.raises(UnsupportedOpError, match="NegativeLogLikelihoodLoss"):
        prepare(import_onnx(model), None, 2, None, ("expand-functions",), True)


def test_an_exported_graph_keeps_its_operators() -> None:
    exported = {name for level in range(4) for name in level_pipeline(level).pass_names}
    assert exported.isdisjoint(
        {p.name for phase in kernel_phases(3) for p in phase.passes} - {"lower-batch-norm", "move-integers"}
    )
