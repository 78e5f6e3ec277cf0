"""Layers of several nodes in ONNX's text format.

Inputs whose names begin with ``w`` become constants, of the same seeded random numbers as data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from head_layers import Feed, Layer
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\nblock '
WHOLE = {TensorProto.INT64: np.int64, TensorProto.INT32: np.int32, TensorProto.BOOL: np.bool_}


def block(name: str, inputs: str, body: str, most: int = 2, outputs: str = "float y") -> Layer:
    """A layer of several nodes.

    Args:
        name: of the layer.
        inputs: their declarations.
        body: nodes.
        most: whole numbers among the inputs are below.
        outputs: their declarations; shapes are left to inference.
    """

    def make(rng: np.random.Generator) -> tuple[onnx.ModelProto, Feed]:
        model = parser.parse_model(f"{HEAD}({inputs}) => ({outputs}) {{ {body} }}")
        graph, feed = model.graph, {}
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")
        for value in list(graph.input):
            array = numbers(rng, value.type.tensor_type, most)
            if value.name.startswith("w"):
                graph.initializer.append(numpy_helper.from_array(array, value.name))
                graph.input.remove(value)
            else:
                feed[value.name] = array
        return onnx.shape_inference.infer_shapes(model), feed

    return Layer(name, make)


def numbers(rng: np.random.Generator, kind: Any, most: int) -> NDArray[Any]:
    """Standard normal numbers, or whole ones below ``most``."""
    shape = [d.dim_value for d in kind.shape.dim]
    if kind.elem_type in WHOLE:
        return rng.integers(0, most, shape).astype(WHOLE[kind.elem_type])
    return rng.standard_normal(shape, np.float32).astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))


def whole(name: str, *values: int) -> str:
    """A constant of whole numbers."""
    return f"{name} = Constant <value = int64[{len(values)}] {{{', '.join(map(str, values))}}}> ()\n"


def real(name: str, *values: float) -> str:
    """A constant of float32 numbers."""
    return f"{name} = Constant <value = float[{len(values)}] {{{', '.join(map(repr, map(float, values)))}}}> ()\n"
