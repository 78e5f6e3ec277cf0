"""Writes ONNX graphs as exporters do: one node after another, names by module path, weights as initializers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from graphopt.models.signals import seeded

IR_VERSION = 8


class Writer:
    """A graph that grows.

    Args:
        name: of the graph; goes into the seed of every weight.
        opset: of the model.
        seed: of the weights.
    """

    def __init__(self, name: str, opset: int, seed: int) -> None:
        self.name = name
        self.opset = opset
        self.seed = seed
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._stored: set[str] = set()

    def node(self, op: str, path: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Append a node with one result, which is named after it unless ``out`` says otherwise."""
        out = out or f"/{path}/{op}_output_0"
        self._nodes.append(helper.make_node(op, inputs, [out], name=f"/{path}/{op}", **attributes))
        return out

    def split(self, op: str, path: str, *inputs: str, count: int, **attributes: Any) -> list[str]:
        """Append a node with ``count`` results."""
        outputs = [f"/{path}/{op}_output_{i}" for i in range(count)]
        self._nodes.append(helper.make_node(op, inputs, outputs, name=f"/{path}/{op}", **attributes))
        return outputs

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        """Store numbers under a name; the same name again is the same tensor."""
        if name not in self._stored:
            self._stored.add(name)
            self._initializers.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        """A 1-D int64 operand, such as axes or a target shape."""
        return self.constant("ints_" + "_".join(map(str, values)), values, np.int64)

    def scalar(self, value: float) -> str:
        """A float32 operand of rank 0."""
        return self.constant(f"scalar_{value!r}", value)

    def index(self, value: int) -> str:
        """An int64 operand of rank 0, such as a position for Gather."""
        return self.constant(f"index_{value}", value, np.int64)

    def uniform(self, name: str, shape: Sequence[int], low: float, high: float) -> str:
        """Evenly distributed weights."""
        draw = seeded(self.name, self.seed, name).uniform(low, high, tuple(shape))
        return self.constant(name, draw)

    def normal(self, name: str, shape: Sequence[int], std: float, mean: float = 0.0) -> str:
        """Normally distributed weights."""
        return self.constant(name, mean + std * self._draw(name, shape))

    def filter(self, name: str, shape: Sequence[int], summed: Sequence[int], gain: float = 1.0) -> str:
        """Weights of zero mean that keep the variance of what they are multiplied with, times ``gain`` squared.

        Args:
            name: of the weight.
            shape: of the weight.
            summed: axes of the weight that one result adds up.
            gain: of standard deviations.
        """
        values = self._draw(name, shape)
        values -= values.mean(axis=tuple(summed), keepdims=True)
        return self.constant(name, values * (gain / math.sqrt(math.prod(shape[axis] for axis in summed))))

    def linear(self, path: str, x: str, inputs: int, outputs: int, gain: float = 1.0) -> str:
        """A linear layer of a tensor of any rank, as exporters write it: MatMul, then Add of the bias."""
        weight = self.filter(f"{path}.weight", (inputs, outputs), (0,), gain)
        bias = self.normal(f"{path}.bias", (outputs,), 0.02)
        return self.node("Add", path, bias, self.node("MatMul", path, x, weight))

    def gelu(self, path: str, x: str) -> str:
        """The exact form by the error function, in plain operators."""
        erf = self.node("Erf", path, self.node("Div", path, x, self.scalar(math.sqrt(2.0))))
        product = self.node("Mul", path, x, self.node("Add", path, erf, self.scalar(1.0)))
        return self.node("Mul", f"{path}/half", product, self.scalar(0.5))

    def model(self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
        """The checked model."""
        graph = helper.make_graph(self._nodes, self.name, list(inputs), list(outputs), self._initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="graphopt zoo")
        onnx.checker.check_model(model, full_check=True)
        return model

    def _draw(self, name: str, shape: Sequence[int]) -> NDArray[np.float32]:
        return seeded(self.name, self.seed, name).standard_normal(tuple(shape), dtype=np.float32)


def tensor(name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """An input or output; names stand for open extents."""
    return helper.make_tensor_value_info(name, dtype, list(shape))
