"""ONNX Runtime, all of its graph optimisations on (its default)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from graphopt.driver.bench.measure import OpenAxes, Run
from graphopt.ir.graph import Array


def prepare(
    source: Path, head: Any, feed: Mapping[str, Array], threads: int, open_axes: OpenAxes = MappingProxyType({})
) -> Run:
    """A run of a session of its own."""
    return session_run(open_session(source, head, feed, threads, open_axes), feed)


def open_session(
    source: Path, head: Any, feed: Mapping[str, Array], threads: int | None, open_axes: OpenAxes = MappingProxyType({})
) -> Any:
    """A session with named dimensions fixed to the feed's, but for open ones.

    Args:
        source: path of the model.
        head: the model, of which inputs and outputs are looked at.
        feed: inputs.
        threads: CPU threads; as many as it likes when None.
        open_axes: of inputs by name.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4
    extents: dict[str, set[int]] = {}
    left: set[str] = set()
    for item in head.graph.input:
        dims = item.type.tensor_type.shape.dim
        for dim, extent in zip(dims, feed[item.name].shape if item.name in feed else ()):
            extents.setdefault(dim.dim_param, set()).add(extent)
        left.update(dims[axis].dim_param for axis in open_axes.get(item.name, ()))
    for name, found in extents.items():
        if name and len(found) == 1 and name not in left:  # exporters call different dimensions "?"
            options.add_free_dimension_override_by_name(name, *found)
    return ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def session_run(session: Any, feed: Mapping[str, Array]) -> Run:
    """A run on one feed, whose numpy inputs are read in place; several may go on at once."""
    inputs = {item.name: feed[item.name] for item in session.get_inputs() if item.name in feed}
    names = [item.name for item in session.get_outputs()]
    return lambda: dict(zip(names, session.run(names, inputs)))
