"""The comparer must reject wrong results; otherwise no differential test means anything."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.evaluate import difference
from tests.support.onnx_graphs import rand
from tests.support.tolerance import assert_close, bound

WANT = rand(4, 5)


def _nan(x):
    y = x.copy()
    y[1, 2] = np.nan
    return y


WRONG = {
    "doubled": lambda x: x * 2,
    "halved": lambda x: x / 2,
    "swapped": lambda x: x[::-1].copy(),
    "one NaN": _nan,
    "infinite": lambda x: x + np.float32(np.inf),
    "negated": lambda x: -x,
    "shifted": lambda x: x + np.float32(1e-3),
    "other shape": lambda x: x.reshape(5, 4),
    "other dtype": lambda x: x.astype(np.float64),
    "zeros": np.zeros_like,
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_results_are_rejected(name):
    with pytest.raises(AssertionError):
        assert_close(WRONG[name](WANT), WANT, reduction=1024)
    assert difference(WANT, WRONG[name](WANT), 1e-4) is not None


def test_rounding_is_accepted():
    assert_close(WANT * np.float32(1 + 2e-7), WANT)
    assert difference(WANT, WANT * np.float32(1 + 2e-7), 1e-4) is None


def test_nan_in_the_same_place_is_accepted():
    assert_close(_nan(WANT), _nan(WANT))


def test_integers_are_compared_exactly():
    with pytest.raises(AssertionError):
        assert_close(np.array([1, 2]), np.array([1, 3]))


def test_bound_grows_with_reduction_and_coarseness():
    assert bound(np.float32, 1) < bound(np.float32, 4096) < 1e-4
    assert bound(np.float32) < bound(np.float16)
