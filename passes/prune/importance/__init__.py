"""Criteria of importance: which channels of a group matter least. One family a file."""

from graphopt.passes.prune.importance import (  # noqa: F401  (registration)
    chance,
    magnitude,
)
from graphopt.passes.prune.importance.criterion import CRITERIA, Criterion, Moments, Scores, criterion

__all__ = ["CRITERIA", "Criterion", "Moments", "Scores", "criterion"]
