"""graphopt.prune: what comes back, that the proof catches wrong index maps, and that failures leave nothing behind."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

import graphopt
from graphopt.driver import latency_fit, prune_proof, pruning
from graphopt.driver.prune_report import sqnr_db
from graphopt.errors import AccuracyError, TargetError, UserError
from graphopt.ir.printer import format_graph
from graphopt.models import zoo
from graphopt.passes.prune.choice.ranking import select
from graphopt.passes.prune.groups import find_groups
from graphopt.passes.prune.importance import CRITERIA
from graphopt.passes.prune.mask import masked_graph
from graphopt.passes.prune.rules.registry import CannotFollow
from tests.support.onnx_graphs import graph_of, rand
from tests.support.ort import run_ort

RESIDUAL = """
a = Conv<pads=[1,1,1,1]>(x, w1, b1)
r = Relu(a)
c = Conv<pads=[1,1,1,1]>(r, w2, b2)
s = Add(c, r)
p = GlobalAveragePool(s)
f = Flatten(p)
y = Gemm<transB=1>(f, w3, b3)
"""


def residual(scale: float = 1.0):
    """Two convolutions of 32 channels coupled by an addition, and a classifier."""
    return graph_of(
        {"x": "float[N,3,8,8]"}, RESIDUAL, w1=rand(32, 3, 3, 3) * scale, b1=rand(32), w2=rand(32, 32, 3, 3) * 0.1,
        b2=rand(32, seed=1), w3=rand(10, 32), b3=rand(10),
    )  # fmt: skip


HEADS = """
q = MatMul(x, wq)
k = MatMul(x, wk)
v = MatMul(x, wv)
q4 = Reshape(q, four)
k4 = Reshape(k, four)
v4 = Reshape(v, four)
qt = Transpose<perm=[0,2,1,3]>(q4)
kt = Transpose<perm=[0,2,1,3]>(k4)
vt = Transpose<perm=[0,2,1,3]>(v4)
n = Shape(kt)
lead = Slice(n, zero, two)
length = Slice(n, two, three)
width = Slice(n, three, end)
to = Concat<axis=0>(minus, length, width)
merged = Reshape(kt, to)
turned = Transpose<perm=[0,2,1]>(merged)
back = Concat<axis=0>(lead, width, length)
keys = Reshape(turned, back)
scores = MatMul(qt, keys)
shares = Softmax(scores)
seen = MatMul(shares, vt)
st = Transpose<perm=[0,2,1,3]>(seen)
s3 = Reshape(st, three_axes)
y = MatMul(s3, wo)
"""


def attention():
    """Six heads of eight over a sequence of any length, keys transposed as torch's exporter writes it."""
    numbers = {
        "four": [0, 0, 6, 8],
        "three_axes": [0, 0, 48],
        "zero": [0],
        "two": [2],
        "three": [3],
        "end": [4],
        "minus": [-1],
    }
    return graph_of(
        {"x": "float[N,L,32]"}, HEADS, wq=rand(32, 48, seed=1), wk=rand(32, 48, seed=2), wv=rand(32, 48, seed=3),
        wo=rand(48, 32, seed=4), **{name: np.array(value) for name, value in numbers.items()},
    )  # fmt: skip


def test_heads_are_found_where_batch_and_length_are_open():
    graph = attention()
    before = state(graph)
    pruned, report = graphopt.prune(graph, ratio=0.5, multiple=1)
    assert_same(graph, before)
    assert sorted(row.channels.before for row in report.groups) == [6, 8, 8]
    assert report.parameters.after < 0.4 * report.parameters.before
    assert any("1 transposition through merged axes" in note for note in report.notes)
    x = rand(3, 5, 32)
    assert run_ort(graphopt.export_onnx(pruned), {"x": x})[0].shape == (3, 5, 32)


def state(graph):
    """Everything that could have changed."""
    arrays = {v.name: (v.data, v.data.copy()) for v in graph.constants()}
    return format_graph(graph), graph.version, arrays


