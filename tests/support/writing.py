"""Writing small float32 models operator by operator, and activations as exporters write them: out of parts, in several orders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Writing:
    """A model that is being written. Called, it adds a node and returns the name of its first result."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._results: list[str] = []

    def __call__(self, op: str, *operands: str, **attributes: Any) -> str:
        made = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, operands, [made], **attributes))
        return made

    def constant(self, value: Any) -> str:
        """A constant; float32 if it is a number."""
        array = np.asarray(value, np.float32) if isinstance(value, (int, float)) else np.asarray(value)
        self._constants.append(numpy_helper.from_array(array, f"c{len(self._constants)}"))
        return str(self._constants[-1].name)

    def weight(self, *shape: int) -> str:
        """Random numbers; a sum of products with them is about as large as the other factors."""
        scale = 1 / math.sqrt(math.prod(shape[1:]) or 1)
        return self.constant((self._rng.standard_normal(shape) * scale).astype(np.float32))

    def result(self, *names: str) -> None:
        """What the model returns."""
        self._results += [n for n in names if n not in self._results]

    def model(self, inputs: Mapping[str, Sequence[int]], opset: int = 20) -> onnx.ModelProto:
        """The model, with types as ONNX infers them."""
        takes = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs.items()]
        gives = [helper.make_empty_tensor_value_info(n) for n in self._results]
        graph = helper.make_graph(self._nodes, "written", takes, gives, self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


Idiom = Callable[[Writing, str], str]


def _silu(w: Writing, x: str) -> str:
    return w("Mul", w("Sigmoid", x), x)


def _mish(w: Writing, x: str) -> str:
    return w("Mul", x, w("Tanh", w("Softplus", x)))


def _mish_by_log(w: Writing, x: str) -> str:
    return w("Mul", x, w("Tanh", w("Log", w("Add", w("Exp", x), w.constant(1.0)))))


def _shifted(w: Writing, x: str) -> str:
    return w("Clip", w("Add", x, w.constant(3.0)), w.constant(0.0), w.constant(6.0))


def _hard_swish(w: Writing, x: str) -> str:
    return w("Div", w("Mul", x, _shifted(w, x)), w.constant(6.0))


def _hard_swish_scaled(w: Writing, x: str) -> str:
    return w("Mul", w("Mul", _shifted(w, x), w.constant(1 / 6)), x)


def _erf(w: Writing, x: str) -> str:
    return w("Add", w("Erf", w("Div", x, w.constant(math.sqrt(2)))), w.constant(1.0))


def _gelu_half_first(w: Writing, x: str) -> str:
    return w("Mul", w("Mul", w.constant(0.5), x), _erf(w, x))


def _gelu_half_last(w: Writing, x: str) -> str:
    return w("Mul", w("Mul", _erf(w, x), x), w.constant(0.5))


def _gelu_half_inside(w: Writing, x: str) -> str:
    return w("Mul", w("Mul", w.constant(0.5), _erf(w, x)), x)


def _tanh(w: Writing, x: str, cube: str) -> str:
    inner = w("Add", x, w("Mul", cube, w.constant(0.044715)))
    return w("Add", w.constant(1.0), w("Tanh", w("Mul", inner, w.constant(math.sqrt(2 / math.pi)))))


def _gelu_tanh_pow(w: Writing, x: str) -> str:
    return w("Mul", w("Mul", w.constant(0.5), x), _tanh(w, x, w("Pow", x, w.constant(3.0))))


def _gelu_tanh_products(w: Writing, x: str) -> str:
    return w("Mul", x, w("Mul", _tanh(w, x, w("Mul", w("Mul", x, x), x)), w.constant(0.5)))


def _swiglu(w: Writing, x: str) -> str:
    doubled = w("Mul", x, w.constant(2.0))
    return w("Mul", w("Mul", x, w("Sigmoid", x)), doubled)


def _mask(w: Writing, x: str) -> str:
    inside = w("And", w("Greater", x, w.constant(-1.0)), w("Less", x, w.constant(1.0)))
    return w("Where", inside, w("Mul", x, x), w("Abs", x))


def _mask_twice(w: Writing, x: str) -> str:
    positive = w("Greater", x, w.constant(0.0))
    number = w("Cast", positive, to=TensorProto.FLOAT)
    return w("Where", positive, w("Add", x, number), w("Mul", x, number))


def _fraction(w: Writing, x: str) -> str:
    return w("Sub", x, w("Cast", w("Cast", x, to=TensorProto.INT32), to=TensorProto.FLOAT))


def _compared_in_half(w: Writing, x: str) -> str:
    half = w("Cast", x, to=TensorProto.FLOAT16)
    return w("Where", w("Less", half, w.constant(np.zeros((), np.float16))), w("Mul", x, w.constant(0.1)), x)


def _nested(w: Writing, x: str) -> str:
    inner = _silu(w, x)
    return w("Add", w("Mul", inner, w("Tanh", inner)), x)


def _residual_inside(w: Writing, x: str) -> str:
    return w("Add", x, _mish(w, w("Add", _silu(w, x), x)))


IDIOMS: dict[str, Idiom] = {
    "silu": _silu,
    "mish": _mish,
    "mish by log": _mish_by_log,
    "hard swish": _hard_swish,
    "hard swish, scaled": _hard_swish_scaled,
    "gelu, half first": _gelu_half_first,
    "gelu, half last": _gelu_half_last,
    "gelu, half inside": _gelu_half_inside,
    "gelu by tanh and Pow": _gelu_tanh_pow,
    "gelu by tanh and products": _gelu_tanh_products,
    "swiglu": _swiglu,
    "mask": _mask,
    "mask twice": _mask_twice,
    "fraction": _fraction,
    "compared in half": _compared_in_half,
    "nested": _nested,
    "residual inside": _residual_inside,
}
"""Functions of one value that read it several times, by name."""
