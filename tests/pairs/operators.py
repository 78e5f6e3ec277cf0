"""Forms of the element-wise operators that pairs are made of: one for each operator, element type and variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import ml_dtypes  # noqa: F401  (numpy learns of bfloat16)
import numpy as np
import onnx
from onnx import defs, helper

from graphopt.backends.lower.registry import names as lowered
from graphopt.ops.registry import ELEMENTWISE
from graphopt.ops.table import ops_with

OPSET = 26
"""The first with BitCast; all others are older."""
FLOATS = ("float32", "float64", "float16", "bfloat16")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
TYPES = (*FLOATS, *INTEGERS, "bool")

LEFT_OUT = {
    "Identity": "moves nothing: it is a view",
    "SwiGLU": "newer than the opset, and expanded into its function",
}
"""Element-wise operators that make no pairs, and why."""

SECOND = frozenset({
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Xor",
})  # fmt: skip
"""Operators of two operands of one type."""
SMALL = frozenset({"Div", "Mod", "Pow", "BitShift"})
"""The second operand is small and positive."""


@dataclass(frozen=True)
class Form:
    """One operator on one element type.

    Attributes:
        name: unique among the forms of a type.
        operands: what it reads besides the value: ``same``, ``small``, ``low``, ``high``, ``condition``, ``scale``, ``zero``
            (the zero point) or an element type.
        before: how many of the operands come before the value.
    """

    name: str
    op: str
    source: str
    result: str
    operands: tuple[str, ...] = ()
    before: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    def node(self, value: str, operands: list[str], out: str) -> onnx.NodeProto:
        """The node that applies it."""
        inputs = [*operands[: self.before], value, *operands[self.before :]]
        return helper.make_node(self.op, inputs, [out], **self.attributes)


def element_wise() -> list[str]:
    """Operators that must have forms."""
    return [op for op in ops_with(ELEMENTWISE) if op in lowered() and op not in LEFT_OUT]


def onnx_type(dtype: str) -> int:
    """ONNX's code of an element type."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


@cache
def _allowed(op: str, operand: int) -> frozenset[str]:
    schema = defs.get_schema(op, OPSET)
    parameter = schema.inputs[operand].type_str
    found = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}.get(parameter, [parameter])
    texts = {"tensor(float)": "float32", "tensor(double)": "float64"}
    return frozenset(texts.get(t, t[7:-1]) for t in found)


@cache
def forms(source: str) -> tuple[Form, ...]:
    """All forms on values of an element type."""
    out: list[Form] = []
    for op in element_wise():
        out += _forms_of(op, source)
    return tuple(out)


def _forms_of(op: str, source: str) -> list[Form]:
    if op == "Where":
        chosen = [Form("Where", op, source, source, ("condition", "same"), 1)]
        return chosen + (
            [Form("Where.condition", op, "bool", "float32", ("float", "float"))] if source == "bool" else []
        )
    if source not in _allowed(op, 0):
        return []
    if op == "QuantizeLinear":
        return [Form(f"{op}.{to}", op, source, to, ("scale", "zero")) for to in ("int8", "uint8")]
    if op == "DequantizeLinear":
        return [Form(op, op, source, "float32", ("scale",) if source == "int32" else ("scale", "zero"))]
    if op == "Cast":
        return [Form(f"Cast.{to}", op, source, to, attributes={"to": onnx_type(to)}) for to in TYPES if to != source]
    if op == "CastLike":
        return [Form("CastLike", op, source, "int32", ("int32",))] if source != "int32" else []
    if op == "BitCast":
        same_size = [
            t for t in TYPES if np.dtype(t).itemsize == np.dtype(source).itemsize and t not in (source, "bool")
        ]
        return [Form(f"BitCast.{t}", op, source, t, attributes={"to": onnx_type(t)}) for t in same_size[:1]]
    result = "bool" if op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsInf", "IsNaN") else source
    if op == "Clip":
        return [Form("Clip", op, source, source, ("low", "high")), Form("Clip.low", op, source, source, ("low",))]
    if op == "Gelu":
        return [Form(f"Gelu.{m}", op, source, source, attributes={"approximate": m}) for m in ("none", "tanh")]
    if op == "BitShift":
        return [
            Form(f"BitShift.{d}", op, source, source, ("small",), attributes={"direction": d})
            for d in ("LEFT", "RIGHT")
        ]
    if op == "Mod":
        kept = Form("Mod.fmod", op, source, source, ("small",), attributes={"fmod": 1})
        return [kept] if source in FLOATS else [kept, Form("Mod", op, source, source, ("small",))]
    if op in SECOND:
        forms = [Form(op, op, source, result, ("small" if op in SMALL else "same",))]
        if op in ("Sub", "Div") and source in FLOATS:
            forms.append(Form(f"{op}.swapped", op, source, result, ("same",), 1))
        return forms
    return [Form(op, op, source, result)]