def assert_same(graph, before):
    """Bit by bit as it was."""
    text, version, arrays = before
    assert format_graph(graph) == text
    assert graph.version == version
    for value in graph.constants():
        same, copy = arrays[value.name]
        assert value.data is same
        assert np.array_equal(same, copy)


def test_prunes_and_reports():
    graph = residual()
    before = state(graph)
    pruned, report = graphopt.prune(graph, ratio=0.5, multiple=1)
    assert_same(graph, before)
    shapes = {v.name: v.shape for v in pruned.constants()}
    assert shapes == {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,), "w3": (10, 16), "b3": (10,)}
    assert [n.name for n in pruned.nodes] == [n.name for n in graph.nodes]
    assert report.parameters.before == sum(v.data.size for v in graph.constants())
    assert report.parameters.after == sum(v.data.size for v in pruned.constants())
    assert report.bytes.after == 4 * report.parameters.after
    assert 0.25 < report.flops.ratio < 0.5
    (row,) = report.groups
    assert (row.channels.before, row.channels.after) == (32, 16)
    assert row.parameters.before == 32 * 27 + 32 + 32 * 32 * 9 + 32 + 10 * 32
    assert row.parameters.after == 16 * 27 + 16 + 16 * 16 * 9 + 16 + 10 * 16
    (frozen,) = report.frozen
    assert frozen.size == 10
    assert "output 'y'" in frozen.reason
    assert report.reference == "onnxruntime"
    (out,) = report.outputs
    assert out.name == "y"
    assert out.error <= out.allowed
    x = {"x": rand(4, 3, 8, 8, seed=5)}
    assert run_ort(graphopt.export_onnx(pruned), x)[0].shape == (4, 10)


def test_the_report_is_json():
    _, report = graphopt.prune(residual(), ratio=0.25, multiple=1, seed=3)
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["ratio"] == 0.25
    assert data["seed"] == 3
    assert data["parameters"]["ratio"] == pytest.approx(report.parameters.ratio, abs=1e-6)
    assert data["groups"][0]["channels"] == {"before": 32, "after": 24, "ratio": 0.75}
    assert set(data) == {f.name for f in dataclasses.fields(report)}


def test_sqnr_is_of_the_outputs_against_the_original():
    graph = residual()
    pruned, report = graphopt.prune(graph, ratio=0.25, multiple=1)
    x = pruning.random_inputs(pruning.signature_of(graph), 0)
    want, got = (run_ort(graphopt.export_onnx(g), x)[0].astype(np.float64) for g in (graph, pruned))
    expected = 10 * np.log10((want**2).sum() / ((got - want) ** 2).sum())
    assert report.outputs[0].sqnr_db == pytest.approx(expected, rel=1e-4)


def test_sqnr():
    one, half = np.ones(4, np.float32), np.full(4, 0.5, np.float32)
    assert sqnr_db([one], [half]) == pytest.approx(10 * math.log10(4))
    assert sqnr_db([one, one], [half, one]) == pytest.approx(10 * math.log10(8))
    assert sqnr_db([one], [one]) == math.inf
    assert sqnr_db([0 * one], [one]) is None
    assert sqnr_db([one], [one[:2]]) is None
    assert sqnr_db([one * np.nan], [one]) is None
    assert sqnr_db([np.arange(3)], [np.arange(3)]) is None


def test_channels_come_in_multiples_that_suit_the_target():
    pruned, report = graphopt.prune(residual(), ratio=0.4, target="x86-64-v3")
    assert report.multiple == 8
    assert pruned.nodes[0].inputs[1].shape[0] == 16
    assert graphopt.prune(residual(), ratio=0.4, target="x86-64-v2")[1].multiple == 8
    assert graphopt.prune(residual(), ratio=0.4, target="cuda:sm_80")[1].multiple == 8
    _, small = graphopt.prune(residual(), ratio=0.4, multiple=1)
    assert small.groups[0].channels.after == 19
    with pytest.raises(UserError, match="multiple"):
        graphopt.prune(residual(), ratio=0.05, multiple=32)


