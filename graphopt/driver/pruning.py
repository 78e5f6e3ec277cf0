"""Structured pruning from end to end: find groups, score channels, plan, remove, prove, report. What ``graphopt prune`` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.target import Target, parse_target
from graphopt.driver.calibration import CompiledRunner, load_calibration
from graphopt.driver.compiling import signature_of
from graphopt.driver.importing import import_onnx
from graphopt.driver.prune_proof import Proof, prove, runners
from graphopt.driver.prune_report import Change, OutputRow, PruneReport, group_rows, output_sqnr
from graphopt.driver.random_inputs import random_inputs
from graphopt.errors import UserError
from graphopt.ir.graph import Array, Graph
from graphopt.passes.prune.apply import apply_plan
from graphopt.passes.prune.budget import Budget, fit_budget, parse_budget, size_measure
from graphopt.passes.prune.groups import PruneGroups, find_groups
from graphopt.passes.prune.importance import Criterion
from graphopt.passes.prune.importance import criterion as find_criterion
from graphopt.passes.prune.plan import PrunePlan
from graphopt.passes.prune.ranking import select
from graphopt.passes.prune.reconstruct import HELD_OUT, ReconstructionReport
from graphopt.passes.prune.reconstruct import reconstruct as least_squares
from graphopt.passes.prune.size import size_of
from graphopt.passes.prune.statistics import Statistics, gather

if TYPE_CHECKING:
    from graphopt.driver.calibration import Source
    from graphopt.ir.onnx_load import ModelSource

COMPARED_FEEDS = 8
"""Outputs are compared with the original's on so many feeds at most."""
TENSOR_CORE_EDGE = 8
"""Channels that a tensor core takes at once, in all the types it knows."""


@dataclass(frozen=True)
class _Request:
    """What is asked for, checked as far as it can be without the model."""

    ratio: float | None
    budget: Budget | None
    judge: Criterion
    ranking: str
    ratios: Mapping[str, float]
    exclude: Sequence[str]
    multiple: int
    target: Target
    seed: int

    @property
    def options(self) -> dict[str, Any]:
        """How scores become a plan."""
        return {
            "ranking": self.ranking, "multiple": self.multiple, "ratios": self.ratios, "exclude": self.exclude,
            "normalise": not self.judge.comparable,
        }  # fmt: skip

    def check(self, groups: PruneGroups) -> None:
        """Refuse what can't be met whatever the scores, before any work.

        Raises:
            UserError: unknown ranking or names, ratios out of range, nothing that could go.
        """
        any_scores = {group.index: np.zeros(group.size) for group in groups.groups}
        select(groups, any_scores, ratio=0.5 if self.ratio is None else self.ratio, **self.options)

    def plan(self, groups: PruneGroups, stats: Statistics | None) -> PrunePlan:
        """Which channels go.

        Raises:
            UserError: unknown names, nothing that could go, a budget out of reach.
        """
        scores = self.judge.score(groups, stats, self.seed)
        if self.budget is not None:
            measure = size_measure(groups, self.budget.quantity)
            plan = fit_budget(groups, scores, self.budget, measure, **self.options)
        else:
            assert self.ratio is not None
            plan = select(groups, scores, ratio=self.ratio, **self.options)
        if plan.is_empty:
            raise UserError(
                f"rounded to multiples of {self.multiple}, no group loses a channel", code="nothing-to-prune",
                hint="ask for more, or for a smaller multiple (--multiple)",
            )  # fmt: skip
        return plan


@dataclass(frozen=True)
class _Data:
    """Inputs of the model, and whether they mean anything."""

    feeds: Sequence[Mapping[str, Array]]
    calibrated: bool

    @property
    def compared(self) -> Sequence[Mapping[str, Array]]:
        """What outputs are compared on: feeds that reconstruction doesn't fit to, where there are several."""
        return self.feeds[-min(COMPARED_FEEDS, ceil(len(self.feeds) / HELD_OUT)) :]

    def describe(self, seed: int) -> str:
        """In words."""
        if not self.calibrated:
            return f"random inputs, seed {seed}"
        count = len(self.feeds)
        if count == 1:
            return "1 feed of calibration data"
        return f"the last {len(self.compared)} of {count} feeds of calibration data"


