"""The same model on the same inputs and threads gives the same bits: run after run, and compiled again."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt.models import zoo


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "name", ["digits", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ppocr_cls", "squeezenet"))]
)
def test_same_bits(name: str, threads: int) -> None:
    model = zoo.get(name)
    feed = dict(model.inputs(3))
    shapes = {k: v.shape for k, v in feed.items()}
    first, again = (graphopt.compile(str(model.path()), "native", threads=threads, shapes=shapes) for _ in range(2))
    want = first.run(feed)
    assert all(np.ptp(array) > 0 for array in want.values())
    for compiled in (first, first, first, again):
        for key, array in compiled.run(feed).items():
            np.testing.assert_array_equal(array, want[key])
