"""A plan of precisions: replayed it gives the same graph, edited it changes just what it names, and what doesn't fit is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import KernelPlan, PrecisionChoices
from graphopt.driver.checking import Options, check_model
from graphopt.driver.importing import import_onnx
from graphopt.errors import UserError
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Graph
from tests.random_graphs.case import draw
from tests.support.onnx_graphs import graph_of, model_of, rand
from tests.support.precision import computed_in, node_called, run

NARROW = {"fp16": "float16", "bf16": "bfloat16"}
BODY = "c = Conv<pads=[1,1,1,1]>(x, w)\nr = Relu(c)\nf = Flatten(r)\ng = Gemm<transB=1>(f, v)\ny = Softmax(g)"
X = {"x": "float[1,3,8,8]"}
WEIGHTS = {"w": rand(8, 3, 3, 3), "v": rand(16, 512) * 0.05}
ALL = {"c": "float16", "r": "float16", "f": "float16", "g": "float16", "y": "float32"}


def net() -> Graph:
    """A small classifier, of which only the softmax stays in float32 by rule."""
    return graph_of(X, BODY, **WEIGHTS)


def exported(graph: Graph) -> bytes:
    """The graph as ONNX has it in a file; it passes the checker."""
    model = graphopt.export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def planned(nodes: Mapping[str, str], graph: Graph | None = None, **options: Any) -> tuple[Graph, dict[str, str]]:
    """What a plan of float16 makes of a graph, and what its report says that nodes compute in."""
    narrow, report = graphopt.convert(graph or net(), plan=PrecisionChoices(nodes, "fp16"), **options)
    return narrow, dict(report.plan.nodes)


# -- replaying --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", [0, 3, 4, 6])
@pytest.mark.parametrize(("precision", "io"), [("fp16", "keep"), ("bf16", "cast")])
def test_random_graphs_replay_bit_by_bit(seed: int, precision: str, io: Any) -> None:
    graph = import_onnx(draw(seed).model())
    narrow, report = graphopt.convert(graph, precision, io=io)
    again, second = graphopt.convert(graph, plan=PrecisionChoices.from_json(report.plan.to_json()))
    assert exported(again) == exported(narrow)
    assert second.plan.to_json() == report.plan.to_json()
    assert second.casts == report.casts


@pytest.mark.parametrize("seed", [0, 3, 4, 6])
def test_random_edits_are_followed_to_the_letter(seed: int) -> None:
    graph, rng = import_onnx(draw(seed).model()), random.Random(seed)
    nodes = dict(graphopt.convert(graph, "fp16")[1].plan.nodes)
    edited = {n: {"float16": "float32"}.get(e, "float16") if rng.random() < 0.5 else e for n, e in nodes.items()}
    assert edited != nodes
    narrow, found = planned(edited, graph)
    assert found == edited
    again, _ = graphopt.convert(graph, plan=PrecisionChoices(found, "fp16"))
    assert exported(again) == exported(narrow)


def test_what_data_and_a_largest_error_decided_replays_without_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = rand(16, 16)
    body = "p = MatMul(x, big)\nq = MatMul(p, small)\na = MatMul(x, w)\nb = MatMul(x, v)\nd = Sub(a, b)\ny = Add(d, q)"
    body += "\nz = MatMul(x, u)"
    graph = graph_of(
        {"x": "float[4,16]"},
        body,
        "y z",
        w=w,
        v=w * 1.01,
        u=rand(16, 16, seed=3),
        big=rand(16, 16) * 1e4,
        small=rand(16, 16) * 1e-8,
    )
    narrow, report = graphopt.convert(graph, "fp16", calibration={"x": rand(4, 16) * 4}, max_error=2e-3)
    assert {"data", "sensitivity"} <= {row.why for row in report.kept}
    assert report.converted
    report.plan.save(tmp_path / "plan.json")

    def none(*_: Any, **__: Any) -> Any:
        raise AssertionError("a plan is replayed without running anything")

    monkeypatch.setattr("graphopt.driver.calibration.CompiledRunner", none)
    again, second = graphopt.convert(graph, plan=tmp_path / "plan.json")
    assert exported(again) == exported(narrow)
    assert {row.why for row in second.kept} == {"plan", "rule"}, "a constant vanishes, whatever data says"
    assert second.data is None


def test_the_file() -> None:
    report = graphopt.convert(net(), "fp16")[1]
    plan = report.plan
    assert plan.model.startswith("blake2b:")
    assert (
        plan.to_json()
        == f"""{{
  "format": "graphopt-precision-1",
  "graphopt": "{plan.version}",
  "precision": "fp16",
  "io": "keep",
  "level": 2,
  "model": "{plan.model}",
  "nodes": {{
    "c": "float16",
    "r": "float16",
    "f": "float16",
    "g": "float16",
    "y": "float32"
  }}
}}
"""
    )
    assert PrecisionChoices.from_json(PrecisionChoices({}, level=0).to_json()).level == 0
    assert PrecisionChoices({"a": "float32"}).to_json() == (
        '{\n  "format": "graphopt-precision-1",\n  "nodes": {\n    "a": "float32"\n  }\n}\n'
    )


def test_a_model_that_was_trained_further_keeps_its_plan() -> None:
    plan = graphopt.convert(net(), "fp16")[1].plan
    other = graph_of(X, BODY, w=rand(8, 3, 3, 3, seed=5), v=WEIGHTS["v"])
    assert graphopt.convert(other, plan=plan)[1].plan.nodes == plan.nodes
    with pytest.raises(UserError, match="another model") as caught:
        graphopt.convert(graph_of({"x": "float[2,3,8,8]"}, BODY, **WEIGHTS), plan=plan)
    assert "delete its line 'model'" in str(caught.value.hint)


# -- editing ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("node", list(ALL))
def test_an_edit_changes_just_the_node_that_it_names(node: str) -> None:
    """Either way: the softmax is forced, the others are kept, and what never rounds does not follow its neighbours."""
    edit = {**ALL, node: "float32" if ALL[node] == "float16" else "float16"}
    narrow, found = planned(edit)
    assert found == edit
    assert {name: dtype.numpy.name for name, dtype in computed_in(narrow).items()} == edit
    exported(narrow)


def test_why_a_node_is_in_float32() -> None:
    """A rule that agrees with the plan keeps its reason."""
    _, report = graphopt.convert(net(), plan=PrecisionChoices({**ALL, "c": "float32"}, "fp16"))
    assert {row.node: (row.why, row.reason) for row in report.kept} == {
        "c": ("plan", "the plan has it in float32"), "y": ("rule", "a softmax divides by a sum of exponentials"),
    }  # fmt: skip


def test_nodes_that_are_left_out_are_decided_by_rule() -> None:
    assert exported(planned({})[0]) == exported(graphopt.convert(net(), "fp16")[0])
    assert planned({"y": "float16"})[1] == {**ALL, "y": "float16"}
    assert planned({"c": "float32"})[1] == {**ALL, "c": "float32"}
    assert planned({"c": "float32", "g": "float32"})[1] == dict.fromkeys(ALL, "float32"), "neighbours are settled"
    assert planned({"c": "float32", "g": "float32", "f": "float16"})[1] == {
        **dict.fromkeys(ALL, "float32"), "f": "float16", "r": "float16",
    }  # fmt: skip


def test_observers_are_fixed_too() -> None:
    graph = graph_of({"x": "float[4]"}, "y = Greater(x, k)", "y:bool", k=np.float32([0.1]))
    assert planned({}, graph)[1] == {"y": "float32"}
    narrow, found = planned({"y": "float16"}, graph)
    assert found == {"y": "float16"}
    assert [str(v.dtype) for v in node_called(narrow, "y").inputs if v is not None] == ["f16", "f16"]
    graph = graph_of(
        {"x": "float[4]"}, "a = Relu(x)\nb = Identity(a)\ny = Greater(b, k)", "y:bool", k=np.float32([0.1])
    )
    assert planned({"y": "float16"}, graph, level=0)[1] == dict.fromkeys("aby", "float16"), "it speaks for its operands"


IF = """
b = If<then_branch = g1 () => (float[3,6] t) { m = MatMul(x, w) t = Relu(m) },
       else_branch = g2 () => (float[3,6] e) { e = Softmax(x) }>(c)