def test_the_digits_network():
    model = zoo.get("digits")
    pruned, report = graphopt.prune(model.path(), ratio=0.5, multiple=1)
    assert report.parameters.ratio < 0.3
    feed = model.inputs(seed=1)
    assert run_ort(graphopt.export_onnx(pruned), feed)[0].shape == (1, 10)
    compiled = graphopt.compile(pruned, threads=1).run(feed)
    np.testing.assert_allclose(compiled["logits"], run_ort(graphopt.export_onnx(pruned), feed)[0], rtol=1e-4, atol=1e-4)


def samples(count, seed=0):
    """Inputs of ``residual`` with some structure, and as many samples."""
    rng = np.random.default_rng(seed)
    return {"x": (rng.standard_normal((count, 3, 8, 8)).cumsum(-1) / 3).astype(np.float32)}


def test_reconstruction_brings_outputs_closer_to_the_original():
    graph, data = residual(), samples(256)
    before = state(graph)
    cut, plain = graphopt.prune(graph, ratio=0.25, multiple=1, calibration=data, reconstruct=False)
    repaired, report = graphopt.prune(graph, ratio=0.25, multiple=1, calibration=data)
    assert_same(graph, before)
    assert plain.repairs == ()
    assert plain.outputs[0].recovered_db is None
    assert report.outputs[0].sqnr_db == plain.outputs[0].sqnr_db
    assert report.outputs[0].recovered_db > report.outputs[0].sqnr_db + 3
    assert report.data == "the last 8 of 32 feeds of calibration data"
    assert any(repair.changed for repair in report.repairs)
    assert any("new weights" in note for note in report.notes)
    json.dumps(report.to_dict(), allow_nan=False)
    fresh = samples(64, seed=1)
    want, far, near = (run_ort(graphopt.export_onnx(g), fresh)[0] for g in (graph, cut, repaired))
    assert sqnr_db([want], [near]) > sqnr_db([want], [far]) + 3
    assert [n.name for n in repaired.nodes] == [n.name for n in graph.nodes]


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_every_criterion(name):
    images = np.random.default_rng(0).random((16, 1, 8, 8), np.float32)
    pruned, report = graphopt.prune(
        zoo.get("digits").path(), ratio=0.5, multiple=1, criterion=name, calibration={"image": images}, reconstruct=False,
        verify=False,
    )  # fmt: skip
    assert report.criterion == name
    assert pruned.nodes[0].inputs[1].shape[0] == 8


@pytest.mark.parametrize(
    ("text", "field"), [("params=0.5x", "parameters"), ("flops=60%", "flops"), ("bytes=20KB", "bytes")]
)
def test_budgets_of_size(text, field):
    _, report = graphopt.prune(residual(), budget=text, multiple=1)
    found = getattr(report, field)
    limit = {"params=0.5x": 0.5 * found.before, "flops=60%": 0.6 * found.before, "bytes=20KB": 20e3}[text]
    assert 0.85 * limit < found.after <= limit
    assert report.ratio is None
    assert report.budget.startswith(text.split("=")[0])


WIDE = """
a = Conv<pads=[1,1,1,1]>(x, w1)
r = Relu(a)
c = Conv<pads=[1,1,1,1]>(r, w2)
p = GlobalAveragePool(c)
f = Flatten(p)
y = Gemm<transB=1>(f, w3)
"""


def wide():
    """Layers large enough for their cost models to tell apart."""
    return graph_of(
        {"x": "float[1,16,28,28]"}, WIDE, w1=rand(128, 16, 3, 3), w2=rand(128, 128, 3, 3), w3=rand(10, 128)
    )  # fmt: skip


def test_a_budget_of_latency_for_another_machine_is_predicted():
    _, report = graphopt.prune(wide(), budget="latency=0.5x", target="arm", threads=2)
    assert 0.3 < report.predicted_ms.ratio <= 0.5
    assert report.measured_ms is None
    assert any("predicted only" in note for note in report.notes)
    assert report.budget == "latency=0.5x"
    with pytest.raises(UserError, match="can't be met"):
        graphopt.prune(wide(), budget="latency=0.0001x", target="arm", threads=2)


