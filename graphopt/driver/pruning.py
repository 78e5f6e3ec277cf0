"""Structured pruning from end to end: find groups, score channels, plan, remove, prove, report. What ``graphopt prune`` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.target import parse_target
from graphopt.driver.compiling import signature_of
from graphopt.driver.importing import import_onnx
from graphopt.driver.prune_proof import Proof, prove, runners
from graphopt.driver.prune_report import Change, OutputRow, PruneReport, group_rows, output_sqnr
from graphopt.driver.random_inputs import random_inputs
from graphopt.errors import UserError, did_you_mean
from graphopt.ir.graph import Array, Graph
from graphopt.passes.prune.apply import apply_plan
from graphopt.passes.prune.groups import find_groups
from graphopt.passes.prune.importance import Criterion
from graphopt.passes.prune.importance import criterion as find_criterion
from graphopt.passes.prune.plan import PrunePlan
from graphopt.passes.prune.ranking import Ranking, select
from graphopt.passes.prune.size import size_of

if TYPE_CHECKING:
    from graphopt.ir.onnx_load import ModelSource

COMPARED_FEEDS = 8
"""Outputs are compared with the original's on so many sets of inputs at most."""
TENSOR_CORE_EDGE = 8
"""Channels that a tensor core takes at once, in all the types it knows."""


def prune(
    src: ModelSource | Graph,
    *,
    ratio: float | None = None,
    criterion: str = "l2",
    ranking: Ranking = "local",
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
        ratio: part of the channels that goes, between 0 and 1.
        criterion: what tells important channels from others; see ``graphopt.passes.prune.importance``.
        ranking: ``local`` takes the ratio from every group, ``global`` from all channels together, ``isomorphic`` from groups of
            the same kind together.
        ratios: other ratios for layers or groups, by name or pattern; 0 leaves one alone.
        exclude: names or patterns of layers or groups that stay as they are.
        multiple: channels that stay come in multiples of this where a group is large enough; by default those of the target's
            vectors or tensor cores.
        target: see ``graphopt targets``; decides ``multiple`` and the predicted latency.
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
    if ratio is None:
        raise UserError("say how much to remove", code="bad-usage", hint="ratio=0.5 (--ratio 0.5)")
    if ranking not in get_args(Ranking):
        raise UserError(
            f"there is no ranking called {ranking!r}", code="unknown-ranking",
            hint=did_you_mean(ranking, get_args(Ranking)) or f"rankings are {', '.join(get_args(Ranking))}",
        )  # fmt: skip
    judge = find_criterion(criterion)
    goal = parse_target(target if isinstance(target, str) else dict(target), threads)
    graph = src if isinstance(src, Graph) else import_onnx(src, shapes=shapes)
    groups = find_groups(graph)
    step = channel_multiple(goal.caps) if multiple is None else multiple
    scores = judge.score(groups, None, seed)
    plan = select(
        groups, scores, ratio=ratio, ranking=ranking, multiple=step, ratios=ratios or {}, exclude=exclude,
        normalise=not judge.comparable,
    )  # fmt: skip
    require_removal(plan, step)
    pruned = apply_plan(plan)
    feeds = [random_inputs(signature_of(graph), seed)]
    proof = prove(plan, pruned, feeds[0]) if verify else None
    before, after = size_of(graph), size_of(pruned)
    report = PruneReport(
        source=graph.source,
        criterion=criterion,
        ranking=ranking,
        ratio=ratio,
        budget=None,
        multiple=step,
        data=f"random inputs, seed {seed}",
        seed=seed,
        parameters=Change(before.parameters, after.parameters),
        bytes=Change(before.bytes, after.bytes),
        flops=Change(before.flops, after.flops),
        predicted_ms=None,
        measured_ms=None,
        groups=group_rows(plan),
        frozen=groups.frozen,
        outputs=_outputs(graph, pruned, feeds, proof),
        reference=proof.reference if proof else None,
        notes=tuple(_notes(plan, judge, step)),
    )
    return pruned, report


def channel_multiple(caps: Caps) -> int:
    """What numbers of channels should be a multiple of: lanes of a vector of float32, or the edge of a tensor core's tile."""
    return TENSOR_CORE_EDGE if caps.is_gpu else caps.lanes(4)


def require_removal(plan: PrunePlan, multiple: int) -> None:
    """Refuse a plan that removes nothing.

    Raises:
        UserError: the request rounds to nothing.
    """
    if plan.is_empty:
        raise UserError(
            f"rounded to multiples of {multiple}, no group loses a channel", code="nothing-to-prune",
            hint="ask for more, or for a smaller --multiple",
        )  # fmt: skip


def _outputs(
    graph: Graph, pruned: Graph, feeds: Sequence[Mapping[str, Array]], proof: Proof | None
) -> tuple[OutputRow, ...]:
    """How far the outputs moved."""
    _, (whole, small) = runners([graph, pruned], feeds[0])
    compared = feeds[:COMPARED_FEEDS]
    ratios = output_sqnr([whole(feed) for feed in compared], [small(feed) for feed in compared])
    proven = {c.name: c for c in proof.outputs} if proof else {}
    return tuple(
        OutputRow(name, sqnr, error=proven[name].error, allowed=proven[name].allowed)
        if name in proven
        else OutputRow(name, sqnr)
        for name, sqnr in ratios.items()
    )


def _notes(plan: PrunePlan, judge: Criterion, multiple: int) -> Iterator[str]:
    small = [g.name for g in plan.groups.groups if g.size <= multiple]
    if small and multiple > 1:
        yield f"{len(small)} groups of at most {multiple} channels stay whole; multiple=1 would take them too"
    fallbacks = judge.fallbacks(plan.groups)
    if fallbacks:
        yield (
            f"{len(fallbacks)} groups that {judge.name!r} can't judge are ranked by the L2 norm of their weights: "
            + ", ".join(fallbacks)
        )
