"""What least squares can't repair: channels are eliminated greedily, with the layers that read them refitted at every step.

Optimal brain surgeon (Hassibi & Stork, NIPS 1992) with whole channels in the place of weights: removing columns s of a
layer y = W x + b and fitting the others and b anew leaves tr(W_s (P_ss)^-1 W_s^T) of the mean square of y, P the inverse of
the covariance of x. The refitted weights are W - W_s (P_ss)^-1 P_s:, and P loses P_:s (P_ss)^-1 P_s: likewise. Scored once,
two channels that say the same would both seem worthless; in turn, the second becomes precious when the first has gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.ir.graph import Use
from graphopt.passes.prune.groups import ChannelGroup, PruneGroups
from graphopt.passes.prune.importance.consumers import Consumer, Indices, Matrix, consumers, grouped
from graphopt.passes.prune.importance.criterion import CRITERIA, Criterion, LayerMoments, Scores, register
from graphopt.passes.prune.importance.taylor import effects

DAMPING = 1e-4
"""Added to the covariance, relative to the mean of its diagonal: what data of finite size says is not taken at its word."""
STEPS = 32
"""A group is emptied in so many steps, or more where channels that would go together turn out to depend on each other."""
SURPRISE = 1.5
"""Channels go together when what they leave together is at most this times the sum of what each would leave alone."""

NOISE = 1e-9
"""Losses this small, relative to the variance of the results, are rounding."""


@register
class Reconstruction(Criterion):
    """Mean square error that is left, relative to the variance of the results, when this channel and all with lower
    scores have gone and the layers that read the rest are refitted; summed over these layers."""

    name = "reconstruction"
    description = (
        "error that is left after least squares in the layers that read the channel, channels eliminated in turn"
    )
    needs_data = True
    comparable = True

    def score(self, groups: PruneGroups, stats: LayerMoments | None = None, seed: int = 0) -> dict[int, Scores]:
        """Problems of layers that read several groups are kept until the last of them."""
        if stats is None:
            return super().score(groups, stats, seed)
        readers = {g.index: consumers(g, stats) for g in groups.groups}
        problems = Problems(stats, Counter(c.layer.weight for found in readers.values() for c in found))
        return {g.index: self._score(g, readers[g.index], stats, problems) for g in groups.groups}

    def score_group(self, group: ChannelGroup, stats: LayerMoments | None, rng: np.random.Generator) -> Scores:
        """Of channels that no layer reads, and where no products were kept, what ``taylor`` says."""
        assert stats is not None
        readers = consumers(group, stats)
        return self._score(group, readers, stats, Problems(stats, Counter()))

    def _score(
        self, group: ChannelGroup, readers: Sequence[Consumer], stats: LayerMoments, problems: Problems
    ) -> Scores:
        found = [fit(c, problems) for c in readers]
        fits = [f for f in found if f is not None]
        if not fits:
            return CRITERIA["taylor"].score_group(group, stats, np.random.default_rng(0))
        # Layers without products take part with what they lose before any refitting.
        unknown = [(group, c) for c, f in zip(readers, found) if f is None]
        return eliminate(fits, effects(unknown, stats).get(group.index, np.zeros(group.size)))


@dataclass(frozen=True)
class Problem:
    """A layer's least squares before anything is removed.

    Attributes:
        weights: [G, M, K].
        inverse: [G, K, K], of the covariance of its rows.
        whole: sum of the variances of its results.
    """

    weights: Matrix
    inverse: Matrix
    whole: float


@dataclass
class Problems:
    """Problems of layers, set up when first needed.

    Attributes:
        left: how many groups will still ask, by layer; after the last one nothing is kept.
    """

    stats: LayerMoments
    left: Counter[Use]
    _kept: dict[Use, Problem | None] = field(default_factory=dict)

    def of(self, consumer: Consumer) -> Problem | None:
        """None without products, and where the results don't vary."""
        layer = consumer.layer
        self.left[layer.weight] -= 1
        found = self._kept.pop(layer.weight) if layer.weight in self._kept else self._set_up(consumer)
        if self.left[layer.weight] > 0:
            self._kept[layer.weight] = found
        return found

    def _set_up(self, consumer: Consumer) -> Problem | None:
        layer = consumer.layer
        gram, _ = grouped(layer, self.stats)
        if gram is None:
            return None
        mean = self.stats.mean(layer.weight).reshape(layer.groups, layer.ins)
        covariance = gram - mean[:, :, None] * mean[:, None, :]
        weights = consumer.weights
        whole = float(np.vdot(weights @ covariance, weights))
        return Problem(weights, np.stack([_inverse(c) for c in covariance]), whole) if whole > 0 else None


@dataclass
class Fit:
    """A layer while channels of the group leave it: one part for each of its own groups that holds some of them.

    Attributes:
        parts: the state by group of the layer.
        whole: sum of the variances of the layer's results at the start.
    """

    parts: list[FitPart]
    whole: float

    def losses(self, channels: Sequence[int]) -> Scores:
        """What each channel would leave alone, relative to ``whole``."""
        return sum((p.losses(channels) for p in self.parts), np.zeros(len(channels))) / self.whole

    def joint_loss(self, channels: Sequence[int]) -> float:
        """What the channels would leave together, relative to ``whole``."""
        return sum(p.joint_loss(channels) for p in self.parts) / self.whole

    def remove(self, channels: Sequence[int]) -> None:
        """Refit without the channels."""
        for p in self.parts:
            p.remove(channels)


