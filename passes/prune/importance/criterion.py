"""What a criterion of importance is: scores of the channels of every group, higher for those that had better stay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from graphopt.errors import UserError, did_you_mean
from graphopt.ir.graph import Use
from graphopt.passes.prune.groups import ChannelGroup, PruneGroups

Scores = npt.NDArray[np.float64]
"""One number a channel of a group."""


class LayerMoments(Protocol):
    """What criteria read of the statistics of a calibration run, by the weight operand of a layer.

    K counts the rows that the weights multiply: input channels of one convolution group times taps of the kernel, in the
    order of the weight's inner axes. Layers with several groups have a leading axis of groups. All float64.
    """

    def __contains__(self, use: object) -> bool:
        """Whether the layer was seen."""

    def gram(self, use: Use) -> npt.NDArray[np.float64] | None:
        """Uncentred second moments E[x x^T], [K, K] or [groups, K, K]; None where too large."""

    def mean(self, use: Use) -> npt.NDArray[np.float64]:
        """E[x], [K] or [groups, K]."""

    def energy(self, use: Use) -> npt.NDArray[np.float64]:
        """E[x^2], [K] or [groups, K]."""


class Criterion(ABC):
    """A way to tell important channels from others. Stateless.

    Attributes:
        name: what the user writes.
        description: one sentence.
        needs_data: whether ``score`` needs statistics of a calibration run.
        comparable: whether scores of different groups share a scale. If not, a ranking over several groups divides the
            scores of each by their mean.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    needs_data: ClassVar[bool] = False
    comparable: ClassVar[bool] = False

    @abstractmethod
    def score_group(self, group: ChannelGroup, stats: LayerMoments | None, rng: np.random.Generator) -> Scores:
        """Scores of one group, float64 [group.size]."""

    def score(self, groups: PruneGroups, stats: LayerMoments | None = None, seed: int = 0) -> dict[int, Scores]:
        """Scores by group index: float64 [group.size], higher for channels that had better stay, never negative.

        Raises:
            UserError: the criterion needs statistics and there are none, or nothing in the graph that it could judge by.
        """
        if self.needs_data and stats is None:
            raise UserError(
                f"criterion {self.name!r} needs calibration data, and there is none",
                code="criterion-needs-data",
                hint=f"`graphopt prune MODEL --criterion {self.name} --calib DATA` takes some; "
                f"without data there are {', '.join(sorted(n for n, c in CRITERIA.items() if not c.needs_data))}",
            )
        # A stream of its own for every group: what one group draws doesn't depend on the others.
        return {g.index: self.score_group(g, stats, np.random.default_rng((seed, g.index))) for g in groups.groups}

    def fallbacks(self, groups: PruneGroups, stats: LayerMoments | None = None) -> tuple[str, ...]:
        """Names of groups that the criterion can't judge and that get their weights' L2 norm instead."""
        return ()


CRITERIA: dict[str, Criterion] = {}
"""All criteria by name; ``graphopt.passes.prune.importance`` fills it."""


def register(cls: type[Criterion]) -> type[Criterion]:
    """Class decorator: make the criterion known by its name."""
    CRITERIA[cls.name] = cls()
    return cls


def criterion(name: str, known: Mapping[str, Criterion] = CRITERIA) -> Criterion:
    """The criterion of a name.

    Raises:
        UserError: there is none; with a suggestion where one is close.
    """
    if name not in known:
        raise UserError(
            f"there is no criterion called {name!r}",
            code="unknown-criterion",
            hint=did_you_mean(name, known) or f"criteria are {', '.join(known)}",
        )
    return known[name]
