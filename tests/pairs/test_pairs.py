"""Pairs of operators in one kernel: a share of them in the slow tests, fewer always."""

from __future__ import annotations

import pytest

from tests.pairs.operators import TYPES, element_wise, forms
from tests.pairs.run import anchor_batches, check, element_wise_batches

SHARE = {source: 6 if source == "bfloat16" else 3 for source in TYPES}
"""The slow tests check every third kernel, or model of anchors, of each type, beginning with the first of one type, the second
of the next and the third of the one after, so that what one type leaves out others have; ``python -m tests.pairs.run`` checks
all of them. Fewer of bfloat16: float16 has the same kernels."""


def test_every_element_wise_operator_has_a_form() -> None:
    have = {form.op for source in TYPES for form in forms(source)}
    assert have == set(element_wise())


def test_a_sample_of_pairs() -> None:
    wrong = check(element_wise_batches(["bool", "int8", "int64", "uint32"], 40) + anchor_batches(["float32"])[3:4])
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("source", TYPES)
def test_pairs_of_a_type(source: str) -> None:
    wrong = check(element_wise_batches([source], SHARE[source], TYPES.index(source) % SHARE[source]))
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("source", TYPES)
def test_pairs_behind_anchors(source: str) -> None:
    wrong = check(anchor_batches([source], SHARE[source], TYPES.index(source) % SHARE[source]))
    assert not wrong, "\n".join(wrong)
