"""``graphopt run``: arrays in, arrays out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import console
from graphopt.cli.arrays import input_paths, load_arrays, save_arrays
from graphopt.cli.options import (
    InputOpt,
    JsonOpt,
    NoCacheOpt,
    ShapeOpt,
    StrictOpt,
    ThreadsOpt,
    ValueOpt,
    is_artifact,
    shapes_of,
)
from graphopt.cli.values import values_of
from graphopt.errors import UserError

if TYPE_CHECKING:
    from graphopt.ir.precision_choices import PrecisionChoices
    from graphopt.runtime.model import CompiledModel


def run_verb(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help=".gopt file, or an ONNX model to compile first.")],
    output_dir: Annotated[
        Path, typer.Option("--output-dir", metavar="DIR", help="Folder for the outputs, one NAME.npy each.")
    ],
    input: InputOpt = None,
    shape: ShapeOpt = None,
    value: ValueOpt = None,
    strict: StrictOpt = False,
    threads: ThreadsOpt = None,
    no_cache: NoCacheOpt = False,
    json: JsonOpt = False,
) -> None:
    """Run MODEL on arrays from .npy files and save its outputs."""
    paths = input_paths(input)
    feed = load_arrays(paths)
    compiled = load_or_compile(model, shapes_of(shape), threads, not no_cache, values=values_of(value), strict=strict)
    start = time.perf_counter()
    outputs = compiled.run(feed)
    seconds = time.perf_counter() - start
    files = save_arrays(output_dir, outputs, [*paths.values(), model])
    if json:
        console.print_json(
            {
                "seconds": round(seconds, 6),
                "outputs": {
                    name: {"file": str(files[name]), "dtype": str(array.dtype), "shape": list(array.shape)}
                    for name, array in outputs.items()
                },
            }
        )
        return
    for name, array in outputs.items():
        console.out.print(f"{name}: {array.dtype}{list(array.shape)} -> {files[name]}", markup=False)


def load_or_compile(
    model: Path,
    shapes: dict[str, str],
    threads: int | None,
    cache: bool = True,
    *,
    values: dict[str, Any] | None = None,
    strict: bool = False,
    plan: Path | None = None,
    precision: str | PrecisionChoices | None = None,
) -> CompiledModel:
    """A model from an artefact, or compiled for this machine.

    Raises:
        UserError: an option that an artefact can't follow any more.
    """
    if is_artifact(model):
        if shapes or values or threads is not None or plan is not None or precision is not None:
            raise UserError(
                f"{model} is compiled already: --shape, --value, --threads, --plan and --precision were decided then",
                code="bad-usage",
                hint="give them to graphopt compile, or pass the ONNX model here",
            )
        from graphopt.runtime.load import load

        with console.working(f"loading {model.name}"):
            return load(model)
    with console.working(f"compiling {model.name}"):
        from graphopt.driver.compiling import compile

        return compile(
            model,
            "native",
            shapes=shapes,
            values=values,
            strict=strict,
            threads=threads,
            cache=cache,
            plan=plan,
            precision=precision,
        )
