"""The pass prune-channels: alone, in a pipeline, and what it says."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt.errors import UserError
from graphopt.ir.graph import Graph
from graphopt.ir.printer import format_graph
from graphopt.passes.catalogue import parse_pass
from graphopt.passes.prune import apply
from graphopt.passes.prune.channels import PruneChannels
from graphopt.passes.prune.choice.ranking import select
from graphopt.passes.prune.groups import find_groups
from graphopt.passes.prune.importance import CRITERIA
from graphopt.passes.prune.mask import masked_graph
from graphopt.rewrite.remarks import Remarks
from tests.support.evaluate import random_inputs
from tests.support.onnx_graphs import graph_of, ops, rand
from tests.support.ort import run_ort

BODY = (
    "[one] a = Conv<pads=[1,1,1,1]>(x, w)\nn = BatchNormalization(a, s, t, m, v)\nr = Relu(n)\n"
    "[two] b = Conv(r, k)\n[skip] c = Conv(x, e)\nz = Add(b, c)\n[last] y = Conv(z, u)"
)


def net() -> Graph:
    norm = {"s": rand(8), "t": rand(8, seed=1), "m": rand(8, seed=2), "v": rand(8, seed=3, positive=True)}
    weights = {"w": rand(8, 3, 3, 3), "k": rand(6, 8, 1, 1), "e": rand(6, 3, 1, 1), "u": rand(4, 6, 1, 1)}
    return graph_of({"x": "float[2,3,6,6]"}, BODY, **weights, **norm)


def widths(graph: Graph) -> dict[str, int]:
    return {n.name: int(str(n.out.shape[1])) for n in graph.nodes if n.op == "Conv"}


@pytest.mark.parametrize("criterion", [name for name, c in CRITERIA.items() if not c.needs_data])
@pytest.mark.parametrize("ranking", ["local", "global", "isomorphic"])
def test_pruned_computes_what_the_masked_original_does(criterion: str, ranking: str) -> None:
    graph = net()
    before = format_graph(graph)
    text = f"prune-channels{{ratio=0.5,criterion={criterion},ranking={ranking},seed=3}}"
    pruned = graphopt.optimize(graph, passes=[text], verify_each=True)
    assert format_graph(graph) == before
    groups = find_groups(graph)
    judge = CRITERIA[criterion]
    scores = judge.score(groups, None, 3)
    plan = select(groups, scores, ratio=0.5, ranking=ranking, normalise=not judge.comparable)
    assert sum(g.size - plan.kept(g) for g in groups.groups) == 7
    feeds = random_inputs(graph)
    (got,), (want,) = (run_ort(graphopt.export_onnx(g), feeds) for g in (pruned, masked_graph(plan)))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_scores_that_share_a_scale_are_compared_as_they_are() -> None:
    """LAMP's, other than norms, mean the same in groups of any size."""
    body = "[wide] a = Conv(x, w)\nr = Relu(a)\n[thin] b = Conv(r, k)\ny = Conv(b, u)"
    weights = {"w": rand(32, 3, 1, 1), "k": rand(5, 32, 1, 1), "u": rand(2, 5, 1, 1)}
    graph = graph_of({"x": "float[2,3,6,6]"}, body, **weights)
    groups = find_groups(graph)
    scores = CRITERIA["lamp"].score(groups)
    ratios = (0.2, 0.35, 0.5, 0.65, 0.8)
    plans = {
        (r, n): [p.kept(g) for g in groups.groups]
        for r in ratios
        for n in (False, True)
        for p in [select(groups, scores, ratio=r, ranking="global", normalise=n)]
    }
    telling = [r for r in ratios if plans[r, False] != plans[r, True]]
    assert telling
    for r in telling:
        pruned = graphopt.optimize(graph, passes=[f"prune-channels{{ratio={r},criterion=lamp,ranking=global}}"])
        assert [widths(pruned)[g.name] for g in groups.groups] == plans[r, False]


