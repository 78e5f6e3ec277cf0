"""``graphopt compile``: an ONNX model into one deployable file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import console
from graphopt.cli.options import (
    DataOpt,
    ExactOpt,
    JobsOpt,
    JsonOpt,
    LevelOpt,
    ModelArg,
    NoCacheOpt,
    PassOpt,
    PlanOpt,
    QuantizedPrecisionOpt,
    RemarksOpt,
    ShapeOpt,
    SkipOpt,
    StateOpt,
    StrictOpt,
    TargetOpt,
    ThreadsOpt,
    ValueOpt,
    VerifyOpt,
    check_output,
    pairs,
    shapes_of,
)
from graphopt.cli.values import values_of
from graphopt.errors import UserError
from graphopt.ir.levels import DEFAULT_LEVEL
from graphopt.ir.precision_choices import is_plan_file, precision_name, read_precision


def compile_verb(
    model: ModelArg,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.gopt",
            help="File to write; NAME.so is a C library, with a header NAME.h beside it.",
        ),
    ],
    target: TargetOpt = "native",
    shape: ShapeOpt = None,
    value: ValueOpt = None,
    state: StateOpt = None,
    strict: StrictOpt = False,
    level: LevelOpt = DEFAULT_LEVEL,
    exact: ExactOpt = False,
    passes: PassOpt = None,
    skip_pass: SkipOpt = None,
    threads: ThreadsOpt = None,
    verify_each: VerifyOpt = False,
    remarks: RemarksOpt = False,
    no_cache: NoCacheOpt = False,
    jobs: JobsOpt = None,
    plan: PlanOpt = None,
    precision: QuantizedPrecisionOpt = None,
    calib: DataOpt = None,
    write_plan: Annotated[
        Path | None,
        typer.Option("--write-plan", metavar="FILE", help="Also write which kernels were chosen.", show_default=False),
    ] = None,
    json: JsonOpt = False,
) -> None:
    """Compile MODEL for a target into one file: machine code, packed weights, manifest."""
    inputs = [model, *(Path(p) for p in (plan, precision) if p is not None and is_plan_file(p))]
    check_output(output, *inputs)
    is_library = output.suffix == ".so"
    if is_library:
        check_output(output.with_suffix(".h"), *inputs)
    if write_plan is not None:
        check_output(write_plan, *inputs)
        if write_plan.resolve() == output.resolve():
            raise UserError(
                f"--output and --write-plan are both {output}", code="bad-output", hint="give one of them another name"
            )
    with console.working("loading the compiler"):
        from graphopt.driver.calibration_source import named_source
        from graphopt.driver.compiling_with_data import compile
        from graphopt.rewrite.remarks import Remarks
    found, chosen = Remarks(), read_precision(precision)
    start = time.perf_counter()
    with console.working(f"compiling {model.name} for {target}"):
        compiled = compile(
            model,
            target,
            threads=threads,
            shapes=shapes_of(shape),
            values=values_of(value),
            strict=strict,
            level=level,
            exact=exact,
            passes=passes or None,
            skip=skip_pass or (),
            verify_each=verify_each,
            remarks=found,
            cache=not no_cache,
            jobs=jobs,
            plan=plan,
            precision=chosen,
            calibration=None if calib is None else named_source(calib),
            state="auto" if state == ["auto"] else pairs("--state", state, "present.0.key=past.0.key"),
        )
    with console.working(f"linking and writing {output.name}"):
        if is_library:
            compiled.save_library(output)
        else:
            compiled.save(output)
        if write_plan is not None and compiled.plan is not None:
            compiled.plan.save(write_plan)
    seconds = time.perf_counter() - start
    assert compiled.program is not None
    assert compiled.target is not None
    assert compiled.built is not None
    how = compiled.built.report
    facts = {
        "artifact": str(output),
        "bytes": output.stat().st_size,
        "target": compiled.target.name,
        "threads": compiled.target.caps.cores,
        "level": level,
        "precision": precision_name(chosen),
        "seconds": round(seconds, 3),
        "kernels": len(compiled.program.kernels),
        "functions": len(compiled.program.functions),
        "cached": how.cached,
        "notes": how.notes,
        "inputs": [str(spec) for spec in compiled.inputs],
        "outputs": [str(spec) for spec in compiled.outputs],
        **({"states": [str(spec) for spec in compiled.states]} if compiled.states else {}),
    }
    if json:
        console.print_json({**facts, "remarks": [str(r) for r in found]} if remarks else facts)
        return
    for note in how.notes:
        console.err.print(f"note: {note}", markup=False)
    if remarks:
        for remark in found:
            console.out.print(str(remark), markup=False)
    console.out.print(
        f"{output}: {facts['target']}, {facts['kernels']} kernel calls, {output.stat().st_size / 1e6:.1f} MB, "
        f"compiled in {seconds:.1f} s" + (f" ({how.cached} of {how.kernels} kernels cached)" if how.cached else ""),
        markup=False,
    )
    for spec in compiled.inputs:
        console.out.print(f"  input  {spec}", markup=False)
    for spec in compiled.outputs:
        console.out.print(f"  output {spec}", markup=False)
    for state_spec in compiled.states:
        console.out.print(f"  state  {state_spec}", markup=False)
