"""Whether contenders compute the same thing: a faster wrong answer is no comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.driver.accuracy import L2_ALLOWED, compare_all, longest_sum, summing_depth
from graphopt.ir.graph import Array, Graph
from graphopt.ir.precision_choices import PrecisionChoices, precision_name


@dataclass(frozen=True)
class Agreement:
    """How results of a contender compare with ours.

    Attributes:
        error: the largest difference over the largest magnitude.
        problem: why they can't be taken for the same, or None.
    """

    error: float
    problem: str | None


def agreement(
    found: Mapping[str, Array],
    expected: Mapping[str, Array],
    *,
    reduction: int = 1,
    depth: int = 1,
    l2: float | None = None,
) -> Agreement:
    """Compare a contender's results with ours.

    Args:
        found: what it computed.
        expected: our outputs by name.
        reduction: length of the longest sum of a layer, as in `graphopt.driver.accuracy.bound`.
        depth: layers after one another.
        l2: relative L2 error allowed instead, where we compute in fewer bits than the peer.
    """
    checks = compare_all(as_named(found, expected), expected, reduction=reduction, depth=depth, l2=l2)
    wrong = [f"{c.name}: {c.problem}" for c in checks if c.problem is not None]
    return Agreement(max((c.error for c in checks), default=0.0), "; ".join(wrong) if wrong else None)


def tolerance_of(graph: Graph, precision: str | PrecisionChoices | None = None) -> dict[str, Any]:
    """What `agreement` allows of a model: ``reduction`` and ``depth``, or ``l2`` where it was cast to a precision."""
    if (name := precision_name(precision)) is not None:
        return {"l2": L2_ALLOWED[name]}
    return {"reduction": longest_sum(graph), "depth": summing_depth(graph)}


def as_named(found: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, Array]:
    """A peer's outputs under our names and integer types.

    Peers rename outputs (then order decides), and some hold all integers in 32 bits.
    """
    if set(found) != set(expected) and len(found) == len(expected):
        found = dict(zip(expected, found.values()))
    return {name: _with_type(array, expected.get(name)) for name, array in found.items()}


def _with_type(array: Array, like: Array | None) -> Array:
    whole = "iub"
    if like is not None and array.dtype != like.dtype and array.dtype.kind in whole and like.dtype.kind in whole:
        return array.astype(like.dtype)
    return np.asarray(array)
