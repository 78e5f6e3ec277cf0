"""TVM's own importer and default pipeline, untuned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.driver.bench.measure import OpenAxes, Run
from graphopt.ir.graph import Array


def prepare(source: Path, head: Any, feed: Mapping[str, Array], threads: int, open_axes: OpenAxes) -> Run:
    """The compiled module in the virtual machine, for the shapes of the feed whatever is open: its loops are the same."""
    import onnx

    from graphopt.backends.build.tvm_default import compile_with_tvm
    from graphopt.backends.targets.grammar import parse_target

    model = onnx.load_model(source)
    run = compile_with_tvm(model, feed, parse_target("native", threads))
    names = [item.name for item in head.graph.output]
    return lambda: dict(zip(names, run(feed)))
