"""What each layer costs, and leaving the worst ones in float until results are as good as asked; ONNX Runtime is the judge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.driver.optimizing import export_onnx
from graphopt.driver.quantize.sensitivity import by_sensitivity, sensitivities
from graphopt.errors import UserError
from graphopt.ir.graph import Graph
from tests.support.onnx_graphs import graph_of, ops, rand
from tests.support.ort import run_ort
from tests.support.precision import sqnr_db

DATA = {"x": rand(40, 8)}


def net() -> Graph:
    """Five products of matrices and one of elements. One entry that ``c`` reads is far larger than the rest and counts nothing."""
    w = rand(12, 12, seed=1) / 3
    w[0] = 0
    big = np.ones(12, np.float32)
    big[0] = 300
    graph = graph_of(
        {"x": "float[N,8]"},
        "a = Gemm(x, u, e)\nr = Relu(a)\nb = MatMul(r, v)\nc = MatMul(b, w)\nd = MatMul(r, z)\ns = Mul(c, d)\ny = MatMul(s, t)",
        u=rand(8, 12), e=rand(12), v=rand(12, 12) * big, w=w, z=rand(12, 12, seed=2), t=rand(12, 4),
    )  # fmt: skip
    for node in graph.nodes:
        node.name = node.out.name
    return graph


def judged(graph: Graph) -> float:
    got, want = (run_ort(export_onnx(g), DATA)[0] for g in (graph, net()))
    return sqnr_db(got, want)


@pytest.fixture(scope="module")
def plain() -> Any:
    return graphopt.quantize(net(), DATA, sensitivity=True, threads=1)


def test_the_cost_of_each_layer_alone(plain: Any) -> None:
    graph, report = plain
    rows = {row.node: row for row in report.layers if row.alone_db is not None}
    assert set(rows) == {"a", "b", "c", "d", "s", "y"}
    assert min(rows, key=lambda name: rows[name].alone_db) == "c"
    for name, row in rows.items():
        if name == "s":
            continue  # it isn't quantized by itself
        single, _ = graphopt.quantize(net(), table=report.table, include=[name], compare=False)
        if row.alone_with:
            assert judged(single) > row.alone_db - 0.1
        else:
            assert abs(judged(single) - row.alone_db) < 0.1, name
    assert report.goal is None
    assert abs(report.outputs[0].sqnr_db - judged(graph)) < 0.1
    assert "alone" in str(report)


def test_the_worst_layer_goes_back_until_the_goal_holds(plain: Any) -> None:
    least = judged(plain[0])
    assert least < 25, "the model needs it"
    found, report = graphopt.quantize(net(), DATA, min_sqnr=30, threads=1)
    assert judged(found) >= 30
    kept = {row.node: row for row in report.layers if row.why == "accuracy"}
    assert set(kept) == {"c"}
    assert "number 1 of 6" in kept["c"].reason
    assert (report.goal.in_float, report.goal.wide, report.goal.layers) == (1, 0, 6)
    again, _ = graphopt.quantize(net(), DATA, min_sqnr=30, threads=1)
    assert export_onnx(again) == export_onnx(found), "the same each time"
    easy, report = graphopt.quantize(net(), DATA, min_sqnr=least - 1, threads=1)
    assert export_onnx(easy).graph.node == export_onnx(plain[0]).graph.node
    assert report.goal.in_float == 0
    assert "every layer in integers" in str(report)


def test_data_in_16_bits_is_enough_for_a_wide_range() -> None:
    found, report = graphopt.quantize(net(), DATA, min_sqnr=30, fall_back="16", threads=1)
    assert judged(found) >= 30
    assert (report.goal.in_float, report.goal.wide) == (0, 1)
    (row,) = [row for row in report.layers if "16 bits" in row.reason]
    assert (row.node, row.stored, row.why) == ("c", "u16 x i8 weights (12 scales)", "")
    assert export_onnx(found).opset_import[0].version >= 21
    found, report = graphopt.quantize(net(), DATA, min_sqnr=60, fall_back="16", threads=1)
    assert judged(found) >= 60, "8-bit weights don't reach that"
    assert report.goal.in_float > 0


def test_everything_in_float_is_said() -> None:
    found, report = graphopt.quantize(net(), DATA, min_sqnr=500, threads=1)
    assert "QuantizeLinear" not in ops(found)
    assert "what is asked holds only with everything in float" in report.notes


def largest(outputs: Sequence[Mapping[str, Any]], feeds: Sequence[Mapping[str, Any]]) -> float:
    """The part of the samples whose largest result is where it is in float."""
    want = run_ort(export_onnx(net()), {"x": np.concatenate([feed["x"] for feed in feeds])})[0]
    return float((np.concatenate([out["y"] for out in outputs]).argmax(1) == want.argmax(1)).mean())


def test_a_metric_may_drop_by_as_much_as_it_is_said() -> None:
    given = {"x": rand(300, 8, seed=5)}
    loose, before = graphopt.quantize(net(), DATA, metric=largest, evaluation=given, threads=1)
    assert before.goal.before == 1
    assert before.goal.after < 0.97, "the model needs it"
    assert before.data == "38 feeds of the evaluation data"
    found, report = graphopt.quantize(net(), DATA, metric=largest, max_drop=0.03, evaluation=given, threads=1)
    got, want = (run_ort(export_onnx(g), given)[0].argmax(1) for g in (found, net()))
    assert (got == want).mean() == report.goal.after
    assert 0.97 <= report.goal.after < 1
    assert 1 <= report.goal.in_float < 6
    assert "largest at most 0.03 below float's 1" in report.goal.asked
    assert export_onnx(loose) != export_onnx(found)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_drop": 0.1}, "--min-sqnr"),
        ({"max_drop": -1, "metric": largest}, "drop by at most -1"),
        ({"min_sqnr": math.nan}, "nan dB"),
        ({"min_sqnr": 30, "fall_back": "32"}, "'32'"),
        ({"metric": lambda outputs, feeds: math.nan}, "is NaN"),
        ({"metric": lambda outputs, feeds: outputs[0]["z"]}, "failed with KeyError"),
        ({"metric": lambda outputs, feeds: "good"}, "failed with ValueError"),
        ({"min_sqnr": 30, "evaluation": {"z": rand(2, 8)}}, "'z'"),
    ],
)
def test_what_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        graphopt.quantize(net(), DATA, threads=1, **options)
    assert words in f"{caught.value} {caught.value.hint}"


def test_a_goal_needs_data(plain: Any) -> None:
    with pytest.raises(UserError, match="without data"):
        graphopt.quantize(net(), table=plain[1].table, min_sqnr=30)
    _, report = graphopt.quantize(net(), table=plain[1].table, min_sqnr=30, evaluation=DATA, threads=1)
    assert report.goal.in_float == 1


def test_what_can_not_be_reached_is_said() -> None:
    seen: list[float] = []

    def falling(outputs: Any, feeds: Any) -> float:
        seen.append(-float(len(seen)))
        return seen[-1]

    with pytest.raises(UserError, match=r"can't be reached: with all 6 layers in float it is inf dB, falling -"):
        graphopt.quantize(net(), DATA, metric=falling, max_drop=0.5, threads=1)


class Noisy:
    """Stands for a model whose layers add noise of their own to one result."""

    def __init__(self, noise: Mapping[str, float]) -> None:
        self.noise, self.runs = noise, 0

    @property
    def layers(self) -> list[str]:
        return list(self.noise)

    def outputs(self, forms: Mapping[str, int]) -> Any:
        self.runs += 1
        return [{"y": np.asarray([1.0, *(self.noise[name] if name in forms else 0.0 for name in self.noise)])}]


def test_few_runs_find_the_few_layers_that_cost_much() -> None:
    noise = dict.fromkeys([f"l{i}" for i in range(128)], 1e-4) | {"l17": 0.5, "l90": 0.25}
    model = Noisy(noise)
    found = sensitivities(model, model.outputs({}))  # type: ignore[arg-type]
    assert by_sensitivity(found)[:2] == ["l17", "l90"]
    assert math.isclose(found["l17"].noise, 0.25)
    assert found["l17"].together == 1
    assert found["l0"].together > 1
    assert math.isclose(found["l0"].share, 1e-8)
    assert model.runs < 32
    assert list(found) == list(noise), "in order"


def test_noise_that_is_not_finite_comes_first() -> None:
    model = Noisy({"a": 0.1, "b": math.inf, "c": 0.2})
    found = sensitivities(model, model.outputs({}))  # type: ignore[arg-type]
    assert by_sensitivity(found) == ["b", "c", "a"]
    assert found["b"].sqnr_db == -math.inf
