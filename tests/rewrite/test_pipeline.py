"""Pass text, pipelines, instruments, and what happens when a pass fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from graphopt.errors import InternalError, UserError
from graphopt.ir.printer import format_graph
from graphopt.passes.catalogue import known_passes, list_passes, parse_pass
from graphopt.passes.fold.constants import FoldConstants
from graphopt.passes.pipelines import level_pipeline
from graphopt.rewrite.instruments import Instrument, VerifyEach
from graphopt.rewrite.passes import Pass
from graphopt.rewrite.pipeline import Phase, Pipeline
from tests.support.onnx_graphs import graph_of

X = {"x": "float[2,3]"}


def test_pass_text_round_trips():
    for name, cls in known_passes().items():
        assert parse_pass(name) == cls()
        assert parse_pass(name).spec() == name
    p = parse_pass("fold_constants{ max-elements = 12 }")
    assert p == FoldConstants(max_elements=12)
    assert p.spec() == "fold-constants{max-elements=12}"
    assert parse_pass(p.spec()) == p


def test_every_pass_is_described():
    infos = list_passes()
    assert all(i.description.endswith((".", "...")) for i in infos), [i.name for i in infos]
    assert [i.name for i in infos] == sorted(i.name for i in infos)


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("fold-constant", "unknown-pass", "fold-constants"),
        ("fold-constants{max-element=3}", "unknown-option", "max-elements"),
        ("fold-constants{max-elements=many}", "bad-option", ""),
        ("fold-constants{max-elements=1,max-elements=2}", "bad-option", ""),
        ("cse{a=1}", "unknown-option", "takes no options"),
        ("a b", "bad-pass", "name{option=value"),
    ],
)
def test_bad_pass_text(text, code, hint):
    with pytest.raises(UserError) as e:
        parse_pass(text)
    assert e.value.code == code
    assert hint in (e.value.hint or "")


@dataclass(frozen=True)
class Crash(Pass):
    """Crashes after a change."""

    name: ClassVar[str] = "crash"

    def run(self, graph, ctx):
        ctx.editor(graph).erase(graph.nodes[-1]) if not graph.nodes[-1].out.escapes else None
        graph.nodes[0].attrs["alpha"] = 7.0
        raise KeyError("oops")


@dataclass(frozen=True)
class Break(Pass):
    """Puts nodes out of order."""

    name: ClassVar[str] = "break"

    def run(self, graph, ctx):
        graph.nodes.reverse()
        graph.version += 1


G = (X, "a = Elu<alpha=2.0>(x)\ny = Exp(a)")


def test_a_crash_names_the_pass_and_leaves_the_input_alone():
    g = graph_of(*G)
    before = format_graph(g)
    with pytest.raises(InternalError, match=r"crash(.|\n)*of phase 'custom'") as e:
        Pipeline.of([Crash()]).run(g)
    assert isinstance(e.value.__cause__, KeyError)
    assert format_graph(g) == before


class Record(Instrument):
    """Which passes ran in which phases, and whether they changed something."""

    def __init__(self):
        self.runs = []

    def after(self, p, phase, graph, changed):
        self.runs.append((phase, p.name, changed))


def test_verification_names_the_pass():
    with pytest.raises(InternalError, match="in pass break"):
        Pipeline.of([Break()]).run(graph_of(*G), instruments=[VerifyEach()])


def test_change_is_measured_and_phases_settle():
    seen = Record()
    g = graph_of(X, "a = Identity(x)\nb = Identity(a)\ny = Exp(b)")
    pipeline = Pipeline((Phase("p", (parse_pass("remove-no-ops"), parse_pass("cse")), 5),))
    assert len(pipeline.run(g, instruments=[seen]).nodes) == 1
    assert seen.runs == [
        ("p", "remove-no-ops", True), ("p", "cse", False), ("p", "remove-no-ops", False), ("p", "cse", False),
    ]  # fmt: skip


def test_a_phase_is_cleaned_up_after_rounds_that_changed_something():
    seen = Record()
    g = graph_of(X, "a = Identity(x)\ny = Exp(a)")
    clean_up = (Phase("after", (parse_pass("cse"),)),)
    phase = Phase("p", (parse_pass("remove-no-ops"), parse_pass("dead-code")), 5, clean_up)
    Pipeline((phase,)).run(g, instruments=[seen])
    assert [run[:2] for run in seen.runs] == [
        ("p", "remove-no-ops"), ("p", "dead-code"), ("after", "cse"), ("p", "remove-no-ops"), ("p", "dead-code"),
    ]  # fmt: skip
    assert Pipeline((phase,)).pass_names == ("remove-no-ops", "dead-code", "cse")
    assert Pipeline((phase,)).without(["cse", "dead-code"]).pass_names == ("remove-no-ops",)


def test_levels():
    assert level_pipeline(0).phases == ()
    assert set(level_pipeline(1).pass_names) < set(level_pipeline(2).pass_names) < set(level_pipeline(3).pass_names)
    assert "cse" not in level_pipeline(2).without(["cse"]).pass_names
    with pytest.raises(UserError, match="no optimisation level 7"):
        level_pipeline(7)
