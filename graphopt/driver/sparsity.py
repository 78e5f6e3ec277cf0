"""Sparsity from end to end: calibration, zeros, and what they change in the compiled model. What ``graphopt sparsify`` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.backends.base.scratch import no_temporary_files, scratch_folder
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.runnable import can_run_here
from graphopt.driver.bench.measure import Contender, measure
from graphopt.driver.calibration import CompiledRunner, load_calibration
from graphopt.driver.compiling import compile, signature_of
from graphopt.driver.importing import import_onnx
from graphopt.driver.input_shapes import ShapeSpec
from graphopt.driver.prune_proof import Run, runners
from graphopt.driver.prune_report import Change, OutputRow, output_sqnr
from graphopt.driver.random_inputs import random_inputs
from graphopt.driver.sparsity_report import LATENCY_NOTE, SparsityReport, StoredConstants, stored_constants
from graphopt.errors import CompileError, UserError
from graphopt.ir.graph import Array, Graph
from graphopt.passes.prune.calibration.linear_layer import linear_layers
from graphopt.passes.prune.calibration.statistics import gather
from graphopt.passes.prune.sparse.pattern import UNSTRUCTURED, parse_pattern
from graphopt.passes.prune.sparse.repair import Repaired, repair
from graphopt.passes.prune.sparse.sparsity import Method, Scope, weight_rows
from graphopt.passes.prune.sparse.sparsity import sparsify as put_zeros

if TYPE_CHECKING:
    from graphopt.backends.base.target import Target
    from graphopt.driver.calibration_source import Source
    from graphopt.ir.onnx_load import ModelSource
    from graphopt.runtime.model import CompiledModel

COMPARED_FEEDS = 8
"""Outputs are compared with the original's on so many feeds at most."""
REPEAT = 20
"""Rounds of measuring."""


def sparsify(
    src: ModelSource | Graph,
    *,
    ratio: float | None = None,
    pattern: str = UNSTRUCTURED,
    method: Method = "magnitude",
    scope: Scope = "layer",
    calibration: Source | None = None,
    reconstruct: bool | None = None,
    exclude: Sequence[str] = (),
    depthwise: bool = False,
    target: str | Mapping[str, Any] = "native",
    threads: int | None = None,
    shapes: Mapping[str, ShapeSpec] | None = None,
    values: Mapping[str, Any] | None = None,
    strict: bool = False,
    seed: int = 0,
    compiled: bool = True,
) -> tuple[Graph, SparsityReport]:
    """A graph with zeros in its weights, and what that saves: bytes of the compiled file, no time.

    Args:
        src: path, bytes, ModelProto or an imported graph. It is never changed.
        ratio: part of each layer's weights that become zero, between 0 and 1; N:M has its own.
        pattern: ``unstructured``, or N:M such as ``2:4``: at most N of M consecutive input channels stay.
        method: ``magnitude``, or ``wanda``, which weighs magnitude by the inputs' size and needs ``calibration``.
        scope: ``layer``, or ``global``: weights of all layers compared by magnitude.
        calibration: inputs like those that the model will see: a ``.npz`` file, a folder of them, arrays by input name, or
            several of these mappings; ``graphopt.driver.calibration`` says how samples are told apart.
        reconstruct: set the weights that stay anew, by least squares on the calibration data; by default if there is some.
        exclude: names or patterns of layers to leave alone.
        depthwise: also layers whose outputs read one input channel each.
        target: what to compile for to see what the zeros save.
        threads: CPU threads; by default all cores of the process's affinity mask.
        shapes, values, strict: as for ``graphopt.compile``, when ``src`` is no graph.
        seed: of random inputs, on which outputs are compared without calibration data.
        compiled: compile both graphs and report sizes, outputs and latency; False leaves these out.

    Returns:
        The graph, with all names as they were, and the report.

    Raises:
        UserError: the request can't be met: unknown names, a bad ratio or pattern, nothing to make sparse.
    """
    wanted = parse_pattern(pattern, ratio)
    goal = parse_target(target if isinstance(target, str) else dict(target), threads)
    graph = src if isinstance(src, Graph) else import_onnx(src, shapes=shapes, values=values, strict=strict)
    signature = signature_of(graph)
    feeds = None if calibration is None else load_calibration(calibration, signature)
    mend = feeds is not None if reconstruct is None else reconstruct
    if mend and feeds is None:
        raise UserError(
            "reconstruction needs calibration data", code="needs-calibration", hint="give some, or leave it out"
        )
    stats = None
    if feeds is not None and (mend or method == "wanda"):
        stats = gather(graph, feeds, CompiledRunner(threads=threads))
    sparse, layers = put_zeros(
        graph, pattern=pattern, ratio=ratio, method=method, stats=stats if method == "wanda" else None, scope=scope,
        exclude=exclude, depthwise=depthwise,
    )  # fmt: skip
    repaired = repair(graph, sparse, stats) if mend and stats is not None else Repaired((), ())
    count = 0 if feeds is None else len(feeds)
    seen = f"random inputs, seed {seed}" if feeds is None else f"{count} feed{'s'[: count != 1]} of calibration data"
    effect = _Effect()
    if compiled:
        spec = target if isinstance(target, str) else dict(target)
        models = [compile(g, spec, threads=threads) for g in (graph, sparse)]
        effect = _effect([graph, sparse], models, feeds or [random_inputs(signature, seed)], goal)
    return sparse, SparsityReport(
        source=graph.source,
        pattern=pattern,
        method=method,
        scope=scope,
        ratio=wanted.ratio,
        data=seen,
        target=goal.name,
        layers=layers,
        reconstructed=repaired.layers,
        artifact_bytes=effect.artifact_bytes,
        dense_bytes=effect.dense_bytes,
        stored=effect.stored,
        outputs=effect.outputs,
        latency_ms=effect.latency_ms,
        notes=(*effect.notes, *_unrepaired(repaired), *_dead_channels(sparse)),
    )