def test_a_budget_of_latency_is_met_as_measured(monkeypatch):
    """The stopwatch is replaced: time goes with the size of the weights."""
    times = []

    def side_by_side(original, *_args, **_options):
        def seconds(graph):
            sizes = [sum(v.data.nbytes for v in g.constants()) * 1e-8 for g in (original, graph)]
            times.append(sizes)
            return tuple(sizes)

        return seconds

    monkeypatch.setattr(latency_fit, "side_by_side", side_by_side)
    _, report = graphopt.prune(wide(), budget="latency=0.5x", ranking="global", threads=1)
    assert report.measured_ms.ratio <= 0.5
    assert [1e-3 * report.measured_ms.before, 1e-3 * report.measured_ms.after] in [pytest.approx(t) for t in times]
    assert report.bytes.ratio == pytest.approx(report.measured_ms.ratio)
    assert any("ranking of its own" in note for note in report.notes)


def test_open_extents_are_predicted_at_those_that_are_measured():
    """Sizes that only run time knows have no prediction."""
    _, report = graphopt.prune(residual(), ratio=0.5, multiple=1, target="x86-64-v3", threads=1, verify=False)
    _, fixed = graphopt.prune(
        graph_of(
            {"x": "float[2,3,8,8]"}, RESIDUAL, w1=rand(32, 3, 3, 3), b1=rand(32), w2=rand(32, 32, 3, 3) * 0.1,
            b2=rand(32, seed=1), w3=rand(10, 32), b3=rand(10),
        ), ratio=0.5, multiple=1, target="x86-64-v3", threads=1, verify=False,
    )  # fmt: skip
    assert report.predicted_ms == fixed.predicted_ms
    assert 0 < report.predicted_ms.before < 1


def test_latencies_are_predicted_and_on_demand_measured():
    _, report = graphopt.prune(wide(), ratio=0.5, multiple=16, threads=1)
    assert report.predicted_ms.ratio < 0.7
    assert report.measured_ms is None
    _, report = graphopt.prune(wide(), ratio=0.5, multiple=16, threads=1, measure=True)
    assert report.measured_ms.ratio < 0.9
    _, report = graphopt.prune(wide(), ratio=0.5, multiple=16, target="arm", measure=True, threads=1)
    assert report.measured_ms is None
    assert any("not measured" in note for note in report.notes)
    _, report = graphopt.prune(wide(), ratio=0.5, multiple=16, predict=False)
    assert report.predicted_ms is None


def test_what_is_compared_on_single_feeds():
    data = {"x": samples(1)["x"]}
    _, report = graphopt.prune(residual(), ratio=0.25, multiple=1, calibration=data)
    assert report.data == "1 feed of calibration data"


def test_without_a_proof():
    _, report = graphopt.prune(residual(), ratio=0.5, multiple=1, verify=False)
    assert report.reference is None
    assert report.outputs[0].error is None
    assert report.outputs[0].sqnr_db is not None


@pytest.mark.parametrize("absent", [("onnxruntime",), ("onnxruntime", "onnx")])
def test_other_references(monkeypatch, absent):
    whole = prune_proof.make_reference

    def make(model, kind):
        if kind in absent:
            raise UserError("not here")
        return whole(model, kind)

    monkeypatch.setattr(prune_proof, "make_reference", make)
    _, report = graphopt.prune(residual(), ratio=0.5, multiple=1, shapes=None)
    assert report.reference == ("onnx" if len(absent) == 1 else "graphopt")
    assert report.outputs[0].error <= report.outputs[0].allowed


def test_a_wrong_index_map_is_caught_and_named(monkeypatch):
    """A pruned graph in which the second convolution lost other input channels than the first lost."""
    graph = residual()
    before = state(graph)
    honest = pruning.apply_plan

    def shifted(plan):
        work = honest(plan)
        node = next(n for n in work.nodes if n.outputs[0].name == "c")
        node.inputs[1].data = np.roll(node.inputs[1].data, 1, 1)
        return work

    monkeypatch.setattr(pruning, "apply_plan", shifted)
    with pytest.raises(AccuracyError, match="same channels set to zero") as caught:
        graphopt.prune(graph, ratio=0.5, multiple=1)
    assert caught.value.code == "prune-differs"
    assert "(Conv)" in caught.value.node
    assert any("'c'" in note for note in caught.value.notes)
    assert_same(graph, before)


