"""``graphopt inspect``: what is in a model or artefact, and how it looks at each of the three levels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from graphopt.cli import console
from graphopt.cli.options import (
    ExactOpt,
    JsonOpt,
    LevelOpt,
    PassOpt,
    ShapeOpt,
    SkipOpt,
    StrictOpt,
    TargetOpt,
    ThreadsOpt,
    ValueOpt,
    is_artifact,
    shapes_of,
)
from graphopt.cli.values import values_of
from graphopt.errors import UserError
from graphopt.ir.levels import DEFAULT_LEVEL


def inspect_verb(
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="ONNX model or .gopt file.", show_default=False)
    ] = None,
    stage: Annotated[
        Literal["graph", "fused", "program"] | None,
        typer.Option("--stage", help="Print the model at this level instead of a summary.", show_default=False),
    ] = None,
    target: TargetOpt = "native",
    ops: Annotated[bool, typer.Option("--ops", help="List the operators that can be compiled.")] = False,
    shape: ShapeOpt = None,
    value: ValueOpt = None,
    strict: StrictOpt = False,
    level: LevelOpt = DEFAULT_LEVEL,
    exact: ExactOpt = False,
    costs: Annotated[
        bool,
        typer.Option("--costs", help="With --stage program: work of each kernel, predictions of all its templates."),
    ] = False,
    prune_groups: Annotated[
        bool, typer.Option("--prune-groups", help="Channels that can be removed together, and those that can't.")
    ] = False,
    passes: PassOpt = None,
    skip_pass: SkipOpt = None,
    threads: ThreadsOpt = None,
    json: JsonOpt = False,
) -> None:
    """Show what MODEL consists of; with --stage as text after optimisation (-O0: as imported)."""
    if ops:
        _operators(json)
        return
    if model is None:
        raise UserError("inspect needs a model", code="bad-usage", hint="graphopt inspect model.onnx, or --ops")
    if is_artifact(model):
        if stage is not None or prune_groups:
            raise UserError(
                f"{model} holds compiled code, which has no {'stages' if stage else 'graph to prune'}",
                code="bad-usage",
                hint="inspect the ONNX model that it was compiled from",
            )
        _artifact(model, json)
        return
    if costs and stage != "program":
        raise UserError(
            "--costs needs --stage program", code="bad-usage", hint="graphopt inspect m.onnx --stage program --costs"
        )
    how = {"shapes": shapes_of(shape), "values": values_of(value), "strict": strict}
    if prune_groups:
        if stage is not None:
            raise UserError("--prune-groups and --stage exclude each other", code="bad-usage", hint="leave one out")
        from graphopt.cli.prune_groups import show_groups

        show_groups(model, how, json)
        return
    if stage is None:
        _summary(model, how, json)
        return
    text = stage_text(model, stage, target, how, level, passes, skip_pass or [], threads, exact, costs)
    if json:
        console.print_json({"stage": stage, "text": text})
    else:
        console.out.print(text, markup=False)


def stage_text(
    model: Path,
    stage: str,
    target: str,
    how: dict[str, Any],
    level: int,
    passes: list[str] | None,
    skip: list[str],
    threads: int | None,
    exact: bool = False,
    costs: bool = False,
) -> str:
    """The printed form of a model at one of the three levels."""
    with console.working(f"working on {model.name}"):
        if stage == "graph":
            from graphopt.driver.importing import import_onnx
            from graphopt.driver.optimizing import optimize
            from graphopt.ir.printer import format_graph

            graph = import_onnx(model, **how)
            return format_graph(optimize(graph, level, passes or None, skip=skip, for_export=False))
        from graphopt.driver.compiling import to_program

        _, fused, program = to_program(
            model, target, threads=threads, level=level, exact=exact, passes=passes or None, skip=skip, **how
        )
        if stage == "fused":
            from graphopt.ir.fused import format_fused

            return format_fused(fused)
        from graphopt.backends.program.program import format_program

        if costs and program.target.arches:
            from graphopt.backends.build.object_cache import default_cache
            from graphopt.backends.targets.compilation import build_program

            return format_program(program, costs, build_program(program, default_cache()).remarks_on)
        return format_program(program, costs)


def _operators(json: bool) -> None:
    with console.working("loading the compiler"):
        import graphopt.backends.targets.compilation  # noqa: F401  (fills the table of lowerings)
        from graphopt.backends.lower.registry import names as lowered
        from graphopt.ops.registry import CONTROL
        from graphopt.ops.table import ops_with
    names = sorted({*lowered(), *ops_with(CONTROL)})
    if json:
        console.print_json({"operators": names})
    else:
        console.out.print("\n".join(names), markup=False)


def _summary(model: Path, how: dict[str, Any], json: bool) -> None:
    from graphopt.cli.optimize import count_ops
    from graphopt.driver.importing import import_onnx
    from graphopt.passes.layout.states import find_states

    with console.working(f"reading {model.name}"):
        graph = import_onnx(model, **how)
    constants = [v.data for v in graph.constants() if v.data is not None]
    counts = count_ops(graph)
    facts: dict[str, Any] = {
        "model": str(model),
        "opset": graph.opset,
        "inputs": [f"{v.name}: {v.type}" for v in graph.inputs],
        "outputs": [f"{v.name}: {v.type}" for v in graph.outputs],
        "nodes": sum(counts.values()),
        "operators": dict(counts.most_common()),
        "parameters": sum(int(c.size) for c in constants),
        "weight_bytes": sum(int(c.nbytes) for c in constants),
    }
    if states := find_states(graph):
        facts["states"] = [f"{s.present.name} is {s.past.name} with {s.appended} more" for s in states]
    if graph.deviations:
        facts["deviations"] = [str(d) for d in graph.deviations]
    _print(facts, json)


def _artifact(path: Path, json: bool) -> None:
    from graphopt.runtime.artifact import read_artifact
    from graphopt.runtime.store import describe, states_in

    artifact = read_artifact(path, check_versions=False)
    signature, target = describe(artifact)
    manifest = artifact.manifest
    bitmaps = sum(entry.get("encoding") == "bitmap" for entry in manifest["constants"])
    _print(
        {
            "artifact": str(path),
            "target": target.name,
            "machine": target.arch,
            "threads": manifest["threads"],
            "inputs": [str(spec) for spec in signature.inputs],
            "outputs": [str(spec) for spec in signature.outputs],
            **({"states": [str(state) for state in states]} if (states := states_in(artifact)) else {}),
            "source": f"{manifest['source']['name']} (sha256 {manifest['source']['sha256']})",
            "versions": manifest["versions"],
            "library_bytes": manifest["sections"]["library"]["size"],
            **({"device_code": _device_code(manifest["device"])} if "device" in manifest else {}),
            "constants": len(artifact.constants),
            "constant_bytes": manifest["sections"]["constants"]["size"],
            **({"constants_as_bitmaps": bitmaps} if bitmaps else {}),
        },
        json,
    )


def _device_code(device: dict[str, Any]) -> dict[str, str]:
    """By architecture: bytes, and what the kernels take that takes most."""
    found = {}
    for code in device["code"]:
        taken = [kernel[code["arch"]] for kernel in device["kernels"].values() if code["arch"] in kernel]
        spilling = sum(kernel["spilled"] > 0 for kernel in taken)
        most = max((kernel["registers"] for kernel in taken), default=0)
        found[code["arch"]] = f"{code['bytes']} bytes" + (
            f", {len(taken)} kernels, at most {most} registers, {spilling or 'none'} of them spilling" if taken else ""
        )
    return found


def _print(facts: dict[str, Any], json: bool) -> None:
    if json:
        console.print_json(facts)
        return
    for key, value in facts.items():
        items = [f"{k}: {v}" for k, v in value.items()] if isinstance(value, dict) else value
        text = "\n".join(f"  {item}" for item in items) if isinstance(items, list) else str(items)
        console.out.print(
            f"{key.replace('_', ' ')}:" + (f"\n{text}" if isinstance(items, list) else f" {text}"), markup=False
        )
