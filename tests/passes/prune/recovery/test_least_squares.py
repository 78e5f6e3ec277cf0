"""Ridge regression from moments against ``numpy.linalg.lstsq`` on the rows themselves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from graphopt.passes.prune.calibration.moments import Moments
from graphopt.passes.prune.recovery.least_squares import Affine, shifted, solve, spread, squared_error

F32 = npt.NDArray[np.float32]


def rows(groups: int = 2, n: int = 200, ins: int = 7, outs: int = 3, seed: int = 0) -> tuple[F32, F32, Affine]:
    """Correlated rows with a mean, results with noise, and weights to start from."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((groups, n, ins)) @ rng.standard_normal((groups, ins, ins)) + rng.standard_normal(ins) * 3
    y = x @ rng.standard_normal((groups, ins, outs)) + rng.standard_normal((groups, n, outs)) + 5
    prior = Affine(rng.standard_normal((groups, outs, ins)), rng.standard_normal((groups, outs)))
    return x.astype(np.float32), y.astype(np.float32), prior


def moments(x: F32, y: F32) -> Moments:
    found = Moments(len(x), x.shape[2], y.shape[2])
    for start in range(0, x.shape[1], 37):
        found.add(x[:, start : start + 37], y[:, start : start + 37])
    return found


def ridge_by_rows(x: F32, y: F32, prior: Affine, ridge: float, intercept: bool) -> Affine:
    """The same minimum by stacking a row for every penalised weight."""
    weights, offsets = [], []
    for a, b, w0, b0 in zip(x.astype(np.float64), y.astype(np.float64), prior.weight, prior.offset):
        n, ins = a.shape
        energy = (np.var(a, 0) if intercept else np.square(a).mean(0)).mean()
        penalty = np.sqrt(n * ridge * energy) * np.eye(ins)
        if intercept:
            left = np.block([[a, np.ones((n, 1))], [penalty, np.zeros((ins, 1))]])
            found = np.linalg.lstsq(left, np.concatenate([b, penalty @ w0.T]), rcond=None)[0]
            weights.append(found[:-1].T)
            offsets.append(found[-1])
        else:
            found = np.linalg.lstsq(np.concatenate([a, penalty]), np.concatenate([b - b0, penalty @ w0.T]), rcond=None)[
                0
            ]
            weights.append(found.T)
            offsets.append(b0)
    return Affine(np.asarray(weights), np.asarray(offsets))


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("ridge", [1e-12, 1e-3, 1.0])
@pytest.mark.parametrize("n", [200, 5])
def test_minimum(intercept: bool, ridge: float, n: int) -> None:
    if n == 5 and ridge < 1e-6:
        pytest.skip("the minimum is not settled by the data in float32")
    x, y, prior = rows(n=n)
    got, want = solve(moments(x, y), prior, ridge, intercept), ridge_by_rows(x, y, prior, ridge, intercept)
    np.testing.assert_allclose(got.weight, want.weight, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(got.offset, want.offset, rtol=1e-3, atol=2e-2)


def test_error_is_that_of_the_rows() -> None:
    x, y, layer = rows()
    want = np.square(y - (np.matmul(x, layer.weight.transpose(0, 2, 1)) + layer.offset[:, None])).mean(1)
    np.testing.assert_allclose(squared_error(moments(x, y), layer), want, rtol=1e-4)
    np.testing.assert_allclose(spread(moments(x, y)), y.astype(np.float64).var(1), rtol=1e-4)


def test_shift_gives_results_their_mean() -> None:
    x, y, prior = rows()
    layer = shifted(moments(x, y), prior)
    assert layer.weight is prior.weight
    got = np.matmul(x, layer.weight.transpose(0, 2, 1)) + layer.offset[:, None]
    np.testing.assert_allclose(got.mean(1), y.mean(1), rtol=1e-4, atol=1e-4)


def test_directions_without_data_stay() -> None:
    x, y, prior = rows(ins=6)
    x[:, :, 4] = 0
    x[:, :, 5] = x[:, :, 0]
    got = solve(moments(x, y), prior, 1e-6)
    np.testing.assert_allclose(got.weight[:, :, 4], prior.weight[:, :, 4], atol=1e-6)
    drift = (got.weight - prior.weight)[:, :, 5] - (got.weight - prior.weight)[:, :, 0]
    assert np.abs(drift).max() < 0.02  # equal columns share the change


def test_all_zero_rows_change_nothing() -> None:
    x, y, prior = rows()
    got = solve(moments(np.zeros_like(x), y), prior, 1e-3)
    np.testing.assert_allclose(got.weight, prior.weight)
    np.testing.assert_allclose(got.offset, y.mean(1), rtol=1e-5)


def test_moments_add_up() -> None:
    x, y, layer = rows()
    both = moments(x[:, :50], y[:, :50]) + moments(x[:, 50:], y[:, 50:])
    assert both.count == 200
    np.testing.assert_allclose(squared_error(both, layer), squared_error(moments(x, y), layer), rtol=1e-5)