@dataclass
class FitPart:
    """One group of a layer.

    Attributes:
        weights: [M, k], over columns of channels of the group alone: what else the layer reads is refitted implicitly.
        inverse: [k, k]: those rows and columns of the inverse covariance of all that is left.
        columns: by channel: its columns among the k.
        gone: by channel: rows that vanish with it.
    """

    weights: Matrix
    inverse: Matrix
    columns: dict[int, Indices]
    gone: dict[int, Indices]

    def losses(self, channels: Sequence[int]) -> Scores:
        """tr(W_s (P_ss)^-1 W_s^T) for each channel."""
        found = np.zeros(len(channels))
        inside = [i for i, channel in enumerate(channels) if channel in self.columns]
        columns = [self.columns[channels[i]] for i in inside]
        gone = [self.gone[channels[i]] for i in inside]
        if len({len(c) for c in columns}) == 1 and not any(len(rows) for rows in gone):
            found[inside] = self._losses(np.stack(columns))
        else:
            found[inside] = [self._loss(c, rows) for c, rows in zip(columns, gone)]
        return found

    def _losses(self, columns: Indices) -> Scores:
        """For equally many columns each, [channels, n], with no rows that vanish."""
        own = self.weights.T[columns]  # [channels, n, M]
        if columns.shape[1] == 1:
            energy: Scores = np.square(own[:, 0]).sum(axis=1)
            return energy / self.inverse.diagonal()[columns[:, 0]]
        products = own @ own.transpose(0, 2, 1)
        blocks = self.inverse[columns[:, :, None], columns[:, None, :]]
        traces: Scores = np.trace(np.linalg.solve(blocks, products), axis1=1, axis2=2)
        return np.maximum(traces, 0)

    def joint_loss(self, channels: Sequence[int]) -> float:
        """The same for all of them at once."""
        inside = [c for c in channels if c in self.columns]
        if not inside:
            return 0.0
        return self._loss(*(np.concatenate([of[c] for c in inside]) for of in (self.columns, self.gone)))

    def _loss(self, columns: Indices, gone: Indices) -> float:
        own = self.weights[:, columns]
        own[gone] = 0
        block = self.inverse[np.ix_(columns, columns)]
        if len(columns) == 1:
            return float(np.vdot(own, own) / block[0, 0])
        return max(0.0, float(np.vdot(own, np.linalg.solve(block, own.T).T)))

    def remove(self, channels: Sequence[int]) -> None:
        """Take the channels' columns out and fit the others anew."""
        inside = [c for c in channels if c in self.columns]
        if not inside:
            return
        out = np.concatenate([self.columns.pop(c) for c in inside])
        self.weights[np.concatenate([self.gone.pop(c) for c in inside])] = 0
        stay = np.setdiff1d(np.arange(len(self.inverse)), out)
        update = np.linalg.solve(self.inverse[np.ix_(out, out)], self.inverse[np.ix_(out, stay)])
        self.weights = self.weights[:, stay] - self.weights[:, out] @ update
        self.inverse = self.inverse[np.ix_(stay, stay)] - self.inverse[np.ix_(stay, out)] @ update
        place = np.full(len(stay) + len(out), -1)
        place[stay] = np.arange(len(stay))
        self.columns = {c: place[columns] for c, columns in self.columns.items()}


def fit(consumer: Consumer, problems: Problems) -> Fit | None:
    """The layer before anything is removed; None without products or where its results don't vary."""
    problem = problems.of(consumer)
    if problem is None:
        return None
    parts = []
    for g in range(consumer.layer.groups):
        own = {c: p for c, of in enumerate(consumer.parts) for p in of if p.group == g}
        if not own:
            continue
        used = np.unique(np.concatenate([p.columns for p in own.values()]))
        columns = {c: np.searchsorted(used, p.columns) for c, p in own.items()}
        gone = {c: p.gone for c, p in own.items()}
        parts.append(FitPart(problem.weights[g][:, used], problem.inverse[g][np.ix_(used, used)], columns, gone))
    return Fit(parts, problem.whole)


def eliminate(fits: Sequence[Fit], fixed: Scores) -> Scores:
    """Loss so far, by channel, when it is its turn to go.

    Args:
        fixed: [channels]: loss that each brings besides.
    """
    left = list(range(len(fixed)))
    batch = -(-len(left) // STEPS)
    scores: Scores = np.zeros(len(fixed))
    lost = 0.0
    while left:
        losses: Scores = sum((f.losses(left) for f in fits), fixed[left])
        order = np.argsort(losses, kind="stable")
        count = min(batch, len(left))
        while True:
            chosen = [left[i] for i in order[:count]]
            alone = losses[order[:count]]
            together = sum(f.joint_loss(chosen) for f in fits) + float(fixed[chosen].sum())
            if count == 1 or together <= SURPRISE * alone.sum() + NOISE:
                break
            count = -(-count // 2)
        share = together / alone.sum() if alone.sum() > 0 else 0.0
        scores[chosen] = lost + np.cumsum(alone) * share
        lost += together
        for f in fits:
            f.remove(chosen)
        left = [c for c in left if c not in set(chosen)]
    return scores


def _inverse(covariance: Matrix) -> Matrix:
    size = len(covariance)
    damping = DAMPING * float(np.trace(covariance)) / size
    inverse: Matrix = np.asarray(np.linalg.inv(covariance + (damping or 1.0) * np.eye(size)), np.float64)
    return inverse
