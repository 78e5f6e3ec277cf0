"""Argument groups that verbs share, and the parsing of ``name=value`` pairs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from graphopt.errors import UserError
from graphopt.ir.levels import DEFAULT_LEVEL, levels_text

ModelArg = Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX model.", show_default=False)]
TargetOpt = Annotated[
    str, typer.Option("--target", "-t", metavar="TARGET", help="What to compile for; `graphopt targets` lists them.")
]
ShapeOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--shape", metavar="NAME=SHAPE", help="Fix or rename input dimensions: x=1x3x224x224, x=Nx3xHxW. Repeatable."
    ),
]
ValueOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--value",
        metavar="NAME=VALUE",
        help="An input's value, always the same: sr=16000, flags=1,0, mode=true, x=FILE.npy. Repeatable.",
    ),
]
StateOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        metavar="auto|OUTPUT=INPUT",
        help="Keep in the model's memory what a run appends to an input and returns: keys and values of earlier tokens. "
        "The model then runs by sessions. Repeatable.",
    ),
]
StrictOpt = Annotated[
    bool,
    typer.Option(
        "--strict", help="Refuse what ONNX's checker refuses, even where a model can be meant in one way only."
    ),
]
LevelOpt = Annotated[int, typer.Option("-O", "--level", metavar="0..3", help=f"Optimisation level. {levels_text()}.")]
PlannedLevelOpt = Annotated[
    int | None,
    typer.Option(
        "-O",
        "--level",
        metavar="0..3",
        help=f"Optimisation level; by default as the plan says, else {DEFAULT_LEVEL}. {levels_text()}.",
        show_default=False,
    ),
]
PassOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--pass",
        metavar="NAME{OPT=V}",
        help="Run these passes, in order, instead of the level's; O2 stands for all of -O2. Repeatable; "
        "`graphopt passes` lists them.",
    ),
]
SkipOpt = Annotated[list[str] | None, typer.Option("--skip-pass", metavar="NAME", help="Leave a pass out. Repeatable.")]
ExactOpt = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="Leave out what rounds otherwise than each operator by itself: Winograd, float32 between nodes of 16-bit models.",
    ),
]
VerifyOpt = Annotated[bool, typer.Option("--verify-each", help="Check the graph's invariants after every pass.")]
RemarksOpt = Annotated[
    bool, typer.Option("--remarks", help="Print what passes did and what they refused, with reasons.")
]
ThreadsOpt = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", help="CPU threads; by default all that this process may use."),
]
NoCacheOpt = Annotated[
    bool, typer.Option("--no-cache", help="Compile every kernel anew; leave the cache alone (see `graphopt cache`).")
]
JobsOpt = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        metavar="N",
        help="Processes that compile; by default $GRAPHOPT_JOBS, else one for each usable CPU.",
    ),
]
PlanOpt = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        metavar="FILE",
        help="Compute kernels as this plan says (--write-plan of compile).",
        show_default=False,
    ),
]
PrecisionOpt = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="fp16|bf16|FILE.json",
        help="Store and compute in 16 bits what bears it, or what a plan says (--write-plan of `graphopt convert`); "
        "by default the model's own types.",
        show_default=False,
    ),
]
QuantizedPrecisionOpt = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="fp16|bf16|int8|FILE.json",
        help="Store and compute in 16 bits what bears it, or what a plan says (--write-plan of `graphopt convert`); "
        "int8: quantize first (--calib); by default the model's own types.",
        show_default=False,
    ),
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
CalibOpt = Annotated[
    Path | None,
    typer.Option(
        "--calib", metavar="DIR|FILE.npz", help="Inputs like those that the model will see.", show_default=False
    ),
]
DataOpt = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DIR|FILE|MODULE:FUNCTION",
        help="Inputs like those that the model will see: .npz or .npy files, or a function that returns an iterable.",
        show_default=False,
    ),
]
NoReconstructOpt = Annotated[
    bool, typer.Option("--no-reconstruct", help="With --calib: leave the weights that stay as they are.")
]
SeedOpt = Annotated[int, typer.Option("--seed", help="Seed of random inputs.")]
InputOpt = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", metavar="NAME=FILE.npy", help="Array for an input. Repeatable."),
]


def pairs(option: str, items: Sequence[str] | None, example: str) -> dict[str, str]:
    """``name=value`` items as a dict, in order. Names may contain ``=`` no more than values may lack one.

    Raises:
        UserError: an item without ``=``, or a name given twice.
    """
    found: dict[str, str] = {}
    for item in items or ():
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise UserError(f"{option} {item!r} is not NAME=VALUE", code="bad-option", hint=f"write {option} {example}")
        if name in found:
            raise UserError(f"{option} gives {name!r} twice", code="bad-option", hint="leave one of them out")
        found[name] = value
    return found


def shapes_of(items: Sequence[str] | None) -> dict[str, str]:
    """What ``--shape`` gave."""
    return pairs("--shape", items, "x=1x3x224x224")


def check_output(output: Path, *inputs: Path) -> None:
    """Refuse to write over an input or into a folder that doesn't exist, before any work is done.

    Raises:
        UserError: with a hint.
    """
    for path in inputs:
        if output.exists() and path.exists() and os.path.samefile(output, path):
            raise UserError(
                f"{output} is an input of this command", code="output-is-input", hint="give the output another name"
            )
    if output.is_dir():
        raise UserError(f"{output} is a directory", code="bad-output", hint="name the file to write inside it")
    if not output.parent.is_dir():
        raise UserError(f"there is no folder {output.parent}", code="bad-output", hint="create it first")


def check_folder(folder: Path) -> None:
    """Refuse a folder that can't be made or written to, before any work is done.

    Raises:
        UserError: with a hint.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is no folder", code="bad-output", hint="give the folder another name")
    if not folder.parent.is_dir():
        raise UserError(f"there is no folder {folder.parent}", code="bad-output", hint="create it first")


def is_artifact(path: Path) -> bool:
    """Whether a file is a compiled model: by its first bytes, or by its name when it can't be read."""
    from graphopt.runtime.artifact import MAGIC

    try:
        with path.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC or path.suffix == ".gopt"
    except OSError:
        return path.suffix == ".gopt"
