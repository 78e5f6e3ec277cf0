"""ONNX's own backend tests as (model, inputs, outputs): one-node models made by the package, and older ones shipped as
files."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto
from onnx.backend.test.loader import load_model_tests

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")


@dataclass(frozen=True)
class OnnxCase:
    """A model with one set of inputs and expected outputs; None stands for what is not a tensor."""

    name: str
    model: ModelProto
    inputs: list[Any]
    outputs: list[Any]

    @property
    def all_tensors(self) -> bool:
        """Whether every input and output is a dense tensor."""
        return all(isinstance(a, np.ndarray) for a in (*self.inputs, *self.outputs))

    def with_constant_operands(self) -> OnnxCase:
        """The case with integer and small secondary inputs as initializers, as real models have them."""
        model = ModelProto()
        model.CopyFrom(self.model)
        for i, (info, array) in enumerate(zip(model.graph.input, self.inputs)):
            if not isinstance(array, np.ndarray) or array.dtype == object:
                continue
            if array.dtype in (np.int64, np.int32, np.bool_) or (i and array.ndim < 2):
                model.graph.initializer.append(onnx.numpy_helper.from_array(array, info.name))
        return OnnxCase(self.name, model, self.inputs, self.outputs)

    def with_symbolic_dims(self) -> OnnxCase:
        """The case with every input extent above 1 declared as a symbol of its own; integer operands constant."""
        case = self.with_constant_operands()
        constants = {t.name for t in case.model.graph.initializer}
        for i, info in enumerate(case.model.graph.input):
            if info.name in constants or info.type.WhichOneof("value") != "tensor_type":
                continue
            for axis, dim in enumerate(info.type.tensor_type.shape.dim):
                if dim.dim_value > 1:
                    dim.dim_param = f"x{i}_{axis}"
        return case


@functools.cache
def onnx_cases(*kinds: str) -> tuple[OnnxCase, ...]:
    """All cases of the given kinds (see ``KINDS``)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [case for kind in kinds for test in load_model_tests(kind=kind) for case in _convert(test)]
    return tuple(found)


def _convert(test: Any) -> Iterator[OnnxCase]:
    if test.model is not None:
        for inputs, outputs in test.data_sets[:1]:
            yield OnnxCase(test.name, test.model, [_array(x) for x in inputs], [_array(x) for x in outputs])
        return
    path = os.path.join(test.model_dir, "model.onnx")
    model = onnx.load(path)
    folder = os.path.join(test.model_dir, "test_data_set_0")
    if os.path.isdir(folder):
        yield OnnxCase(test.name, model, _read(folder, "input"), _read(folder, "output"))


def _read(folder: str, kind: str) -> list[Any]:
    arrays: list[Any] = []
    while os.path.exists(path := os.path.join(folder, f"{kind}_{len(arrays)}.pb")):
        proto = TensorProto()
        with open(path, "rb") as f:
            proto.ParseFromString(f.read())
        arrays.append(onnx.numpy_helper.to_array(proto))
    return arrays


def _array(x: Any) -> Any:
    if isinstance(x, TensorProto):
        return onnx.numpy_helper.to_array(x)
    return x if isinstance(x, (np.ndarray, np.generic)) else None
