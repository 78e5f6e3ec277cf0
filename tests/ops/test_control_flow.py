"""If, Loop and Scan: decided branches are inlined, types join where they are not, results stay ONNX Runtime's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest

from graphopt.driver.importing import import_onnx
from graphopt.errors import UserError
from graphopt.ir.graph import Graph
from graphopt.ir.onnx_io import graph_to_onnx
from graphopt.ir.verifier import verify

HEAD = '<ir_version: 8, opset_import: ["": 18]>'


def load(text: str, **options: Any) -> Graph:
    return import_onnx(onnx.parser.parse_model(HEAD + text), **options)


def run(model: Any, **feeds: Any) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return list(ort.InferenceSession(model.SerializeToString(), options).run(None, feeds))


NESTED = """
    g (float[N, C] x) => (float[A, B] y, float[N, C] z)
    <int64 two = {2}, int64[1] ax = {0}, bool yes = {1}>
    {
        s = Shape(x)
        r = Size(s)
        is_matrix = Equal(r, two)
        y, z = If (is_matrix) <
            then_branch = t () => (float[A, B] ty, float[N, C] tz) {
                ty = If (yes) <
                    then_branch = tt () => (float[N, C] a) { a = Relu(x) },
                    else_branch = te () => (float[N, C] b) { b = Unsqueeze(x, ax) }
                >
                tz = Identity(x)
            },
            else_branch = e () => (float[A, B] ey, float[N, C] ez) {
                ey = MatMul(two, x)
                ez = Identity(x)
            }
        >
    }"""


def test_decided_branches_are_inlined_and_the_other_is_not_even_typed() -> None:
    graph = load(NESTED)
    assert "If" not in [n.op for n in graph.walk()]
    assert [v.name for v in graph.outputs] == ["y", "z"]
    assert [str(v.type) for v in graph.outputs] == ["f32[N, C]"] * 2
    verify(graph)
    x = np.array([[-1, 2, 3]], np.float32)
    y, z = run(graph_to_onnx(graph), x=x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(z, x)


def test_a_branch_may_return_a_constant_or_an_outer_value_twice() -> None:
    graph = load("""
        g (float[2] x) => (float[2] a, float[2] b, float[2] c)
        <bool yes = {1}, float[2] w = {3, 4}>
        {
            a, b, c = If (yes) <
                then_branch = t () => (float[2] p, float[2] q, float[2] r) {
                    p = Relu(x)
                    q = Identity(w)
                    r = Identity(p)
                },
                else_branch = e () => (float[2] p1, float[2] q1, float[2] r1) {
                    p1 = Neg(x)
                    q1 = Neg(x)
                    r1 = Neg(x)
                }
            >
        }""")
    verify(graph)
    x = np.array([-1, 5], np.float32)
    a, b, c = run(graph_to_onnx(graph), x=x)
    np.testing.assert_array_equal(a, [0, 5])
    np.testing.assert_array_equal(b, [3, 4])
    np.testing.assert_array_equal(c, [0, 5])


RUN_TIME = """
    g (float[N, 4] x, bool c) => (float[N, M] y)
    {
        y = If (c) <
            then_branch = t () => (float[N, 4] a) { a = Relu(x) },
            else_branch = e () => (float[N, 8] b) { b = Concat <axis = 1> (x, x) }
        >
    }"""


def test_differing_extents_become_an_unknown() -> None:
    graph = load(RUN_TIME)
    assert str(graph.outputs[0].type) == "f32[N, u0]"
    x = np.ones((2, 4), np.float32)
    for c in (True, False):
        assert run(graph_to_onnx(graph), x=x, c=np.array(c))[0].shape == (2, 4 if c else 8)


def test_a_fixed_input_decides() -> None:
    graph = load(RUN_TIME, values={"c": False})
    assert [v.name for v in graph.inputs] == ["x"]
    assert str(graph.outputs[0].type) == "f32[N, 8]"
    assert [n.op for n in graph.nodes] == ["Concat"]


@pytest.mark.parametrize("values", [{"d": True}, {"c": 3}, {"c": [True, False]}, {"c": "yes"}])
def test_values_that_can_not_be(values: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        load(RUN_TIME, values=values)
    assert caught.value.hint


SQUEEZE = """
    g (float[N, T] x) => (float[N] y)
    <int64[1] last = {-1}, int64[1] one = {1}>
    {
        s = Shape(x)
        d = Gather(s, last)
        c = Equal(d, one)
        y = If (c) <
            then_branch = yes () => (float[N] a) { a = Squeeze(x, last) },
            else_branch = no () => (float[N, T] b) { b = Identity(x) }
        >
    }"""


def test_a_rank_that_depends_on_an_extent_is_assumed_and_guarded() -> None:
    graph = load(SQUEEZE)
    assert str(graph.outputs[0].type) == "f32[N]"
    ((pair, why),) = graph.constraints.items()
    assert [str(d) for d in pair] == ["T", "1"]
    assert "rank of y" in why
    assert str(load(SQUEEZE, shapes={"x": (3, 5)}).outputs[0].type) == "f32[3, 5]"
    assert not load(SQUEEZE, shapes={"x": (3, 1)}).constraints


LOOP = """
    g (float[N] x, int64 trips) => (float[M] last, float[K, N] all)
    <bool yes = {1}>
    {
        last, all = Loop (trips, yes, x) <
            body = b (int64 i, bool go, float[P] v) => (bool go2, float[Q] w, float[N] out) {
                go2 = Identity(go)
                w = Concat <axis = 0> (v, x)
                out = Relu(x)
            }
        >
    }"""


def test_loop_carried_shapes_may_grow() -> None:
    graph = load(LOOP)
    last, every = graph.outputs
    assert last.shape[0] not in (graph.inputs[0].shape[0], 1)
    assert str(last.shape[0]).startswith("u")
    assert str(every.shape[1]) == "N"
    got = run(graph_to_onnx(graph), x=np.array([1, -1], np.float32), trips=np.array(3))
    assert got[0].shape == (8,)
    np.testing.assert_array_equal(got[1], [[1, 0]] * 3)


def test_a_fixed_trip_count_is_the_extent_of_scan_outputs() -> None:
    graph = load(LOOP, values={"trips": 3})
    assert [str(d) for d in graph.outputs[1].shape] == ["3", "N"]


def test_inferring_again_changes_nothing() -> None:
    from graphopt.ir.printer import format_graph
    from graphopt.ops.infer import infer_graph

    for text in (RUN_TIME, LOOP, SQUEEZE):
        graph = load(text)
        before = format_graph(graph)
        infer_graph(graph)
        assert format_graph(graph) == before
        verify(graph)
