"""Pairs of operators in one kernel: a tenth in the slow tests, fewer always."""

from __future__ import annotations

import pytest

from tests.pairs.operators import TYPES, element_wise, forms
from tests.pairs.run import all_stars, check
from tests.pairs.stars import anchored

SHARE = 10
"""The slow tests check every tenth kernel; ``python -m tests.pairs.run`` checks all of them."""


def test_every_element_wise_operator_has_a_form() -> None:
    have = {form.op for source in TYPES for form in forms(source)}
    assert have == set(element_wise())


def test_a_sample_of_pairs() -> None:
    chosen = all_stars(["bool", "int8", "int64", "uint32"])[::40] + anchored()[:1]
    wrong = check(chosen)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("source", TYPES)
def test_pairs_of_a_type(source: str) -> None:
    wrong = check(all_stars([source])[::SHARE])
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_pairs_behind_anchors() -> None:
    wrong = check(anchored()[::SHARE])
    assert not wrong, "\n".join(wrong)