def test_the_proof_in_our_own_executor_names_the_node_too(monkeypatch):
    graph = residual()
    plan = select(find_groups(graph), {0: np.arange(32.0)}, ratio=0.5)
    pruned, other = pruning.apply_plan(plan), pruning.apply_plan(plan)
    weight = next(v for v in other.constants() if v.name == "w3")
    weight.data = weight.data[:, ::-1].copy()
    monkeypatch.setattr(prune_proof, "make_reference", lambda *_: (_ for _ in ()).throw(UserError("not here")))
    feed = {"x": rand(1, 3, 8, 8)}
    assert prune_proof.prove(plan, pruned, feed).reference == "graphopt"
    with pytest.raises(AccuracyError) as caught:
        prune_proof.prove(plan, other, feed)
    assert "(Gemm)" in caught.value.node


def test_a_masked_value_that_is_not_zero_is_caught(monkeypatch):
    graph = residual()
    whole = prune_proof.masked_graph

    def leaky(plan):
        work = whole(plan)
        for value in work.constants():
            if value.data is not None and value.data.shape == () and value.data.dtype == np.float32:
                value.data = np.float32(0.5).reshape(())
        return work

    monkeypatch.setattr(prune_proof, "masked_graph", leaky)
    with pytest.raises(AccuracyError):
        graphopt.prune(graph, ratio=0.5, multiple=1)


AMPLIFIED = """
a = Conv<pads=[1,1,1,1]>(x, w1)
r = Relu(a)
c = Conv<pads=[1,1,1,1]>(r, w2)
m = Mul(c, big)
y = Sin(m)
"""


def test_amplified_rounding_is_told_from_a_wrong_index(monkeypatch):
    """A sine of large numbers: the last bit of a sum decides, so two right computations give different outputs."""
    graph = graph_of(
        {"x": "float[1,16,12,12]"}, AMPLIFIED, w1=rand(256, 16, 3, 3), w2=rand(8, 256, 3, 3), big=np.float32(1e7)
    )  # fmt: skip
    _, report = graphopt.prune(graph, ratio=0.3, multiple=1, predict=False)
    assert report.outputs[0].error > report.outputs[0].allowed
    assert any("amplifies rounding" in note for note in report.notes)
    honest = pruning.apply_plan

    def shifted(plan):
        work = honest(plan)
        node = next(n for n in work.nodes if n.outputs[0].name == "c")
        node.inputs[1].data = np.roll(node.inputs[1].data, 1, 1)
        return work

    monkeypatch.setattr(pruning, "apply_plan", shifted)
    with pytest.raises(AccuracyError) as caught:
        graphopt.prune(graph, ratio=0.3, multiple=1, predict=False)
    assert caught.value.node.startswith("c")


def test_a_wrong_index_that_outputs_hide_is_caught(monkeypatch):
    """A softmax far in saturation gives the same whatever the scores are."""
    body = RESIDUAL.replace("y = Gemm", "g = Gemm") + "h = Mul(g, zero)\ny = Softmax(h)"
    graph = graph_of(
        {"x": "float[1,3,8,8]"}, body, w1=rand(32, 3, 3, 3), b1=rand(32), w2=rand(32, 32, 3, 3), b2=rand(32),
        w3=rand(10, 32), b3=rand(10), zero=np.float32(0),
    )  # fmt: skip
    plan = select(find_groups(graph), {0: np.arange(32.0)}, ratio=0.5)
    other = pruning.apply_plan(plan)
    weight = next(v for v in other.constants() if v.name == "w3")
    weight.data = weight.data[:, ::-1].copy()
    feed = {"x": rand(1, 3, 8, 8)}
    with pytest.raises(AccuracyError) as caught:
        prune_proof.prove(plan, other, feed)
    assert "(Gemm)" in caught.value.node
    monkeypatch.setattr(prune_proof, "MAX_BYTES", 1000)  # outputs alone don't tell, and the proof says what is missing
    assert "GiB" in prune_proof.prove(plan, other, feed).missing