@dataclass(frozen=True)
class _Effect:
    """What compiling both graphs showed; attributes as in ``SparsityReport``."""

    artifact_bytes: Change | None = None
    dense_bytes: int | None = None
    stored: tuple[StoredConstants, ...] = ()
    outputs: tuple[OutputRow, ...] = ()
    latency_ms: Change | None = None
    notes: tuple[str, ...] = ()


def _effect(
    graphs: Sequence[Graph], models: Sequence[CompiledModel], feeds: Sequence[Mapping[str, Array]], target: Target
) -> _Effect:
    notes = []
    sizes: list[int] | None = None
    try:
        sizes = [file_bytes(models[0]), file_bytes(models[1]), file_bytes(models[1], compressed=False)]
    except CompileError as error:
        notes.append(f"the compiled files' sizes are not known: {error.message}")
    stored = stored_constants(models[1].program) if models[1].program is not None else ()
    notes += [
        f"Winograd's transformation fills zeros in: {row.zeros:.0%} are left in the form that these kernels read, and "
        f"{row.stored / max(row.bytes, 1):.0%} of their bytes; compiling with --exact (exact=True) does without Winograd"
        for row in stored
        if "winograd" in row.template
    ]
    verdict = can_run_here(target)
    latency = None
    if verdict:
        run: list[Run] = [model.run for model in models]
        latency = Change(*_latencies(models, feeds[0]))
        notes.append(LATENCY_NOTE)
    else:
        run = runners(graphs, feeds[0])[1]
        notes.append(f"latency was not measured: {verdict.reason}; {LATENCY_NOTE}")
    compared = feeds[:COMPARED_FEEDS]
    results = [[{name: np.array(a) for name, a in r(feed).items()} for feed in compared] for r in run]
    outputs = tuple(OutputRow(name, ratio) for name, ratio in output_sqnr(*results).items())
    return _Effect(
        None if sizes is None else Change(sizes[0], sizes[1]),
        None if sizes is None else sizes[2],
        stored,
        outputs,
        latency,
        tuple(notes),
    )


def file_bytes(model: CompiledModel, compressed: bool = True) -> int:
    """Bytes of a compiled model's file.

    Raises:
        CompileError: no linker is at hand, or temporary files can't be written.
        ArtifactError: there is no room for the file.
    """
    try:
        with scratch_folder() as folder:
            path = folder / "model.gopt"
            model.save(path, compressed=compressed)
            return path.stat().st_size
    except OSError as error:
        raise no_temporary_files(error) from error


def _latencies(models: Sequence[CompiledModel], feed: Mapping[str, Array]) -> tuple[float, float]:
    """Median milliseconds of two models, in alternation."""
    dense, sparse = models
    found = measure(
        [Contender("dense", lambda: dense.run(feed)), Contender("sparse", lambda: sparse.run(feed))], repeat=REPEAT
    )
    return found[0].median_ms, found[1].median_ms


def _unrepaired(repaired: Repaired) -> Iterator[str]:
    if repaired.left:
        yield (
            f"{len(repaired.left)} layers keep the weights that they had, as their rows are too long, their weights are shared or "
            f"no data reached them: {', '.join(repaired.left)}"
        )


def _dead_channels(graph: Graph) -> Iterator[str]:
    """Output channels that lost all their weights."""
    dead = {
        name: int((~weight_rows(layer, layer.w.data).any(axis=(2, 3))).sum())
        for name, layer in linear_layers(graph).items()
        if layer.w.data is not None
    }
    found = {name: count for name, count in dead.items() if count}
    if found:
        most = max(found, key=lambda name: found[name])
        yield (
            f"{sum(found.values())} rows of weights in {len(found)} layers are all zero, {found[most]} of them in {most}; "
            "remove-dead-channels (-O3) removes the channels that it can prove dead"
        )
