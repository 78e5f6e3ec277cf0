"""OpenVINO's CPU plugin, tuned for the latency of one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from graphopt.driver.bench.measure import OpenAxes, Run
from graphopt.ir.graph import Array


def prepare(
    source: Path, head: Any, feed: Mapping[str, Array], threads: int, open_axes: OpenAxes = MappingProxyType({})
) -> Run:
    """A run of a compiled model of its own."""
    return request_run(compile_network(source, feed, threads, open_axes=open_axes), head, feed)


def compile_network(
    source: Path,
    feed: Mapping[str, Array],
    threads: int | None,
    hint: str = "LATENCY",
    open_axes: OpenAxes = MappingProxyType({}),
) -> Any:
    """The model in float32 (the plugin may otherwise choose bfloat16) for the shapes of the feed.

    Args:
        source: path of the model.
        feed: inputs.
        threads: CPU threads; as many as the plugin likes when None.
        hint: the plugin's performance hint: ``LATENCY`` for one caller, ``THROUGHPUT`` for many.
        open_axes: of inputs by name, that stay as the model says.
    """
    import openvino as ov

    core = ov.Core()
    network = core.read_model(str(source))
    if any(port.partial_shape.is_dynamic for port in network.inputs):
        network.reshape({name: _sizes(feed[name], open_axes.get(name, ())) for name in _input_names(network, feed)})
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": hint}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    return core.compile_model(network, "CPU", config)


def request_run(compiled: Any, head: Any, feed: Mapping[str, Array]) -> Run:
    """A run on one feed by an infer request of its own, which reads and writes numpy in place."""
    request = compiled.create_infer_request()
    arrays = {name: feed[name] for name in _input_names(compiled, feed)}
    names = [item.name for item in head.graph.output]

    def run() -> dict[str, Array]:
        return dict(zip(names, request.infer(arrays, share_inputs=True, share_outputs=True).values()))

    return run


def _sizes(array: Array, open_axes: Sequence[int]) -> list[int]:
    """Extents as the plugin takes them: -1 where one is open."""
    return [-1 if axis in open_axes else extent for axis, extent in enumerate(array.shape)]


def _input_names(network: Any, feed: Mapping[str, Array]) -> list[str]:
    """The feed's names of a network's inputs: the plugin knows an input by several."""
    return [next((n for n in port.names if n in feed), port.any_name) for port in network.inputs]
