"""Attributes that name a type: of the results of Cast and ConstantOfShape, of the softmax inside an Attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Node
from graphopt.passes.precision.narrow_form import NarrowForm, is_float32, results_allow
from graphopt.passes.precision.narrow_format import NarrowFormat

_FORM = NarrowForm(frozenset(), frozenset({0}))
_SAME = NarrowForm(frozenset({0}), frozenset({0}))


_TYPE_ATTRIBUTES = ("dtype", "output_datatype", "output_dtype")


def narrow_source(node: Node, form: NarrowFormat, max_opset: int | None) -> NarrowForm | None:
    """The form in 16 bits of a Cast to float32 or a ConstantOfShape, None where that would round or there is none."""
    if node.domain or not is_float32(node.outputs[0]) or not results_allow(node, form.dtype, max_opset):
        return None
    if node.op == "Cast":
        source = node.inputs[0]
        if source is None or is_float32(source):
            return _SAME
        exact = source.dtype is DType.bool_ or (source.dtype.is_int and source.dtype.bits <= 8)
        return _FORM if exact else None
    if node.op == "ConstantOfShape":
        value = node.attrs.get("value")
        return _FORM if value is None or form.exact(np.asarray(value)) else None
    return None


def names_a_type(node: Node) -> bool:
    """Whether an attribute, and no operand, makes the node's result float32, or its operator's default does."""
    return node.op in ("Cast", "ConstantOfShape") or _type_attribute(node) is not None


def _type_attribute(node: Node) -> str | None:
    """The attribute of random numbers, windows and the like that says float32."""
    if node.domain or not onnx.defs.has(node.op):
        return None
    attributes = onnx.defs.get_schema(node.op).attributes
    for name in _TYPE_ATTRIBUTES:
        if name in attributes and int(node.attrs.get(name, attributes[name].default_value.i)) == DType.f32.onnx:
            return name
    return None


def narrow_attributes(node: Node, form: NarrowFormat) -> dict[str, Any]:
    """Attributes that change with the type."""
    if node.op == "Cast":
        return {"to": form.dtype.onnx}
    if node.op == "Attention":
        return {"softmax_precision": node.attrs.get("softmax_precision") or DType.f32.onnx}
    if node.op == "ConstantOfShape":
        return {"value": form.narrow(np.asarray(node.attrs.get("value", np.zeros(1, np.float32))))}
    name = _type_attribute(node)
    return {} if name is None else {name: form.dtype.onnx}