def test_a_failing_surgery_leaves_the_graph_alone(monkeypatch):
    graph = residual()
    before = state(graph)
    from graphopt.passes.prune import apply

    def refuse(*_):
        raise CannotFollow("not today")

    monkeypatch.setattr(apply, "adjust_rule", lambda _node: refuse)
    with pytest.raises(graphopt.InternalError, match="not today"):
        graphopt.prune(graph, ratio=0.5, multiple=1)
    assert_same(graph, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing says how much"),
        ({"ratio": 0.5, "budget": "params=0.5x"}, "exclude each other"),
        ({"budget": "params=0.001x"}, "can't be met"),
        ({"budget": "params=1.5x"}, "asks for nothing"),
        ({"budget": "parms=0.5x"}, "did you mean 'params'"),
        ({"ratio": 0.5, "criterion": "activation"}, "needs calibration data"),
        ({"ratio": 0.5, "reconstruct": True}, "reconstruction needs calibration data"),
        ({"ratio": 0.5, "calibration": {"z": np.zeros((4, 3, 8, 8), np.float32)}}, "no input 'z'"),
        ({"ratio": 0.5, "calibration": "nowhere.npz"}, "nowhere.npz does not exist"),
        ({"ratio": 0.5, "calibration": []}, "no calibration samples"),
        ({"ratio": 0.0}, "above 0 and below 1"),
        ({"ratio": 1.0}, "above 0 and below 1"),
        ({"ratio": -0.5}, "above 0 and below 1"),
        ({"ratio": math.nan}, "above 0 and below 1"),
        ({"ratio": 0.5, "criterion": "l3"}, "criterion called 'l3'"),
        ({"ratio": 0.5, "ranking": "globl"}, "did you mean 'global'"),
        ({"ratio": 0.5, "exclude": ["nosuch*"]}, "nosuch"),
        ({"ratio": 0.5, "ratios": {"aa": 0.3}}, "aa"),
        ({"ratio": 0.5, "ratios": {"a": 1.5}}, "below 1"),
        ({"ratio": 0.5, "exclude": ["*"]}, "excluded"),
        ({"ratio": 0.5, "multiple": 0}, "multiple"),
        ({"ratio": 0.05, "multiple": 32}, "no group loses a channel"),
    ],
)
def test_bad_requests(options, message):
    graph = residual()
    before = state(graph)
    with pytest.raises(UserError) as caught:
        graphopt.prune(graph, **options)
    assert message in str(caught.value)
    assert_same(graph, before)


def test_unknown_target():
    with pytest.raises(TargetError):
        graphopt.prune(residual(), ratio=0.5, target="x68")


def test_a_graph_with_nothing_to_remove_says_why():
    graph = graph_of({"x": "float[1,3,8,8]"}, "y = Conv<pads=[1,1,1,1]>(x, w)", w=rand(8, 3, 3, 3))
    with pytest.raises(UserError) as caught:
        graphopt.prune(graph, ratio=0.5)
    assert caught.value.code == "nothing-to-prune"
    assert any("output 'y'" in note for note in caught.value.notes)


def test_masked_and_pruned_agree_value_by_value():
    """The oracle itself: values of the pruned graph are those of the masked one at the channels that stay."""
    graph = residual()
    plan = select(find_groups(graph), {0: rand(32).astype(np.float64)}, ratio=0.5)
    masked, feed = masked_graph(plan), {"x": rand(1, 3, 8, 8)}
    kind, (a, b) = prune_proof.run_all([pruning.apply_plan(plan), masked], feed)
    assert kind == "onnxruntime"
    np.testing.assert_allclose(a["y"], b["y"], rtol=1e-4, atol=1e-4)
