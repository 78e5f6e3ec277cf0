"""The application: all verbs under one name."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import (
    bench,
    cache,
    check,
    compile,
    convert,
    demo,
    inspect,
    optimize,
    passes,
    prune,
    quantize,
    run,
    sparsify,
    targets,
)

app = typer.Typer(
    name="graphopt",
    help="Compile ONNX models into fast, checked native code for x86, ARM and CUDA.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"graphopt {metadata.version('graphopt')}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compile ONNX models into fast, checked native code for x86, ARM and CUDA."""


app.command("compile")(compile.compile_verb)
app.command("optimize")(optimize.optimize_verb)
app.command("prune")(prune.prune_verb)
app.command("convert")(convert.convert_verb)
app.command("quantize")(quantize.quantize_verb)
app.command("sparsify")(sparsify.sparsify_verb)
app.command("inspect")(inspect.inspect_verb)
app.command("run")(run.run_verb)
app.command("check")(check.check_verb)
app.command("bench")(bench.bench_verb)
app.command("targets")(targets.targets_verb)
app.command("cache")(cache.cache_verb)
app.command("passes")(passes.passes_verb)
app.command("demo")(demo.demo_verb)
