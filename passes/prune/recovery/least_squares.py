"""Ridge regression out of moments: weights near the ones that a layer has, with which its results come out as they should.

The penalty pulls towards the layer's own weights, not towards zero: directions that the data says nothing about stay as
they were, so few samples and dead inputs do no harm. (Channel pruning by least squares: He, Zhang, Sun, ICCV 2017,
arXiv:1707.06168; here over all taps at once, from second moments alone.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.passes.prune.calibration.linear_layer import Matrix
from graphopt.passes.prune.calibration.moments import Moments

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Penalties to try, relative to the mean energy of a column."""


@dataclass(frozen=True)
class Affine:
    """y = weight x + offset, for each group.

    Attributes:
        weight: [G, M, K].
        offset: [G, M].
    """

    weight: Matrix
    offset: Matrix

    def after(self, layer: Affine) -> Affine:
        """A factor and an offset for every result alone ([G M, 1, 1] here), applied to a layer's results."""
        factor = self.weight.reshape(layer.offset.shape)
        return Affine(factor[:, :, None] * layer.weight, factor * layer.offset + self.offset.reshape(factor.shape))


def solve(moments: Moments, prior: Affine, ridge: float, intercept: bool = True) -> Affine:
    """Minimise E|y - W x - b|^2 + ridge s |W - W0|^2 with s the mean energy of a column (its variance with intercept).

    Args:
        moments: with products and results.
        prior: W0, and the offset that stays where there is no intercept to choose.
        intercept: whether b may change.
    """
    assert moments.xx is not None
    assert moments.yx is not None
    assert moments.y is not None
    n = max(moments.count, 1)
    x, y = moments.x / n, moments.y / n
    xx, yx = moments.xx / n, moments.yx / n
    if intercept:
        xx = xx - x[:, :, None] * x[:, None, :]
        yx = yx - y[:, :, None] * x[:, None, :]
    else:
        yx = yx - prior.offset[:, :, None] * x[:, None, :]
    ins = xx.shape[-1]
    energy = np.trace(xx, axis1=1, axis2=2) / ins
    penalty = np.maximum(ridge * energy, np.finfo(np.float64).tiny ** 0.5)
    system = xx + penalty[:, None, None] * np.eye(ins)
    missing = yx - np.matmul(prior.weight, xx)
    weight = prior.weight + np.linalg.solve(system, missing.transpose(0, 2, 1)).transpose(0, 2, 1)
    offset = y - np.matmul(weight, x[:, :, None])[:, :, 0] if intercept else prior.offset
    return Affine(weight, offset)


def shifted(moments: Moments, prior: Affine) -> Affine:
    """The same weights with the offset that gives the results their mean."""
    assert moments.y is not None
    n = max(moments.count, 1)
    return Affine(prior.weight, moments.y / n - np.matmul(prior.weight, (moments.x / n)[:, :, None])[:, :, 0])


def squared_error(moments: Moments, layer: Affine) -> Matrix:
    """E(y - W x - b)^2: [G, M]."""
    assert moments.xx is not None
    assert moments.yx is not None
    assert moments.y is not None
    assert moments.yy is not None
    n = max(moments.count, 1)
    w, b = layer.weight, layer.offset
    x, y = moments.x / n, moments.y / n
    own = np.einsum("gmk,gmk->gm", np.matmul(w, moments.xx / n), w)
    cross = np.einsum("gmk,gmk->gm", moments.yx / n, w)
    mean = np.matmul(w, x[:, :, None])[:, :, 0]
    error: Matrix = moments.yy / n - 2 * cross + own + b * b + 2 * b * (mean - y)
    return np.maximum(error, 0.0)


def spread(moments: Moments) -> Matrix:
    """Variance of the results: [G, M]."""
    assert moments.y is not None
    assert moments.yy is not None
    n = max(moments.count, 1)
    variance: Matrix = moments.yy / n - np.square(moments.y / n)
    return np.maximum(variance, 0.0)