y = MatMul(b, w)
""".replace("\n       ", " ")
LOOP = """
y, z = Loop<body = g (int64 i, bool k, float[3,6] s) => (bool k2, float[3,6] s2, float[3,6] o) {
 k2 = Identity(k) m = MatMul(s, w) s2 = Tanh(m) o = Neg(m) }>(n, t, x)
""".replace("{\n", "{")
SCAN = """
y, z = Scan<num_scan_inputs=1, body = g (float[6] s, float[6] e) => (float[6] s2, float[6] o) {
 m = Add(s, e) s2 = Tanh(m) o = Exp(m) }>(i, x)
""".replace("{\n", "{")


def test_nodes_in_branches_are_in_the_plan() -> None:
    graph = graph_of({"x": "float[3,6]", "c": "bool[]"}, IF, w=rand(6, 6))
    by_rule = planned({}, graph)[1]
    assert by_rule == {"b": "float16", "m": "float16", "t": "float16", "e": "float32", "y": "float16"}
    edit = {**by_rule, "m": "float32", "e": "float16"}
    narrow, found = planned(edit, graph)
    assert found == edit
    assert {n.op for n in narrow.walk() if n.outputs[0] is not None and n.outputs[0].dtype is DType.f32} == {
        "Cast", "MatMul",
    }  # fmt: skip
    feeds = {"x": rand(3, 6), "c": np.array(False)}
    (got,) = run(graphopt.export_onnx(narrow), feeds, reference=False)
    (want,) = run(graphopt.export_onnx(graph), feeds, reference=False)
    np.testing.assert_allclose(got, want, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("body", "consts", "node"),
    [
        (LOOP, {"n": np.int64(3), "t": np.bool_(True), "w": rand(6, 6) * 0.3}, "y"),
        (SCAN, {"i": rand(6)}, "y"),
    ],
)
def test_what_loops_carry_can_be_forced(body: str, consts: dict[str, Any], node: str) -> None:
    graph = graph_of({"x": "float[3,6]"}, body, "y z", **consts)
    assert planned({}, graph)[1][node] == "float32"
    narrow, found = planned({node: "float16"}, graph)
    assert found[node] == "float16"
    loop = node_called(narrow, node)
    assert {v.dtype for sub in loop.subgraphs for v in (*sub.inputs, *sub.outputs) if v.dtype.is_float} == {DType.f16}
    exported(narrow)
    feeds = {"x": rand(3, 6) * 0.5}
    got, want = (run(graphopt.export_onnx(g), feeds, reference=True) for g in (narrow, graph))
    for a, b in zip(got, want):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-2)


def test_nodes_in_a_loop_follow_what_it_carries() -> None:
    body = LOOP.replace("s2 = Tanh(m)", "r = Neg(s) s2 = Softmax(r)")
    graph = graph_of({"x": "float[3,6]"}, body, "y z", n=np.int64(3), t=np.bool_(True), w=rand(6, 6))
    assert planned({}, graph)[1]["r"] == "float32"
    assert planned({"y": "float16"}, graph)[1]["r"] == "float16"


F68 = {"x": "float[6,8]"}


@pytest.mark.parametrize(
    ("inputs", "body", "consts"),
    [
        (F68, "m = Softmax(x)", {}),
        (F68, "m = LayerNormalization(x, s)", {"s": rand(8)}),
        (F68, "m = ReduceSum<keepdims=0>(x)", {}),
        (F68, "m = Add(x, s)", {"s": np.float32([-1e9])}),
        (F68, "m = Mul(x, s)", {"s": np.float32([1e-12])}),
        (F68, "m, i = TopK(x, s)", {"s": np.int64([2])}),
        ({"x": "int64[4]"}, "m = Cast<to=1>(x)", {}),
        ({"x": "double[4]"}, "m = Cast<to=1>(x)", {}),
        ({"x": "int64[2]"}, "m = ConstantOfShape<value = float[1] {0.1}>(x)", {}),
        ({"x": "int64[2,2]"}, "m = EyeLike<dtype=1>(x)", {}),
        ({"x": "float[2,2]"}, "m = EyeLike(x)", {}),
        ({"x": "float[2,2]"}, "m = EyeLike<dtype=1>(x)", {}),
        ({"x": "int64[]"}, "m = HannWindow(x)", {}),
        ({"x": "float[4]"}, "r = RandomNormal<shape=[4], seed=1.0>()\nm = Add(x, r)", {}),
        ({"x": "float[4]"}, "r = RandomUniformLike<seed=1.0>(x)\nm = Add(x, r)", {}),
        ({"x": "uint8[4]"}, "m = DequantizeLinear(x, s)", {"s": np.float32(0.1)}),
        ({"x": "float[4]"}, "q = QuantizeLinear(x, s, z)\nm = DequantizeLinear(q, s, z)",
         {"s": np.float32(0.1), "z": np.uint8(0)}),
    ],
)  # fmt: skip
def test_rules_don_t_hold_against_a_plan(inputs: dict[str, str], body: str, consts: dict[str, Any]) -> None:
    graph = graph_of(inputs, f"{body}\ny = Identity(m)", opset=21, **consts)
    by_rule = planned({}, graph, level=0)[1]
    assert "float32" in by_rule.values()
    narrow, found = planned(dict.fromkeys(by_rule, "float16"), graph, level=0)
    assert set(found.values()) == {"float16"}
    assert set(computed_in(narrow).values()) == {DType.f16}
    assert narrow.outputs[0].dtype is DType.f32
    exported(narrow)


# -- with other options -----------------------------------------------------------------------------------------------
def test_keep_adds_to_the_plan() -> None:
    narrow, found = planned({**ALL, "y": "float16"}, keep=["Conv"])
    assert found == {**ALL, "c": "float32", "y": "float16"}, "it changes nothing else"
    exported(narrow)


def test_nodes_around_one_that_goes_back_follow_it() -> None:
    """But not those that the plan alone has in 16 bits."""
    graph = graph_of({"x": "float[4,8]"}, "a = MatMul(x, w)\nt = Neg(a)\ny = MatMul(t, w)", w=rand(8, 8))
    every = dict.fromkeys("aty", "float16")
    assert planned(every, graph, keep=["MatMul"])[1] == dict.fromkeys("aty", "float32")
    assert planned(every, graph, keep=["a"])[1] == {**every, "a": "float32"}
    between = {"a": "float32", "t": "float16", "y": "float32"}
    assert planned(between, graph)[1] == between
    graph = graph_of(
        {"x": "float[4,8]"}, "a = MatMul(x, w)\nt = Neg(a)\nb = MatMul(t, w)\ny = MatMul(b, w)", w=rand(8, 8)
    )
    assert planned({**between, "b": "float32", "y": "float16"}, graph, keep=["y"])[1] == {
        "a": "float32", "t": "float16", "b": "float32", "y": "float32",
    }  # fmt: skip


def test_data_reports_and_does_not_overrule() -> None:
    graph = graph_of(
        {"x": "float[4,8]"}, "a = MatMul(x, big)\ny = MatMul(a, small)", big=rand(8, 8) * 1e4, small=rand(8, 8) * 1e-4
    )
    feeds = {"x": rand(4, 8) * 20}
    assert {row.why for row in graphopt.convert(graph, "fp16", calibration=feeds)[1].kept} == {"data"}
    _, report = graphopt.convert(graph, plan=PrecisionChoices({"a": "float16"}, "fp16"), calibration=feeds)
    assert not report.kept
    assert report.data == "1 feed of calibration data"
    assert report.nodes[0].sqnr_db == -np.inf


def test_a_largest_error_starts_from_the_plan() -> None:
    w = rand(16, 16)
    body = (
        "a = MatMul(x, w)\nb = MatMul(x, v)\nd = Sub(a, b)\np = MatMul(x, u)\nq = Softmax(p)\ny = Concat<axis=1>(d, q)"
    )
    graph = graph_of({"x": "float[4,16]"}, body, u=rand(16, 16) * 0.1, w=w, v=w + rand(16, 16, seed=1) * 3e-2)
    start = {"a": "bfloat16", "b": "bfloat16", "d": "bfloat16", "p": "float32", "q": "bfloat16", "y": "bfloat16"}
    plan = PrecisionChoices(start, "bf16")
    _, report = graphopt.convert(graph, plan=plan, max_error=0.5)
    assert report.plan.nodes == start
    _, report = graphopt.convert(graph, plan=plan, max_error=0.01)
    assert report.error is not None
    assert report.error <= 0.01
    why = {row.node: row.why for row in report.nodes}
    assert why["p"] == "plan"
    assert why["a"] == why["b"] == why["d"] == "sensitivity"
    assert why["q"] == "", "the plan forced it, and it is harmless"


def test_entries_that_fit_nothing_can_be_left_out() -> None:
    choices = PrecisionChoices({"c": "float32", "absent": "float16"}, "fp16", model="blake2b:0", fitting_only=True)
    assert graphopt.convert(net(), plan=choices)[1].plan.nodes == {**ALL, "c": "float32"}


def test_what_may_be_said_beside_the_plan() -> None:
    _, report = graphopt.convert(net(), "fp16", io="cast", level=1)
    plan = report.plan
    _, again = graphopt.convert(net(), "fp16", plan=plan, io="cast", level=1)
    assert again == report
    assert graphopt.convert(net(), plan=plan)[1] == report, "the plan says them all"
    free = PrecisionChoices({"c": "float32"})
    _, report = graphopt.convert(net(), "bf16", plan=free, io="cast", level=0)
    assert (report.plan.precision, report.plan.io, report.plan.level) == ("bf16", "cast", 0)


# -- what is refused --------------------------------------------------------------------------------------------------
FITTING = PrecisionChoices(ALL, "fp16", "keep", 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"plan": FITTING, "precision": "bf16"}, r"the plan is one of fp16, not of bf16(?s:.*)leave --precision out"),
        ({"plan": FITTING, "precision": "fp61"}, r"no precision 'fp61'(?s:.*)did you mean 'fp16'"),
        ({"plan": FITTING, "io": "cast"}, r"with --io keep, not with --io cast(?s:.*)delete its line 'io'"),
        ({"plan": FITTING, "level": 1}, r"at -O2, and nodes are others at -O1(?s:.*)delete its line 'level'"),
        ({"plan": PrecisionChoices({})}, r"isn't said what to convert to(?s:.*)--precision fp16"),
        ({}, r"isn't said what to convert to(?s:.*)--plan FILE"),
        ({"precision": "plan.json"}, r"plan\.json is no precision(?s:.*)--plan plan\.json"),
        ({"plan": PrecisionChoices({"d": "float16"}, "fp16")}, r"entry for 'd', and there is no such node(?s:.*)c, r, f, g, y"),
        ({"plan": PrecisionChoices({"cc": "float16"}, "fp16")}, r"entry for 'cc'(?s:.*)did you mean 'c'"),
        ({"plan": PrecisionChoices({"c": "bfloat16"}), "precision": "fp16"}, r"node 'c' is in 'bfloat16'(?s:.*)\"float16\""),
        ({"plan": PrecisionChoices({"c": "float61"}, "fp16")}, r"node 'c' is in 'float61'(?s:.*)\"float16\" or \"float32\""),
        ({"plan": PrecisionChoices({}, "half")}, r"'precision' is 'half'(?s:.*)fp16 or bf16"),
        ({"plan": KernelPlan({})}, r"a plan of kernels, where one of precisions is wanted(?s:.*)--plan of graphopt compile"),
    ],
)  # fmt: skip
def test_what_does_not_fit(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        graphopt.convert(net(), **options)


@pytest.mark.parametrize(
    ("inputs", "body", "outputs", "said"),
    [
        ({"x": "float[4,5]"}, "y = Einsum<equation=\"ij->ji\">(x)", "y",
         r"bfloat16 for a node that can't be in it: Einsum has no form in bfloat16 up to opset 22(?s:.*)node: y(?s:.*)\"float32\""),
        ({"x": "float[4]"}, "y = BitCast<to=6>(x)", "y:int32", r"BitCast has no form in bfloat16(?s:.*)size of an element"),
        ({"x": "int64[4]"}, "y = Identity(x)", "y:int64", r"'y', which neither reads nor makes float32(?s:.*)leave the line out"),
        ({"x": "bfloat16[4]"}, "y = Cast<to=1>(x)", "y", r"or only casts to or from bfloat16(?s:.*)node: y \(Cast\)"),
    ],
)  # fmt: skip
def test_what_the_schema_refuses(inputs: dict[str, str], body: str, outputs: str, said: str) -> None:
    graph = graph_of(inputs, body, outputs, opset=26 if "BitCast" in body else 18)
    with pytest.raises(UserError, match=said):
        graphopt.convert(graph, plan=PrecisionChoices({"y": "bfloat16"}, "bf16"))
    assert graphopt.convert(graph, plan=PrecisionChoices({}, "bf16"))


def test_elements_of_sequences_stay_in_float32() -> None:
    graph = graph_of(
        {"x": "float[2,3]"}, "a = Relu(x)\nb = Tanh(a)\ns = SequenceConstruct(b, b)\ny = SequenceLength(s)", "y:int64"
    )
    _, report = graphopt.convert(graph, "fp16", level=0)
    assert {row.node: row.why for row in report.kept} == {"s": "schema"}
    with pytest.raises(UserError, match="the elements of sequences"):
        planned({"s": "float16"}, graph, level=0)


HEAD = '{"format": "graphopt-precision-1"'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "no JSON"),
        ("[" * 100000, "no JSON"),
        ("[]", "no plan of the format graphopt-precision-1"),
        ('{"format": ["graphopt-precision-1"]}', "no plan of the format"),
        ('{"format": "graphopt-precision-2"}', "no plan of the format"),
        ('{"format": "graphopt-plan-1", "kernels": {}}', r"p\.json is a plan of kernels(?s:.*)--plan of graphopt compile"),
        (HEAD + ', "node": {}}', r"no 'node'(?s:.*)did you mean 'nodes'"),
        (HEAD + ', "level": "2"}', "'level' is no int"),
        (HEAD + ', "level": true}', "'level' is no int"),
        (HEAD + ', "level": 9}', r"no optimisation level 9(?s:.*)0: nothing"),
        (HEAD + ', "precision": "fp61"}', r"'precision' is 'fp61'(?s:.*)did you mean 'fp16'"),
        (HEAD + ', "io": "kep"}', r"'io' is 'kep'(?s:.*)did you mean 'keep'"),
        (HEAD + ', "nodes": []}', "'nodes' is no dict"),
        (HEAD + ', "nodes": {"a": 1}}', "node 'a' is in 1; nodes of a plan are in float16 or bfloat16 or float32"),
        (HEAD + ', "nodes": {"a": []}}', r"node 'a' is in \[\]"),
        (HEAD + ', "nodes": {"a": "float32", "a": "float32"}}', "'a' stands there twice"),
        (HEAD + ', "precision": "bf16", "nodes": {"a": "float16"}}', "nodes of a plan of bf16 are in bfloat16 or float32"),
    ],
)  # fmt: skip
def test_what_is_no_plan(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        PrecisionChoices.load(tmp_path / "p.json")
    assert caught.value.code == "bad-plan"
    assert caught.value.hint


def test_files_that_can_not_be_read_or_written(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "absent.json", tmp_path, tmp_path / "p.json", "nul\0.json"):
        for load in (PrecisionChoices.load, KernelPlan.load):
            with pytest.raises(UserError, match="can't be read"):
                load(path)
    for plan in (PrecisionChoices({}), KernelPlan({})):
        with pytest.raises(UserError, match="can't write the plan"):
            plan.save(tmp_path / "absent" / "p.json")


# -- compiled ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("io", ["keep", "cast"])
def test_what_is_compiled_is_what_convert_makes(tmp_path: Path, io: Any) -> None:
    path = str(tmp_path / "plan.json")
    PrecisionChoices({**ALL, "c": "float32", "y": "float16"}, "fp16", io).save(path)
    narrow, report = graphopt.convert(net(), plan=path)
    feeds = {"x": rand(1, 3, 8, 8).astype(np.float32 if io == "keep" else np.float16)}
    want = graphopt.compile(narrow, threads=1).run(feeds)["y"]
    for precision in (path, Path(path), report.plan):
        compiled = graphopt.compile(net(), threads=1, precision=precision)
        assert [str(spec.dtype) for spec in (*compiled.inputs, *compiled.outputs)] == [
            {"keep": "f32", "cast": "f16"}[io]
        ] * 2
        np.testing.assert_array_equal(compiled.run(feeds)["y"], want)
    by_rule = graphopt.compile(net(), threads=1, precision="fp16").run({"x": feeds["x"].astype(np.float32)})["y"]
    assert not np.array_equal(by_rule, want.astype(np.float32))
    report = check_model(model_of(X, BODY, **WEIGHTS), Options(threads=1, precision=path, level=1))
    assert report.ok
    assert report.outputs[0].allowed == 0.01


def test_a_plan_says_at_which_level_its_nodes_are_there() -> None:
    body = "c = Conv<pads=[1,1,1,1]>(x, w)\ny = BatchNormalization(c, s, o, o, s)"
    graph = graph_of(X, body, w=WEIGHTS["w"], s=rand(8, positive=True), o=rand(8))
    plan = PrecisionChoices({"c": "float16", "y": "float32"}, "fp16", level=0)
    compiled = graphopt.compile(graph, threads=1, precision=plan)
    assert compiled.run({"x": rand(1, 3, 8, 8)})["y"].shape == (1, 8, 8, 8)
    with pytest.raises(UserError, match="no such node after optimisation"):
        graphopt.compile(graph, threads=1, precision=PrecisionChoices(plan.nodes, "fp16"))
    assert graphopt.compile(graph, threads=1, precision=PrecisionChoices(plan.nodes, "fp16"), level=0)


def test_a_difference_is_localised_under_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every inner value is an output then: the model is another one, and its nodes may be others."""
    monkeypatch.setattr("graphopt.driver.checking.L2_ALLOWED", {"fp16": 1e-7})
    plan = graphopt.convert(net(), "fp16", io="cast")[1].plan
    report = check_model(model_of(X, BODY, **WEIGHTS), Options(threads=1, precision=plan))
    assert not report.ok
    assert report.culprit == "c (Conv)"


def test_compilation_refuses_what_does_not_fit() -> None:
    plan = graphopt.convert(net(), "fp16")[1].plan
    with pytest.raises(UserError, match="another model"):
        graphopt.compile(graph_of({"x": "float[2,3,8,8]"}, BODY, **WEIGHTS), precision=plan)
    with pytest.raises(UserError, match="doesn't say of which precision") as caught:
        graphopt.compile(net(), precision=PrecisionChoices({}))
    assert '"precision": "fp16"' in str(caught.value.hint)
    with pytest.raises(UserError, match="a plan of kernels, where one of precisions"):
        graphopt.compile(net(), precision=KernelPlan({}))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"a plan of precisions, where one of kernels(?s:.*)--plan of graphopt convert"):
        graphopt.compile(net(), plan=plan)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"a plan of precisions, where one of kernels"):
        KernelPlan.from_json(plan.to_json())
    with pytest.raises(UserError, match="can't be read"):
        graphopt.compile(net(), precision="absent.json")
    assert json.loads(plan.to_json())["nodes"] == ALL
