"""TVM's own importer and default pipeline, untuned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.driver.bench.measure import Run
from graphopt.ir.graph import Array


def prepare(source: Path, model: Any, feed: Mapping[str, Array], threads: int) -> Run:
    """The compiled module in the virtual machine."""
    import onnx

    from graphopt.backends.build.tvm_default import compile_with_tvm
    from graphopt.backends.targets.grammar import parse_target

    onnx.load_external_data_for_model(model, str(source.parent))
    run = compile_with_tvm(model, feed, parse_target("native", threads))
    names = [item.name for item in model.graph.output]
    return lambda: dict(zip(names, run(feed)))
