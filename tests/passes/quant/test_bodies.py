"""Values of branches and loops as results of the outermost graph: ONNX Runtime gives what NumPy says they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import export_onnx
from graphopt.ir.graph import Graph, Value
from graphopt.ir.outputs import with_outputs
from graphopt.ir.verifier import verify
from graphopt.passes.quant.bodies import Bodies, exposed
from graphopt.rewrite.passes import PassContext
from tests.support.ort import run_ort

HEAD = '<ir_version: 9, opset_import: ["" : 18]>'
SCAN = """
    g (float[2] x, float[3,2] xs) => (float[2] last, float[2,3] all) {
        last, all = Scan <num_scan_inputs = 1, scan_output_axes = [1], scan_output_directions = [1],
            body = b (float[2] s, float[2] e) => (float[2] t, float[2] out) { t = Add(s, e) out = Neg(t) }
        > (x, xs)
    }"""
LOOP_IN_A_BRANCH = """
    g (float[2] x, bool p) => (float[2] y) <int64 trips = {3}, bool yes = {1}> {
        y = If(p) <
            then_branch = t () => (float[2] u) {
                u = Loop(trips, yes, x) <
                    body = b (int64 i, bool go, float[2] v) => (bool go2, float[2] w) { go2 = Identity(go) w = Add(v, v) }
                >
            },
            else_branch = e () => (float[2] n) { n = If(p) <
                then_branch = tt () => (float[2] m) { m = Neg(x) }, else_branch = ee () => (float[2] o) { o = Abs(x) }
            > }
        >
    }"""
GROWS = """
    g (float[2] x, int64 trips) => (float[M] last) <bool yes = {1}> {
        last = Loop(trips, yes, x) <
            body = b (int64 i, bool go, float[P] v) => (bool go2, float[Q] w) {
                go2 = Identity(go)
                c = Abs(x)
                w = Concat <axis = 0> (v, c)
            }
        >
    }"""


def graph_of(text: str) -> Graph:
    model = parser.parse_model(HEAD + text)
    model.graph.initializer.extend([numpy_helper.from_array(np.zeros(1, np.float32), "unused")])
    return import_onnx(model)


def shown(text: str, names: list[str], feeds: dict[str, Any]) -> list[Any]:
    """What shows the named values, as a file that ONNX Runtime takes."""
    graph, found = exposed(graph_of(text), names, PassContext(pass_name="test"))
    verify(graph)
    model = export_onnx(with_outputs(graph, [found[name] for name in names]))
    onnx.checker.check_model(model, full_check=True)
    return run_ort(model, feeds)


def test_values_of_all_iterations() -> None:
    x, xs = np.asarray([1, -2], np.float32), np.arange(6, dtype=np.float32).reshape(3, 2)
    e, t, s = shown(SCAN, ["e", "t", "s"], {"x": x, "xs": xs})
    sums = x + np.cumsum(xs, axis=0)
    np.testing.assert_array_equal(e, xs)
    np.testing.assert_array_equal(t, sums)
    np.testing.assert_array_equal(s, [x, *sums[:2]])


@pytest.mark.parametrize("taken", [True, False])
def test_values_of_the_branch_that_is_taken(taken: bool) -> None:
    x = np.asarray([1, -2], np.float32)
    feeds = {"x": x, "p": np.asarray(taken)}
    v, w, m, o = (array.ravel() for array in shown(LOOP_IN_A_BRANCH, ["v", "w", "m", "o"], feeds))
    none: list[float] = []
    np.testing.assert_array_equal(v, [*x, *(2 * x), *(4 * x)] if taken else none)
    np.testing.assert_array_equal(w, [*(2 * x), *(4 * x), *(8 * x)] if taken else none)
    np.testing.assert_array_equal(m, none)
    np.testing.assert_array_equal(o, none if taken else np.abs(x))


def test_what_is_hidden() -> None:
    graph = graph_of(GROWS)
    values: dict[str, Value] = {v.name: v for n in graph.walk() for v in n.outputs if v is not None}
    bodies = Bodies(graph)
    assert "%w, whose shape may change" in str(bodies.hidden(values["w"]))
    assert bodies.hidden(values["c"]) is None
    assert bodies.hidden(graph.inputs[0]) is None
