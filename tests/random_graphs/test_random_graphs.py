"""Random graphs, compiled and compared with ONNX Runtime; ``python -m tests.random_graphs`` runs any number of them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.random_graphs.case import Case, draw
from tests.random_graphs.check import FAILURES, LEVELS, check
from tests.random_graphs.judge import judge
from tests.random_graphs.pool import run_all

TOGETHER = 15
"""Graphs in one model: calls, parameters and constants of one don't concern the others."""
PLANS = (LEVELS, (0,), (2, 3))
"""Levels of one group of graphs after another: two of three at each level, and some at all."""


def test_a_few_graphs_at_the_default_level() -> None:
    outcomes = check([draw(seed) for seed in range(6)], 2)
    assert not [o for o in outcomes if o.kind in FAILURES]
    assert sum(o.kind == "equal" for o in outcomes) >= 3


def test_the_passes_on_many_graphs() -> None:
    outcomes = run_all([(tuple(range(start, start + 10)), 3) for start in range(100, 160, 10)], "passes", timeout=30)
    assert not [o for o in outcomes if o.kind in FAILURES]


@pytest.mark.slow
def test_many_graphs() -> None:
    groups = [tuple(range(start, start + TOGETHER)) for start in range(1000, 1150, TOGETHER)]
    requests = [(group, level) for index, group in enumerate(groups) for level in PLANS[index % len(PLANS)]]
    outcomes = run_all(requests, "compile")
    assert {outcome.seed for outcome in outcomes} == set(range(1000, 1150))
    assert not [o for o in outcomes if o.kind in FAILURES]


def _first_with_floats() -> tuple[Case, str]:
    for seed in range(50):
        case = draw(seed)
        for name in case.outputs:
            array = case.expected[0][name]
            if array.dtype == np.float32 and array.size > 3 and np.isfinite(array).all() and np.abs(array).max() > 0.1:
                return case, name
    raise AssertionError("no graph has a result of floats")


@pytest.mark.parametrize("by", [1e-2, np.nan])
def test_a_wrong_element_is_found(by: float) -> None:
    """The proof in float64 lets nothing through that rounding can't explain."""
    case, name = _first_with_floats()
    got = {n: case.expected[0][n].copy() for n in case.outputs}
    assert {v.kind for v in judge(case, 0, got)} <= {"equal"}
    place = int(np.abs(got[name]).argmax())
    got[name].flat[place] += by * np.abs(got[name]).max()
    assert [v.name for v in judge(case, 0, got) if v.kind == "wrong"] == [name]


def test_the_same_seed_draws_the_same_graph() -> None:
    assert draw(7).model().SerializeToString() == draw(7).model().SerializeToString()