def prune(
    src: ModelSource | Graph,
    *,
    ratio: float | None = None,
    budget: str | Budget | None = None,
    criterion: str = "l2",
    ranking: str = "local",
    calibration: Source | None = None,
    reconstruct: bool | None = None,
    ratios: Mapping[str, float] | None = None,
    exclude: Sequence[str] = (),
    multiple: int | None = None,
    target: str | Mapping[str, Any] = "native",
    threads: int | None = None,
    shapes: Mapping[str, str | Sequence[int | str]] | None = None,
    seed: int = 0,
    verify: bool = True,
) -> tuple[Graph, PruneReport]:
    """A smaller graph without the least important channels, and what that did.

    Args:
        src: path, bytes, ModelProto or an imported graph. It is never changed.
        ratio: part of the channels that goes, between 0 and 1. Either this or ``budget``.
        budget: what may be left: ``"params=0.5x"``, ``"flops=2G"``, ``"bytes=4MB"``.
        criterion: what tells important channels from others; see ``graphopt.passes.prune.importance``.
        ranking: ``local`` takes the ratio from every group, ``global`` from all channels together, ``isomorphic`` from groups of
            the same kind together.
        calibration: inputs like those that the model will see: a ``.npz`` file, a folder of them, arrays by input name, or
            several of these mappings; ``graphopt.driver.calibration`` says how samples are told apart.
        reconstruct: give the layers that are left the weights that reproduce the original's results best on the calibration
            data; by default when there is some. It comes after the proof, which it can't change.
        ratios: other ratios for layers or groups, by name or pattern; 0 leaves one alone.
        exclude: names or patterns of layers or groups that stay as they are.
        multiple: channels that stay come in multiples of this where a group is large enough; by default those of the target's
            vectors or tensor cores.
        target: see ``graphopt targets``; decides ``multiple`` and latencies.
        threads: CPU threads; by default all cores of the process's affinity mask.
        shapes: as for ``graphopt.compile``, when ``src`` is no graph.
        seed: of random inputs and random choices.
        verify: prove that the result computes what the original with these channels set to zero computes.

    Returns:
        The pruned graph, with all names as they were, and the report.

    Raises:
        UserError: the request can't be met: unknown names, ratio outside (0, 1), nothing that can be removed.
        AccuracyError: the proof failed; nothing is returned.
    """
    goal = parse_target(target if isinstance(target, str) else dict(target), threads)
    step = channel_multiple(goal.caps) if multiple is None else multiple
    request = _Request(
        ratio, parse_budget(budget) if isinstance(budget, str) else budget, find_criterion(criterion), ranking,
        ratios or {}, exclude, step, goal, seed,
    )  # fmt: skip
    _check(request)
    if calibration is None and (reconstruct or request.judge.needs_data):
        what = "reconstruction" if reconstruct else f"criterion {criterion!r}"
        raise UserError(
            f"{what} needs calibration data, and there is none", code="needs-data",
            hint="pass inputs like those that the model will see (calibration=, --calib DATA)",
        )  # fmt: skip
    graph = src if isinstance(src, Graph) else import_onnx(src, shapes=shapes)
    groups = find_groups(graph)
    request.check(groups)
    data = _data(graph, calibration, seed)
    runner = CompiledRunner(threads=threads)
    stats = gather(graph, data.feeds, runner, seed=seed) if request.judge.needs_data else None
    plan = request.plan(groups, stats)
    pruned = apply_plan(plan)
    proof = prove(plan, pruned, data.feeds[0]) if verify else None
    found, repairs = pruned, None
    if data.calibrated if reconstruct is None else reconstruct:
        found, repairs = least_squares(plan, pruned, data.feeds, runner, seed=seed)
    before, after = size_of(graph), size_of(found)
    report = PruneReport(
        source=graph.source,
        criterion=criterion,
        ranking=ranking,
        ratio=ratio,
        budget=None if request.budget is None else str(request.budget),
        multiple=step,
        data=data.describe(seed),
        seed=seed,
        parameters=Change(before.parameters, after.parameters),
        bytes=Change(before.bytes, after.bytes),
        flops=Change(before.flops, after.flops),
        predicted_ms=None,
        measured_ms=None,
        groups=group_rows(plan),
        frozen=groups.frozen,
        outputs=_outputs([graph, pruned, found], data.compared, proof),
        repairs=tuple(repairs.layers) if repairs else (),
        reference=proof.reference if proof else None,
        notes=tuple(_notes(plan, request, stats, repairs)),
    )
    return found, report


def channel_multiple(caps: Caps) -> int:
    """What numbers of channels should be a multiple of: lanes of a vector of float32, or the edge of a tensor core's tile."""
    return TENSOR_CORE_EDGE if caps.is_gpu else caps.lanes(4)


def _check(request: _Request) -> None:
    if (request.ratio is None) == (request.budget is None):
        both = request.ratio is not None
        raise UserError(
            "a ratio and a budget exclude each other" if both else "nothing says how much to remove",
            code="bad-usage", hint="give one of ratio=0.5 (--ratio 0.5) and budget='params=0.5x' (--budget params=0.5x)",
        )  # fmt: skip


def _data(graph: Graph, calibration: Source | None, seed: int) -> _Data:
    signature = signature_of(graph)
    if calibration is not None:
        return _Data(load_calibration(calibration, signature), True)
    return _Data([random_inputs(signature, seed)], False)


def _outputs(
    graphs: Sequence[Graph], compared: Sequence[Mapping[str, Array]], proof: Proof | None
) -> tuple[OutputRow, ...]:
    """How far the outputs moved.

    Args:
        graphs: the original, the pruned one, and that after reconstruction (the same one without).
    """
    _, runs = runners(list(dict.fromkeys(graphs)), compared[0])
    want, got, *again = [[run(feed) for feed in compared] for run in runs]
    noise, left = output_sqnr(want, got), output_sqnr(want, again[0]) if again else {}
    proven = {c.name: c for c in proof.outputs} if proof else {}
    rows = [OutputRow(name, sqnr, left.get(name)) for name, sqnr in noise.items()]
    return tuple(
        replace(row, error=proven[row.name].error, allowed=proven[row.name].allowed) if row.name in proven else row
        for row in rows
    )


def _notes(
    plan: PrunePlan, request: _Request, stats: Statistics | None, repairs: ReconstructionReport | None
) -> Iterator[str]:
    small = [g.name for g in plan.groups.groups if g.size <= request.multiple]
    if small and request.multiple > 1:
        yield f"{len(small)} groups of at most {request.multiple} channels stay whole; multiple=1 would take them too"
    fallbacks = request.judge.fallbacks(plan.groups, stats)
    if fallbacks:
        yield (
            f"{len(fallbacks)} groups that {request.judge.name!r} can't judge are ranked by the L2 norm of their weights: "
            + ", ".join(fallbacks)
        )
    if repairs is not None:
        changed = sum(layer.changed for layer in repairs.layers)
        yield f"{changed} of {len(repairs.layers)} layers were given new weights in {repairs.rounds} rounds"
        if repairs.remark:
            yield repairs.remark