def test_options_and_spec() -> None:
    p = parse_pass("prune-channels{ratio=0.25,criterion=fpgm,ranking=global,multiple=8,exclude=[a,b*],seed=7}")
    assert p == PruneChannels(0.25, "fpgm", "global", 8, ("a", "b*"), 7)
    assert parse_pass(p.spec()) == p
    assert PruneChannels().spec() == "prune-channels"
    with pytest.raises(UserError, match="ranking"):
        parse_pass("prune-channels{ranking=globl}")


def test_exclusion_and_multiple() -> None:
    assert widths(graphopt.optimize(net(), passes=["prune-channels"])) == {"one": 4, "two": 3, "skip": 3, "last": 4}
    kept = graphopt.optimize(net(), passes=["prune-channels{exclude=[skip]}"])
    assert widths(kept) == {"one": 4, "two": 6, "skip": 6, "last": 4}
    rounded = graphopt.optimize(net(), passes=["prune-channels{ratio=0.2,multiple=4}"])
    assert widths(rounded) == {"one": 6, "two": 4, "skip": 4, "last": 4}


def test_in_one_pipeline_with_a_level() -> None:
    """Pruned and then optimised is what optimising the pruned graph gives."""
    graph = net()
    both = graphopt.optimize(graph, passes=["prune-channels{ratio=0.5}", "O2"], verify_each=True)
    apart = graphopt.optimize(graphopt.optimize(graph, passes=["prune-channels{ratio=0.5}"]))
    assert format_graph(both) == format_graph(apart)
    assert "BatchNormalization" not in ops(both)
    assert sorted(widths(both).values()) == [3, 3, 4, 4]


def test_compiled_in_one_pipeline() -> None:
    graph = net()
    feeds = random_inputs(graph)
    compiled = graphopt.compile(graph, passes=["prune-channels{ratio=0.5}", "O2"])
    got = compiled.run(feeds)
    (want,) = run_ort(graphopt.export_onnx(graphopt.optimize(graph, passes=["prune-channels{ratio=0.5}"])), feeds)
    np.testing.assert_allclose(got["y"] if isinstance(got, dict) else got[0], want, rtol=1e-4, atol=1e-4)


def test_remarks_say_what_went_and_what_stays_and_why() -> None:
    remarks = Remarks()
    graphopt.optimize(net(), passes=["prune-channels{criterion=bn-scale,exclude=[two]}"], remarks=remarks)
    applied = {r.node: r.text for r in remarks if r.applied}
    refused = [(r.node, r.text) for r in remarks.refusals()]
    assert applied == {"one (Conv)": "4 of 8 channels of group one are left"}
    assert ("two (Conv)", "group two keeps its 6 channels") in refused
    assert any(node == "two (Conv)" and "L2 norm" in text for node, text in refused)
    assert any(node == "last (Conv)" and "output 'y'" in text for node, text in refused)


@pytest.mark.parametrize("criterion", [name for name, c in CRITERIA.items() if c.needs_data])
def test_criteria_that_need_data_are_referred_to_the_verb(criterion: str) -> None:
    with pytest.raises(UserError, match=criterion) as caught:
        graphopt.optimize(net(), passes=[f"prune-channels{{criterion={criterion}}}"])
    assert "graphopt prune" in str(caught.value.hint)


@pytest.mark.parametrize(
    "text", ["prune-channels{ratio=1.5}", "prune-channels{exclude=[tow]}", "prune-channels{criterion=l3}"]
)
def test_refusals_name_the_pass_and_leave_the_graph(text: str) -> None:
    graph = net()
    before = format_graph(graph)
    with pytest.raises(UserError) as caught:
        graphopt.optimize(graph, passes=[text])
    assert caught.value.hint
    assert any("prune-channels" in note for note in caught.value.notes)
    assert format_graph(graph) == before


def test_a_failure_half_way_leaves_the_graph_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = net()
    before = format_graph(graph)

    def fail(*_: object) -> None:
        raise RuntimeError("half way")

    monkeypatch.setattr(apply, "_slice_constants", fail)
    with pytest.raises(graphopt.GraphOptError, match="half way"):
        graphopt.optimize(graph, passes=["prune-channels"])
    assert format_graph(graph) == before
