"""Criteria of importance: which channels of a group matter least. One family a file."""

from graphopt.passes.prune.importance import (  # noqa: F401  (registration, in the order of lists)
    activation,  # isort: skip
    bn_scale,  # isort: skip
    chance,  # isort: skip
    fpgm,  # isort: skip
    lamp,  # isort: skip
    magnitude,  # isort: skip
    reconstruction,  # isort: skip
    taylor,  # isort: skip
)
from graphopt.passes.prune.importance.criterion import CRITERIA, Criterion, LayerMoments, Scores, criterion

__all__ = ["CRITERIA", "Criterion", "LayerMoments", "Scores", "criterion"]
