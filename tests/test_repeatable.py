"""The cases that Hypothesis draws, and random numbers, depend neither on chance nor on what the same process did before."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

RNG = np.random.default_rng(5)
DRAW = """
import tests.conftest
{}
from hypothesis import given, settings, strategies as st

drawn = []

@settings(max_examples=500)
@given(st.one_of(st.integers(), st.floats(), st.text()))
def draw(value):
    drawn.append(repr(value))

draw()
print(drawn)
"""


def drawn(before: str) -> str:
    """The cases of a test before which something else was done."""
    command = [sys.executable, "-c", DRAW.format(before)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("before", ["", "import graphopt.driver.compiling"])
def test_the_same_cases(before: str) -> None:
    assert drawn(before) == drawn("")


@pytest.fixture(scope="module")
def shared() -> float:
    """Drawn once, for the first test that asks."""
    return float(RNG.random())


@pytest.mark.parametrize("again", range(3))
def test_the_same_numbers(shared: float, again: int) -> None:
    first = np.random.default_rng(5).random()
    assert RNG.random() == first == shared
