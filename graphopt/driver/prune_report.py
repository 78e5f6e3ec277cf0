"""What pruning did: sizes and latency before and after, group by group, and how far the outputs moved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from graphopt.ir.graph import Array
from graphopt.passes.prune.groups import ChannelGroup, FrozenGroup
from graphopt.passes.prune.labels import Slot
from graphopt.passes.prune.plan import Mask, PrunePlan
from graphopt.passes.prune.recovery.reconstruct import LayerRepair


@dataclass(frozen=True)
class Change:
    """A number before and after."""

    before: float
    after: float

    @property
    def ratio(self) -> float:
        """What is left, 1 for all of it."""
        return self.after / self.before if self.before else 1.0

    def to_dict(self) -> dict[str, float]:
        """With the ratio, for JSON."""
        return {"before": self.before, "after": self.after, "ratio": round(self.ratio, 6)}


@dataclass(frozen=True)
class GroupRow:
    """One group of channels.

    Attributes:
        name: of the group.
        layers: nodes whose weights have its channels.
        channels: before and after.
        parameters: elements of constants that belong to its channels; a weight between two groups counts in both.
    """

    name: str
    layers: tuple[str, ...]
    channels: Change
    parameters: Change


@dataclass(frozen=True)
class OutputRow:
    """One output of the graph.

    Attributes:
        sqnr_db: signal to noise against the original in dB, over all inputs tried, directly after the removal. None for
            types that are not float and where shapes differ; infinite where nothing changed.
        recovered_db: the same after reconstruction, None without one.
        error: largest error against the masked original, relative to its largest magnitude; None when not verified.
        allowed: what the tolerance table allows.
    """

    name: str
    sqnr_db: float | None
    recovered_db: float | None = None
    error: float | None = None
    allowed: float | None = None


@dataclass(frozen=True)
class PruneReport:
    """The result of ``graphopt.prune`` besides the graph.

    Attributes:
        source: of the model.
        criterion, ranking: how channels were chosen.
        ratio: part of every group's channels that was asked to go, None with a budget.
        budget: what was asked for as a budget, None with a ratio.
        multiple: channels that stay come in multiples of this, where a group is large enough.
        data: what the outputs were compared on.
        seed: of random inputs and random choices.
        parameters: elements of constants.
        bytes: of constants.
        flops: operations a run (a multiply-add is two), at the extents of the inputs tried; None where they can't be counted.
        predicted_ms: sum of the kernels' predicted times on the target, None where there is no prediction.
        measured_ms: median time of a run, None when not measured.
        groups: one row a group, those that lost nothing too.
        frozen: channels that could not go, with reasons.
        outputs: one row an output.
        repairs: layers that reconstruction looked at, in order; empty without one.
        reference: who ran the pruned graph and the masked original for the comparison, None when not verified.
        notes: remarks on what was done or left out.
    """

    source: str
    criterion: str
    ranking: str
    ratio: float | None
    budget: str | None
    multiple: int
    data: str
    seed: int
    parameters: Change
    bytes: Change
    flops: Change | None
    predicted_ms: Change | None
    measured_ms: Change | None
    groups: tuple[GroupRow, ...]
    frozen: tuple[FrozenGroup, ...]
    outputs: tuple[OutputRow, ...]
    repairs: tuple[LayerRepair, ...]
    reference: str | None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold; None stands for infinite and undefined ratios."""

        def change(c: Change | None) -> dict[str, float] | None:
            return None if c is None else c.to_dict()

        return {
            "source": self.source,
            "criterion": self.criterion,
            "ranking": self.ranking,
            "ratio": self.ratio,
            "budget": self.budget,
            "multiple": self.multiple,
            "data": self.data,
            "seed": self.seed,
            "parameters": change(self.parameters),
            "bytes": change(self.bytes),
            "flops": change(self.flops),
            "predicted_ms": change(self.predicted_ms),
            "measured_ms": change(self.measured_ms),
            "groups": [
                {
                    "name": row.name,
                    "layers": list(row.layers),
                    "channels": row.channels.to_dict(),
                    "parameters": row.parameters.to_dict(),
                }
                for row in self.groups
            ],
            "frozen": [asdict(f) for f in self.frozen],
            "outputs": [_plain(row) for row in self.outputs],
            "repairs": [_plain(repair) for repair in self.repairs],
            "reference": self.reference,
            "notes": list(self.notes),
        }


def group_rows(plan: PrunePlan) -> tuple[GroupRow, ...]:
    """The table of groups under a plan."""
    return tuple(
        GroupRow(
            group.name,
            tuple(node.name for node in group.layers),
            Change(group.size, plan.kept(group)),
            Change(*_parameters(group, plan)),
        )
        for group in plan.groups.groups
    )


def _parameters(group: ChannelGroup, plan: PrunePlan) -> tuple[int, int]:
    """Elements of constants at the group's channels, before and after; an element with two of them counts once."""
    axes: dict[Slot, dict[int, Mask]] = {}
    for member in group.members:
        if member.parameters:
            own = axes.setdefault(member.slot, {}).setdefault(member.axis, np.zeros(member.extent, bool))
            own[member.positions.reshape(-1)] = True
    before = after = 0
    for slot, members in axes.items():
        masks = plan.keep(slot)
        whole = others = left = left_others = 1
        for axis, keep in enumerate(masks):
            assert keep is not None  # constants have no symbolic extents
            own = members.get(axis, np.zeros(len(keep), bool))
            whole, left = whole * len(keep), left * int(keep.sum())
            others, left_others = others * int((~own).sum()), left_others * int((keep & ~own).sum())
        before, after = before + whole - others, after + left - left_others
    return before, after


def sqnr_db(want: Sequence[Array], got: Sequence[Array]) -> float | None:
    """Signal to quantisation-noise ratio ``10 log10(sum want^2 / sum (got - want)^2)`` over several runs, in dB.

    None for types that are not float, for shapes that differ, and where the signal is zero or not finite; infinite where
    there is no noise.
    """
    signal = noise = 0.0
    for a, b in zip(want, got, strict=True):
        if a.shape != b.shape or a.dtype.kind not in "fV":
            return None
        exact = a.astype(np.float64)
        signal += float(np.square(exact).sum())
        noise += float(np.square(b.astype(np.float64) - exact).sum())
    if not math.isfinite(signal) or not math.isfinite(noise):
        return None
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else None


def output_sqnr(want: Sequence[Mapping[str, Array]], got: Sequence[Mapping[str, Array]]) -> dict[str, float | None]:
    """``sqnr_db`` of every output of several runs."""
    return {
        name: sqnr_db([run[name] for run in want], [run[name] for run in got]) for name in (want[0] if want else ())
    }


def _plain(row: OutputRow | LayerRepair) -> dict[str, Any]:
    """As JSON holds it: None for what is no finite number."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(row).items()}
