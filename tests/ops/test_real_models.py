"""Trained models: everything gets a type, and symbolic shapes agree with static ones at the models' standard shapes."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt.driver.importing import import_onnx
from graphopt.errors import GraphOptError
from graphopt.ir.dims import Dim, as_symbol, subs
from graphopt.ir.graph import Graph
from graphopt.ir.types import TensorType
from graphopt.models import zoo


def path_of(model: Any) -> Any:
    try:
        return model.path()
    except GraphOptError as e:
        pytest.skip(f"not available here: {e.message}")


LARGE = ("vgg19", "zfnet512", "bvlc_alexnet")  # hundreds of megabytes
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in zoo.names()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.few(10)
def test_every_value_is_typed(name: str) -> None:
    model = zoo.get(name)
    path = path_of(model)
    graph = import_onnx(path)
    for node in graph.walk():
        for out in node.outputs:
            assert out is None or (isinstance(out.type, TensorType) and out.type.shape is not None), f"{node}: {out}"
    shapes = {feed.name: feed.shape for feed in model.feeds}
    values = {"sr": 16000} if "sr" in shapes else {}
    fixed = import_onnx(path, shapes, values)
    env = bindings(graph, fixed)
    for symbolic, static in zip(graph.outputs, fixed.outputs):
        assert isinstance(static.type, TensorType)
        assert static.type.is_static
        assert tuple(subs(d, env) for d in symbolic.shape) == static.type.static_shape
    for left, right in graph.constraints:
        assert subs(left, env) == subs(right, env)


def bindings(graph: Graph, fixed: Graph) -> dict[str, Dim]:
    static = {v.name: v for v in fixed.inputs}
    env: dict[str, Dim] = {}
    for value in graph.inputs:
        for dim, extent in zip(value.shape, static[value.name].shape if value.name in static else ()):
            if (name := as_symbol(dim)) is not None:
                env[name] = extent
    return env
