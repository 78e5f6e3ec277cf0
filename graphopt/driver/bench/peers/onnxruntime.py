"""ONNX Runtime, all of its graph optimisations on (its default)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.driver.bench.measure import Run
from graphopt.ir.graph import Array


def prepare(source: Path, model: Any, feed: Mapping[str, Array], threads: int) -> Run:
    """A run of a session of its own."""
    return session_run(open_session(source, model, feed, threads), feed)


def open_session(source: Path, model: Any, feed: Mapping[str, Array], threads: int | None) -> Any:
    """A session with named dimensions fixed to the feed's, on as many threads as it likes when none are given."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4
    extents: dict[str, set[int]] = {}
    for item in model.graph.input:
        for dim, extent in zip(item.type.tensor_type.shape.dim, feed[item.name].shape if item.name in feed else ()):
            extents.setdefault(dim.dim_param, set()).add(extent)
    for name, found in extents.items():
        if name and len(found) == 1:  # exporters call different dimensions "?"
            options.add_free_dimension_override_by_name(name, *found)
    return ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def session_run(session: Any, feed: Mapping[str, Array]) -> Run:
    """A run on one feed, whose numpy inputs are read in place; several may go on at once."""
    inputs = {item.name: feed[item.name] for item in session.get_inputs() if item.name in feed}
    names = [item.name for item in session.get_outputs()]
    return lambda: dict(zip(names, session.run(names, inputs)))
