"""On random networks, prune-then-run equals mask-then-run, whatever the groups turn out to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.errors import UserError
from graphopt.passes.prune.groups import find_groups
from tests.support.pruning import check_plan, plans
from tests.support.random_networks import Network

SETTINGS = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@SETTINGS
@given(st.data(), st.integers(3, 14), st.booleans())
def test_pruned_equals_masked(data: st.DataObject, steps: int, symbolic: bool) -> None:
    def choose(options: Sequence[Any]) -> Any:
        return options[data.draw(st.integers(0, len(options) - 1))]

    network = Network(choose, symbolic=symbolic)
    for _ in range(steps):
        network.grow()
    groups = find_groups(network.finish())
    for plan in list(plans(groups, steps))[:3]:
        try:
            check_plan(plan, reduction=256, depth=steps + 4)
        except UserError as e:
            if e.code != "nothing-left":  # where rows and columns meet, see test_apply
                raise
