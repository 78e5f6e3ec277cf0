"""Structured pruning from end to end: find groups, score channels, plan, remove, prove, report. What ``graphopt prune`` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.prediction import Predictor
from graphopt.driver.calibration import CompiledRunner, load_calibration
from graphopt.driver.compiling import signature_of
from graphopt.driver.importing import import_onnx
from graphopt.driver.input_shapes import ShapeSpec
from graphopt.driver.latency_change import Latencies, latencies
from graphopt.driver.prune_proof import Proof, prove, runners
from graphopt.driver.prune_report import Change, OutputRow, PruneReport, group_rows, output_sqnr
from graphopt.driver.prune_request import PruneRequest
from graphopt.driver.random_inputs import random_inputs
from graphopt.errors import UserError
from graphopt.ir.dims import as_symbol
from graphopt.ir.editor import clone
from graphopt.ir.graph import Array, Graph
from graphopt.passes.prune.apply import apply_plan
from graphopt.passes.prune.calibration.statistics import Statistics, gather
from graphopt.passes.prune.choice.budget import Budget, parse_budget
from graphopt.passes.prune.choice.size import size_of
from graphopt.passes.prune.groups import find_groups
from graphopt.passes.prune.importance import criterion as find_criterion
from graphopt.passes.prune.plan import PrunePlan
from graphopt.passes.prune.prepare import prepare
from graphopt.passes.prune.recovery.reconstruct import HELD_OUT, ReconstructionReport
from graphopt.passes.prune.recovery.reconstruct import reconstruct as least_squares

if TYPE_CHECKING:
    from graphopt.driver.calibration_source import Source
    from graphopt.ir.onnx_load import ModelSource

COMPARED_FEEDS = 8
"""Outputs are compared with the original's on so many feeds at most."""


