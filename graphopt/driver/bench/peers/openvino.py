"""OpenVINO's CPU plugin, tuned for the latency of one request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.driver.bench.measure import Run
from graphopt.ir.graph import Array


def prepare(source: Path, model: Any, feed: Mapping[str, Array], threads: int) -> Run:
    """An infer request in float32 (the plugin may otherwise choose bfloat16) that reads and writes numpy in place."""
    import openvino as ov

    core = ov.Core()
    network = core.read_model(str(source))
    inputs = {port: next((n for n in port.names if n in feed), port.any_name) for port in network.inputs}
    if any(port.partial_shape.is_dynamic for port in network.inputs):
        network.reshape({name: list(feed[name].shape) for name in inputs.values()})
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(network, "CPU", config)
    request = compiled.create_infer_request()
    data = {name: feed[name] for name in inputs.values()}
    names = [item.name for item in model.graph.output]

    def run() -> dict[str, Array]:
        return dict(zip(names, request.infer(data, share_inputs=True, share_outputs=True).values()))

    return run
