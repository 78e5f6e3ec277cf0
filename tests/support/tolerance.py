"""Asserting with the library's tolerance table (``graphopt.driver.accuracy``)."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from graphopt.driver.accuracy import EPS, SLACK, bound, compare

__all__ = ["EPS", "SLACK", "assert_close", "bound"]

Array = npt.NDArray[Any]


def assert_close(got: Array, want: Array, *, reduction: int = 1, depth: int = 1, what: str = "result") -> None:
    """Fail unless shapes, dtypes, places of NaN and infinity agree and all errors are within ``bound``."""
    found = compare(what, got, want, reduction=reduction, depth=depth)
    assert found.ok, f"{what}: {found.problem}"
