"""The one tolerance table: how far two float results of the same mathematics may be apart.

A sum of n products rounds at most n times in sequence, about sqrt(n) in practice for random signs; transcendental functions
add a few units. The bound is ``eps(dtype) * (SLACK + sqrt(n))`` relative to the largest magnitude of the result.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
SLACK = 16.0
"""Units allowed for everything that is not a sum: exp, division, a handful of element-wise operators."""


def bound(dtype: object, reduction: int = 1, depth: int = 1) -> float:
    """Allowed error relative to the largest magnitude.

    Args:
        dtype: element type of the result.
        reduction: length of the longest sum of a layer.
        depth: layers after one another; their errors add up.
    """
    eps = EPS.get(str(np.dtype(dtype)), 0.0)  # type: ignore[call-overload]
    return eps * (SLACK + math.sqrt(reduction)) * depth


def assert_close(got: Array, want: Array, *, reduction: int = 1, depth: int = 1, what: str = "result") -> None:
    """Fail unless shapes, dtypes, places of NaN and infinity agree and all errors are within ``bound``."""
    assert got.dtype == want.dtype, f"{what}: dtype {got.dtype} instead of {want.dtype}"
    assert got.shape == want.shape, f"{what}: shape {got.shape} instead of {want.shape}"
    if str(want.dtype) not in EPS:
        assert np.array_equal(got, want), f"{what}: elements differ"
        return
    a, b = want.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a)
    assert np.array_equal(a[~finite], b[~finite], equal_nan=True), f"{what}: NaN or infinity where none belongs, or missing"
    assert np.isfinite(b[finite]).all(), f"{what}: NaN or infinity where none belongs"
    if not finite.any():
        return
    error = float(np.abs(a - b)[finite].max())
    allowed = bound(want.dtype, reduction, depth) * float(np.abs(a[finite]).max())
    assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g}"
