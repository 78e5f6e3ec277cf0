"""Which elements of a weight may be zero together: anywhere, or N of every M input channels, and the choice by score.

N:M follows what NVIDIA's sparse tensor cores want (2:4, Ampere and later): in every row of the weights as a matrix
[outputs, summed over], of every M consecutive elements at most N are not zero. For a product the summed axis is K; for a
convolution it is the input channels of one output channel at one tap, because kernels lay K out as (tap, channel) with
the channels innermost. A last group of fewer than M channels counts as if it were filled up with zeros.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.errors import UserError

Mask = npt.NDArray[np.bool_]
Scores = npt.NDArray[Any]

UNSTRUCTURED = "unstructured"
MAX_GROUP = 64
_FORM = re.compile(r"([0-9]{1,3}):([0-9]{1,3})")


@dataclass(frozen=True)
class Pattern:
    """Where zeros go.

    Attributes:
        ratio: part of the elements that become zero.
        kept: N, elements of a group of ``of`` that stay; 0 when zeros may be anywhere.
        of: M; 0 when zeros may be anywhere.
    """

    ratio: float
    kept: int = 0
    of: int = 0

    @property
    def is_grouped(self) -> bool:
        """Whether it is N:M."""
        return self.of > 0

    def __str__(self) -> str:
        return f"{self.kept}:{self.of}" if self.is_grouped else f"{self.ratio:.0%}"


def parse_pattern(pattern: str, ratio: float | None) -> Pattern:
    """The pattern of a text and a ratio; N:M implies its ratio 1 - N/M.

    Raises:
        UserError: no pattern, a ratio outside (0, 1), none where one is needed, or one that contradicts N:M.
    """
    if ratio is not None and not 0 < ratio < 1:
        raise UserError(
            f"the ratio must be above 0 and below 1, not {ratio:g}", code="bad-ratio",
            hint="it is the part of the weights that become zero: 0.8 leaves one in five",
        )  # fmt: skip
    if pattern == UNSTRUCTURED:
        if ratio is None:
            raise UserError(
                "unstructured sparsity needs a ratio", code="bad-ratio", hint="0.8 makes four weights in five zero"
            )
        return Pattern(ratio)
    form = _FORM.fullmatch(pattern)
    kept, of = (int(form[1]), int(form[2])) if form else (0, 0)
    if not 0 < kept < of <= MAX_GROUP:
        raise UserError(
            f"{pattern!r} is no sparsity pattern", code="bad-pattern",
            hint=f"'{UNSTRUCTURED}', or N:M with 0 < N < M <= {MAX_GROUP}, such as 2:4: two of every four stay",
        )  # fmt: skip
    implied = 1 - kept / of
    if ratio is not None and abs(ratio - implied) > 1e-6:
        raise UserError(
            f"pattern {pattern} makes {implied:g} of the weights zero, which contradicts the ratio {ratio:g}",
            code="contradictory-sparsity", hint="leave one of the two out",
        )  # fmt: skip
    return Pattern(implied, kept, of)


def lowest(scores: Scores, count: int) -> Mask:
    """Exactly ``count`` lowest of every row, the first ones where scores are equal.

    Args:
        scores: [rows, columns]; NaN counts as highest.
        count: 0 to columns.
    """
    if count <= 0:
        return np.zeros(scores.shape, bool)
    limit = np.partition(scores, count - 1, axis=1)[:, count - 1, None]
    below = scores < limit
    equal = scores == limit
    missing = count - np.count_nonzero(below, axis=1, keepdims=True)
    if not np.array_equal(np.count_nonzero(equal, axis=1, keepdims=True), missing):
        equal &= np.cumsum(equal, axis=1, dtype=np.int32) <= missing
    chosen: Mask = below | equal
    return chosen


def lowest_in_groups(scores: Scores, kept: int, of: int) -> Mask:
    """All but the ``kept`` highest of every ``of`` consecutive scores along the last axis."""
    extent = scores.shape[-1]
    padding = -extent % of
    filled = np.concatenate([scores, np.full((*scores.shape[:-1], padding), -np.inf, scores.dtype)], axis=-1)
    return lowest(filled.reshape(-1, of), of - kept).reshape(filled.shape)[..., :extent]
