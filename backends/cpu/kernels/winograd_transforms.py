"""The linear maps of Winograd's minimal filtering F(m x m, 3 x 3): into the transformed domain and out of it.

Matrices after Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016): interpolation points 0, 1, -1
and infinity for m = 2, with 2 and -2 for m = 4. Points that are one another's negatives share their even and odd parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.templates.packed_array import for_each
from graphopt.ir.graph import Array

WEIGHT_TRANSFORM: dict[int, Array] = {
    2: np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
    4: np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
}
"""G of shape (m + 2, 3), by m."""


_CHUNK = 4096
"""Filters transformed at a time."""


def transform_input_row(d: Sequence[tirx.Expr], m: int) -> list[tirx.Expr]:
    """``B^T d`` for one row or column of a patch.

    Args:
        d: m + 2 values.
        m: outputs per row, 2 or 4.
    """
    if m == 2:
        return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]
    even_one, odd_one = d[4] - 4.0 * d[2], d[3] - 4.0 * d[1]
    even_two, odd_two = d[4] - d[2], 2.0 * (d[3] - d[1])
    return [
        4.0 * d[0] - 5.0 * d[2] + d[4],
        even_one + odd_one,
        even_one - odd_one,
        even_two + odd_two,
        even_two - odd_two,
        4.0 * d[1] - 5.0 * d[3] + d[5],
    ]


def transform_output_row(p: Sequence[tirx.Expr], m: int) -> list[tirx.Expr]:
    """``A^T p`` for one row or column of products.

    Args:
        p: m + 2 values.
        m: outputs per row, 2 or 4.
    """
    if m == 2:
        return [p[0] + p[1] + p[2], p[1] - p[2] - p[3]]
    sum_one, difference_one = p[1] + p[2], p[1] - p[2]
    sum_two, difference_two = p[3] + p[4], p[3] - p[4]
    return [
        p[0] + sum_one + sum_two,
        difference_one + 2.0 * difference_two,
        sum_one + 4.0 * sum_two,
        difference_one + 8.0 * difference_two + p[5],
    ]


def transform_weight(weight: Array, m: int) -> Array:
    """``G w G^T`` of OIHW weights with 3 x 3 kernels, computed in float64: shape ((m + 2)^2, I, O)."""
    outputs, inputs = weight.shape[:2]
    both = np.kron(WEIGHT_TRANSFORM[m], WEIGHT_TRANSFORM[m])
    transformed = np.empty((len(both), inputs, outputs), np.float32)
    chunk = max(_CHUNK // max(outputs, 1), 1)

    def transform(i: int) -> None:
        """One chunk of input channels, whose float64 copies stay in cache."""
        part = weight[:, i * chunk : (i + 1) * chunk].transpose(2, 3, 1, 0).reshape(9, -1).astype(np.float64)
        transformed[:, i * chunk : (i + 1) * chunk] = (both @ part).reshape(len(both), -1, outputs)

    for_each(transform, -(-inputs // chunk), transformed.nbytes)
    return transformed
