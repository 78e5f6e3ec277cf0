"""``graphopt bench``: latency, beside peers in the same run; time per kernel against the machine's peaks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import console
from graphopt.cli.options import (
    JsonOpt,
    PlanOpt,
    PrecisionOpt,
    SeedOpt,
    ShapeOpt,
    StrictOpt,
    ThreadsOpt,
    ValueOpt,
    check_output,
    is_artifact,
    shapes_of,
)
from graphopt.cli.run import load_or_compile
from graphopt.cli.values import values_of
from graphopt.errors import UserError

if TYPE_CHECKING:
    from graphopt.driver.bench.compete import Standings
    from graphopt.ir.precision_choices import PrecisionChoices
    from graphopt.runtime.model import CompiledModel


def bench_verb(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX model or .gopt file.", show_default=False)],
    shape: ShapeOpt = None,
    value: ValueOpt = None,
    strict: StrictOpt = False,
    threads: ThreadsOpt = None,
    plan: PlanOpt = None,
    precision: PrecisionOpt = None,
    repeat: Annotated[int, typer.Option("--repeat", metavar="N", help="Rounds at most.")] = 30,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare",
            metavar="PEER,...",
            help="Also time onnxruntime, openvino, mnn or tvm (its default pipeline). Repeatable.",
        ),
    ] = None,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Also show time and part of the measured peak of every kernel.")
    ] = False,
    roofline: Annotated[
        Path | None, typer.Option("--roofline", metavar="FILE.png", help="Plot the kernels under the measured peaks.")
    ] = None,
    seed: SeedOpt = 0,
    json: JsonOpt = False,
) -> None:
    """Time MODEL on random inputs, in alternation with peers; ratios above 1 mean that graphopt is faster."""
    compiled_before = is_artifact(model)
    names = peer_names(compare)
    if compiled_before and names:
        raise UserError(
            "--compare needs the ONNX model: peers can't read an artefact",
            code="bad-usage",
            hint="graphopt bench model.onnx --compare onnxruntime",
        )
    with console.working("loading the compiler"):
        from graphopt.driver.bench.measure import Contender, measure, require_rounds
        from graphopt.driver.bench.peers.prepare import peer_info
        from graphopt.driver.random_inputs import random_inputs
        from graphopt.ir.precision_choices import precision_name, read_precision
    require_rounds(repeat)
    chosen = read_precision(precision)
    for name in names:
        peer_info(name)  # unknown or not installed: said before the work, not after
    if roofline is not None:
        from graphopt.driver.figures import require_matplotlib

        check_output(roofline, model)
        require_matplotlib()
    start = time.perf_counter()
    compiled = load_or_compile(
        model, shapes_of(shape), threads, values=values_of(value), strict=strict, plan=plan, precision=chosen
    )
    prepared_s = time.perf_counter() - start
    assert compiled.target is not None
    cores = compiled.target.caps.cores
    feed = random_inputs(compiled.signature, seed)
    absent: list[tuple[str, str]] = []
    if names:
        how = {"values": values_of(value), "strict": strict}
        standings = _compare(compiled, names, model, feed, prepared_s, repeat, how, chosen)
        results, absent = standings.latencies, standings.absent
    else:
        ours = Contender("graphopt", lambda: compiled.run(feed), None if compiled_before else prepared_s)
        with console.working("measuring"):
            results = measure([ours], repeat)
    layers = _layers(compiled, feed, repeat, model.name, roofline) if per_layer or roofline is not None else None
    if json:
        console.print_json(
            {
                "model": str(model),
                "target": compiled.target.name,
                "threads": cores,
                "precision": precision_name(chosen),
                "inputs": {name: list(array.shape) for name, array in feed.items()},
                "results": [{**asdict(r), "error": console.finite(r.error)} for r in results],
                "absent": [{"name": name, "reason": reason} for name, reason in absent],
                **({"per_layer": layers[1]} if layers else {}),
            }
        )
        return
    from graphopt.cli.bench_tables import latency_table

    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
    what = model.name if chosen is None else f"{model.name} in {precision_name(chosen)}"
    title = f"{what} on {compiled.target.name}, {cores} threads, {shapes}"
    console.print_table(latency_table(title, results, absent))
    if layers and per_layer:
        console.print_table(layers[0])
    if roofline is not None:
        console.out.print(f"roofline: {roofline}", markup=False)


def peer_names(items: Sequence[str] | None) -> list[str]:
    """What ``--compare`` gave: names separated by commas, each once."""
    return list(dict.fromkeys(name.strip() for item in items or () for name in item.split(",") if name.strip()))


def _compare(
    compiled: CompiledModel,
    names: Sequence[str],
    model: Path,
    feed: Mapping[str, Any],
    prepared_s: float,
    repeat: int,
    how: Mapping[str, Any],
    precision: str | PrecisionChoices | None,
) -> Standings:
    """Ours and peers, each in a process of its own, and how peers agree with us.

    Args:
        prepared_s: seconds that compiling took.
        how: arguments of ``import_onnx`` besides shapes.
        precision: what we compute in, where that isn't what the model says; peers compute as it says.
    """
    from graphopt.backends.base.scratch import scratch_folder
    from graphopt.driver.bench.agreement import tolerance_of
    from graphopt.driver.bench.compete import compete
    from graphopt.driver.bench.entrants import open_axes_of, own_entrant, peer_entrant
    from graphopt.driver.edge_types import in_types_of
    from graphopt.driver.importing import import_onnx
    from graphopt.ir.precision_choices import casts_edges

    with console.working("comparing"):
        graph = import_onnx(model, shapes={name: a.shape for name, a in feed.items()}, **how)
        tolerance = tolerance_of(graph, precision)
        expected = {name: array.copy() for name, array in compiled.run(feed).items()}
        theirs = feed
        if casts_edges(precision):
            theirs, expected = in_types_of(graph.inputs, feed), in_types_of(graph.outputs, expected)
        theirs = {**theirs, **graph.fixed}  # peers take the model as it came
    assert compiled.target is not None
    cores, left = compiled.target.caps.cores, open_axes_of(compiled.signature)
    with scratch_folder() as folder:
        ours = own_entrant(compiled, folder, feed, prepared_s)
        peers = [peer_entrant(name, model, folder, theirs, cores, left) for name in names]
        return compete(
            [ours, *peers], repeat, expected=expected, tolerance=tolerance, working=console.working
        )  # fmt: skip


def _layers(
    compiled: CompiledModel, feed: Mapping[str, Any], repeat: int, title: str, roofline: Path | None
) -> tuple[Any, dict[str, Any]]:
    """The table of kernels and its JSON form; draws the plot."""
    from graphopt.cli.bench_tables import layer_table, layers_json
    from graphopt.driver.bench.machine_peak import machine_peaks
    from graphopt.driver.bench.per_layer import measure_layers

    assert compiled.target is not None
    with console.working("timing kernels"):
        found = measure_layers(compiled, feed, repeat)
    with console.working("measuring the machine's peaks"):
        peaks = machine_peaks(compiled.target)
    if roofline is not None:
        from graphopt.driver.bench.roofline import write_roofline

        write_roofline(roofline, f"{title}, {peaks.threads} threads", found.layers, peaks)
    return layer_table(found, peaks), layers_json(found, peaks)
