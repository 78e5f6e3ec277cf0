"""Generic kernels over symbolic sizes: axes that are merged, axes that must not be, many axes, on one thread and on two."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphopt

SIZES = {"a": 3, "b": 2, "c": 5, "d": 4, "e": 7}


def net(nodes: list[onnx.NodeProto], inputs: dict[str, list[int | str]]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("x", "z"),
    [
        pytest.param(["a", "b", "c", 16], ["a", "b", "c", 16], id="all one"),
        pytest.param(["a", "b", "c", "d"], ["a", "b", 1, 1], id="two and two"),
        pytest.param(["a", 1, "c", "d"], ["a", 1, "c", "d"], id="an extent of 1 in between"),
        pytest.param(["a", 1, "c", 6], [1, 1, "c", 6], id="an extent of 1 beside what is broadcast"),
        pytest.param(["a", "b", "c", "d"], [1, "b", 1, "d"], id="nothing"),
        pytest.param(["a", "b", "c", "d", "e"], ["a", 1, "c", 1, "e"], id="five axes apart"),
    ],
)
def test_products_that_are_broadcast(x: list[int | str], z: list[int | str], threads: int) -> None:
    model = graphopt.compile(net([helper.make_node("Mul", ["x", "z"], ["y"])], {"x": x, "z": z}), threads=threads)
    rng = np.random.default_rng(0)
    for factor in (1, 5):
        feed = {n: rng.standard_normal(_sizes(s, factor)).astype(np.float32) for n, s in {"x": x, "z": z}.items()}
        np.testing.assert_array_equal(model.run(feed)["y"], feed["x"] * feed["z"])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("perm", [[4, 2, 0, 3, 1], [0, 1, 3, 2, 4], [2, 0, 1, 3, 4], [0, 4, 3, 2, 1]])
def test_transpositions_of_many_open_axes(perm: list[int], threads: int) -> None:
    shape: list[int | str] = list("abcde")
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=perm), helper.make_node("Relu", ["t"], ["y"])]
    model = graphopt.compile(net(nodes, {"x": shape}), threads=threads)
    x = np.random.default_rng(1).standard_normal(_sizes(shape, 3)).astype(np.float32)
    np.testing.assert_array_equal(model.run({"x": x})["y"], np.maximum(x.transpose(perm), 0))


@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_is_computed_where_there_is_nothing(threads: int) -> None:
    model = graphopt.compile(net([helper.make_node("Relu", ["x"], ["y"])], {"x": ["a", "b", 16]}), threads=threads)
    for shape in ((0, 3, 16), (3, 0, 16), (0, 0, 16)):
        assert model.run({"x": np.ones(shape, np.float32)})["y"].shape == shape


def _sizes(shape: list[Any], factor: int) -> list[int]:
    return [d if isinstance(d, int) else SIZES[d] * factor for d in shape]
