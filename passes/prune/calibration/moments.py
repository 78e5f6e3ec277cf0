"""Sums of products over rows, accumulated block by block: all that least squares needs to know of the data.

Blocks are multiplied in float32 and summed in float64, so the error stays that of a sum over one block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from graphopt.errors import UserError
from graphopt.ir.graph import Array
from graphopt.passes.prune.calibration.linear_layer import LinearLayer, Matrix, Picks, Rows

BLOCK = 4096
"""Rows that are taken out of a tensor and multiplied at once."""


class Moments:
    """First and second moments of rows x, and with results y of [x y].

    Attributes:
        count: rows seen.
        x: [G, K] sums of x.
        xx: [G, K, K] sums of x x^T, None when only ``energy`` is kept.
        energy: [G, K] sums of x^2.
        y, yy, yx: [G, M], [G, M] (squares), [G, M, K]; None without results.

    Args:
        outs: M, None without results.
        products: keep ``xx``.
    """

    def __init__(self, groups: int, ins: int, outs: int | None = None, products: bool = True) -> None:
        self.count = 0
        self.x = np.zeros((groups, ins))
        self.energy = np.zeros((groups, ins))
        self.xx = np.zeros((groups, ins, ins)) if products else None
        self.y = None if outs is None else np.zeros((groups, outs))
        self.yy = None if outs is None else np.zeros((groups, outs))
        self.yx = None if outs is None else np.zeros((groups, outs, ins))

    @staticmethod
    def bytes(groups: int, ins: int, outs: int = 0) -> int:
        """Memory of the products, in bytes."""
        return 8 * groups * ins * (ins + outs)

    def add(self, x: Rows, y: Rows | None = None) -> None:
        """Add rows [G, n, K] and results [G, n, M]."""
        self.count += x.shape[1]
        self.x += x.sum(1, dtype=np.float64)
        if self.xx is None:
            self.energy += np.square(x, dtype=np.float64).sum(1)
        else:
            product = np.matmul(x.transpose(0, 2, 1), x)
            self.xx += product
            self.energy += np.diagonal(product, axis1=1, axis2=2)
        if y is not None:
            assert self.y is not None
            assert self.yy is not None
            assert self.yx is not None
            self.y += y.sum(1, dtype=np.float64)
            self.yy += np.square(y, dtype=np.float64).sum(1)
            self.yx += np.matmul(y.transpose(0, 2, 1), x)

    def __add__(self, other: Moments) -> Moments:
        """Moments over the rows of both."""
        total = Moments.__new__(Moments)
        total.count = self.count + other.count
        total.x, total.energy = self.x + other.x, self.energy + other.energy
        total.xx, total.y = _sum(self.xx, other.xx), _sum(self.y, other.y)
        total.yy, total.yx = _sum(self.yy, other.yy), _sum(self.yx, other.yx)
        return total


def _sum(a: Matrix | None, b: Matrix | None) -> Matrix | None:
    return None if a is None or b is None else a + b


def pick_rows(total: int, limit: int, seed: tuple[int, ...]) -> Picks:
    """At most ``limit`` of ``total`` rows, in order; the same for the same seed."""
    if total <= limit:
        return np.arange(total, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(total, limit, replace=False)).astype(np.int64)


def blocks(picks: Picks) -> Iterator[Picks]:
    """The picks in pieces of at most ``BLOCK``."""
    for start in range(0, len(picks), BLOCK):
        yield picks[start : start + BLOCK]


def require_finite(layer: LinearLayer, array: Array, what: str) -> None:
    """Refuse activations that would spoil every sum.

    Raises:
        UserError: NaN or infinity.
    """
    if not np.isfinite(array).all():
        raise UserError(
            f"{what} holds NaN or infinity on the calibration data",
            code="bad-calibration",
            node=layer.node.label,
            hint="check the calibration data; run the model on it with `graphopt check`",
        )


def finite_rows(layer: LinearLayer, array: Array, picks: Picks | None, what: str) -> npt.NDArray[np.float32]:
    """Rows of x, refused when not finite."""
    rows = layer.rows(array, picks)
    require_finite(layer, rows, what)
    return rows