@dataclass(frozen=True)
class _Data:
    """Inputs of the model, and whether they mean anything."""

    feeds: Sequence[Mapping[str, Array]]
    calibrated: bool

    @property
    def compared(self) -> Sequence[Mapping[str, Array]]:
        """What outputs are compared on: feeds that reconstruction doesn't fit to, where there are several."""
        return self.feeds[-min(COMPARED_FEEDS, ceil(len(self.feeds) / HELD_OUT)) :]

    def one(self, graph: Graph) -> Mapping[str, Array]:
        """One sample, where that can be told."""
        feed = self.feeds[0]
        symbols = {as_symbol(v.shape[0]) if v.shape else None for v in graph.inputs}
        batched = len(symbols) == 1 and symbols != {None}
        return {name: array[:1] for name, array in feed.items()} if batched else feed

    def timed(self, graph: Graph, seed: int) -> Mapping[str, Array]:
        """Inputs to measure latency with: those of ``graphopt bench`` where it can make some."""
        try:
            return random_inputs(signature_of(graph), seed)
        except UserError:
            return self.feeds[0]

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
    shapes: Mapping[str, ShapeSpec] | None = None,
    values: Mapping[str, Any] | None = None,
    strict: bool = False,
    seed: int = 0,
    verify: bool = True,
    predict: bool = True,
    measure: bool = False,
) -> tuple[Graph, PruneReport]:
    """A smaller graph without the least important channels, and what that did.

    Args:
        src: path, bytes, ModelProto or an imported graph. It is never changed.
        ratio: part of the channels that goes, between 0 and 1. Either this or ``budget``.
        budget: what may be left: ``"params=0.5x"``, ``"flops=2G"``, ``"bytes=4MB"``, ``"latency=0.6x"``, ``"latency=3ms"``.
            A budget of latency is searched for by prediction and met as measured, where the target runs here; it has a
            ranking of its own, by importance lost for time saved.
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
        shapes, values, strict: as for ``graphopt.compile``, when ``src`` is no graph.
        seed: of random inputs and random choices.
        verify: prove that the result computes what the original with these channels set to zero computes.
        predict: predict the latency on the target, which takes two lowerings of the model.
        measure: compile both graphs and measure the latency side by side, if the target runs here.

    Returns:
        The pruned graph, with all names as they were, and the report.

    Raises:
        UserError: the request can't be met: unknown names, ratio outside (0, 1), nothing that can be removed.
        AccuracyError: the proof failed; nothing is returned.
    """
    goal = parse_target(target if isinstance(target, str) else dict(target), threads)
    request = PruneRequest(
        ratio, parse_budget(budget) if isinstance(budget, str) else budget, find_criterion(criterion), ranking,
        ratios or {}, tuple(exclude), Predictor(goal).channel_multiple if multiple is None else multiple, goal, seed,
    )  # fmt: skip
    if calibration is None and (reconstruct or request.judge.needs_data):
        what = "reconstruction" if reconstruct else f"criterion {criterion!r}"
        raise UserError(
            f"{what} needs calibration data, and there is none", code="needs-data",
            hint="pass inputs like those that the model will see (calibration=, --calib DATA)",
        )  # fmt: skip
    original = src if isinstance(src, Graph) else import_onnx(src, shapes=shapes, values=values, strict=strict)
    graph = clone(original)
    rewritten = prepare(graph)
    groups = find_groups(graph)
    request.check(groups)
    data = _data(graph, calibration, seed)
    runner = CompiledRunner(threads=threads)
    stats = gather(graph, data.feeds, runner, seed=seed) if request.judge.needs_data else None
    feed = data.timed(graph, seed)
    plan, times = request.plan(groups, stats, feed)
    pruned = apply_plan(plan)
    proof = prove(plan, pruned, data.one(graph)) if verify else None
    found, repairs = pruned, None
    if data.calibrated if reconstruct is None else reconstruct:
        found, repairs = least_squares(plan, pruned, data.feeds, runner, seed=seed)
    if times is None:
        times = latencies(original, found, goal, feed, measured=measure) if predict or measure else Latencies()
    before, after = size_of(original), size_of(found)
    report = PruneReport(
        source=graph.source,
        criterion=criterion,
        ranking=ranking,
        ratio=ratio,
        budget=None if request.budget is None else str(request.budget),
        multiple=request.multiple,
        data=data.describe(seed),
        seed=seed,
        parameters=Change(before.parameters, after.parameters),
        bytes=Change(before.bytes, after.bytes),
        flops=Change(before.flops, after.flops),
        predicted_ms=times.predicted,
        measured_ms=times.measured,
        groups=group_rows(plan),
        frozen=groups.frozen,
        outputs=_outputs([original, pruned, found], data.compared, proof),
        repairs=tuple(repairs.layers) if repairs else (),
        reference=proof.reference if proof else None,
        notes=(*_notes(plan, request, stats, repairs, proof, rewritten), *times.notes),
    )
    return found, report


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
    plan: PrunePlan,
    request: PruneRequest,
    stats: Statistics | None,
    repairs: ReconstructionReport | None,
    proof: Proof | None,
    rewritten: int,
) -> Iterator[str]:
    if rewritten:
        what = "1 transposition" if rewritten == 1 else f"{rewritten} transpositions"
        yield f"{what} through merged axes, in which no channel can be followed, became one node each"
    fallbacks = request.judge.fallbacks(plan.groups, stats)
    if fallbacks:
        yield (
            f"{len(fallbacks)} groups that {request.judge.name!r} can't judge are ranked by the L2 norm of their weights: "
            + ", ".join(fallbacks)
        )
    if proof is not None and proof.amplified:
        yield (
            "the model amplifies rounding on the inputs tried, so its outputs differ from the masked original's; "
            "node by node the two agree"
        )
    if proof is not None and proof.missing:
        yield f"outputs agree, but the graph could not be looked at node by node: {proof.missing}"
    if repairs is not None:
        changed = sum(layer.changed for layer in repairs.layers)
        yield f"{changed} of {len(repairs.layers)} layers were given new weights in {repairs.rounds} rounds"
        if repairs.remark:
            yield repairs.remark
