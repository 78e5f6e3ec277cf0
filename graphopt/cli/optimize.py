"""``graphopt optimize``: ONNX in, smaller plain ONNX out."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.cli import console
from graphopt.cli.options import (
    JsonOpt,
    LevelOpt,
    ModelArg,
    PassOpt,
    RemarksOpt,
    ShapeOpt,
    SkipOpt,
    StrictOpt,
    ValueOpt,
    VerifyOpt,
    check_output,
    shapes_of,
)
from graphopt.cli.values import values_of
from graphopt.ir.levels import DEFAULT_LEVEL

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph


def optimize_verb(
    model: ModelArg,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.onnx", help="File to write.")],
    shape: ShapeOpt = None,
    value: ValueOpt = None,
    strict: StrictOpt = False,
    level: LevelOpt = DEFAULT_LEVEL,
    passes: PassOpt = None,
    skip_pass: SkipOpt = None,
    verify_each: VerifyOpt = False,
    remarks: RemarksOpt = False,
    json: JsonOpt = False,
) -> None:
    """Optimise MODEL and write it as plain ONNX that any runtime loads."""
    check_output(output, model)
    with console.working("loading the compiler"):
        from graphopt.driver.importing import import_onnx
        from graphopt.driver.optimizing import export_onnx, optimize
        from graphopt.rewrite.remarks import Remarks
    found = Remarks()
    start = time.perf_counter()
    with console.working(f"optimising {model.name}"):
        before = import_onnx(model, shapes_of(shape), values_of(value), strict=strict, remarks=found)
        after = optimize(before, level, passes or None, skip=skip_pass or (), verify_each=verify_each, remarks=found)
        export_onnx(after, output)
    seconds = time.perf_counter() - start
    old, new = count_ops(before), count_ops(after)
    if json:
        console.print_json(
            {
                "output": str(output),
                "bytes": output.stat().st_size,
                "seconds": round(seconds, 3),
                "nodes": {"before": sum(old.values()), "after": sum(new.values())},
                "operators": {op: {"before": old[op], "after": new[op]} for op in sorted(old | new)},
                **({"remarks": [str(r) for r in found]} if remarks else {}),
            }
        )
        return
    if remarks:
        for remark in found:
            console.out.print(str(remark), markup=False)
    table = console.make_table(f"{model.name} -> {output}", "operator", "before", "after", right=("before", "after"))
    for op in sorted(old | new, key=lambda op: (-old[op], op)):
        table.add_row(op, str(old[op]), str(new[op]), style=None if old[op] == new[op] else "bold")
    table.add_section()
    table.add_row("all nodes", str(sum(old.values())), str(sum(new.values())))
    console.out.print(table)


def count_ops(graph: Graph) -> Counter[str]:
    """Nodes by operator, subgraphs included."""
    return Counter(node.qualified_op for node in graph.walk())
