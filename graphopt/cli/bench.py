"""``graphopt bench``: latency, beside peers in the same run."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import console
from graphopt.cli.options import JsonOpt, SeedOpt, ShapeOpt, ThreadsOpt, is_artifact, shapes_of
from graphopt.cli.run import load_or_compile
from graphopt.errors import UserError


def bench_verb(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX model or .gopt file.", show_default=False)],
    shape: ShapeOpt = None,
    threads: ThreadsOpt = None,
    repeat: Annotated[int, typer.Option("--repeat", metavar="N", help="Rounds at most.")] = 30,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare", metavar="PEER", help="Also time onnxruntime or tvm (its default pipeline). Repeatable."
        ),
    ] = None,
    seed: SeedOpt = 0,
    json: JsonOpt = False,
) -> None:
    """Time MODEL on random inputs, in alternation with peers; ratios above 1 mean that graphopt is faster."""
    compiled_before = is_artifact(model)
    if compiled_before and compare:
        raise UserError(
            "--compare needs the ONNX model: peers can't read an artefact",
            code="bad-usage",
            hint="graphopt bench model.onnx --compare onnxruntime",
        )
    with console.working("loading the compiler"):
        from graphopt.driver.benchmarking import Contender, measure, peer
        from graphopt.driver.random_inputs import random_inputs
    start = time.perf_counter()
    compiled = load_or_compile(model, shapes_of(shape), threads)
    prepared_s = time.perf_counter() - start
    assert compiled.target is not None
    cores = compiled.target.caps.cores
    feed = random_inputs(compiled.signature, seed)
    contenders = [Contender("graphopt", lambda: compiled.run(feed), None if compiled_before else prepared_s)]
    for name in compare or ():
        with console.working(f"preparing {name}"):
            contenders.append(peer(name, model, feed, cores))
    with console.working("measuring"):
        results = measure(contenders, repeat)
    if json:
        console.print_json(
            {
                "model": str(model),
                "target": compiled.target.name,
                "threads": cores,
                "inputs": {name: list(array.shape) for name, array in feed.items()},
                "results": [asdict(r) for r in results],
            }
        )
        return
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
    title = f"{model.name} on {compiled.target.name}, {cores} threads, {shapes}"
    numbers = ("median ms", "min ms", "p90 ms", "runs", "ready after s", "ratio")
    table = console.make_table(title, "", *numbers, right=numbers)
    for r in results:
        table.add_row(
            r.name,
            f"{r.median_ms:.2f}",
            f"{r.min_ms:.2f}",
            f"{r.p90_ms:.2f}",
            str(r.runs),
            "" if r.compile_s is None else f"{r.compile_s:.1f}",
            f"{r.ratio:.2f}",
        )
    console.out.print(table)
