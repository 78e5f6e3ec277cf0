"""Element-wise operators: unary, binary with broadcasting, selection, casts."""

from __future__ import annotations

from graphopt.ir.dtypes import DType
from graphopt.ir.types import TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.registry import (
    ACTIVATION,
    BROADCAST,
    COMMUTATIVE,
    CONVERTS,
    ELEMENTWISE,
    SELECTS,
    UNARY,
    VIEW,
    register,
)


@register(
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "Log", "Not",
    "Reciprocal", "Round", "Shrink", "Sign", "Sin", "Sinh", "Sqrt", "Tan", "ThresholdedRelu", traits=(ELEMENTWISE, UNARY),
)  # fmt: skip
@register(
    "Celu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Selu", "Sigmoid", "Softplus", "Softsign", "Swish",
    "Tanh", traits=(ELEMENTWISE, UNARY, ACTIVATION),
)  # fmt: skip
@register("Abs", "Neg", "Relu", traits=(ELEMENTWISE, UNARY, SELECTS))
@register("Identity", traits=(ELEMENTWISE, UNARY, VIEW))
def _unary(c: InferContext) -> list[Type]:
    return [c.type(0)]


@register("Dropout", traits=(ELEMENTWISE,))
def _dropout(c: InferContext) -> list[Type]:
    return [c.type(0), TensorType(DType.bool_, c.shape(0))]


@register("IsNaN", "IsInf", traits=(ELEMENTWISE,))
def _classify(c: InferContext) -> list[Type]:
    return [TensorType(DType.bool_, c.shape(0))]


@register("Clip", traits=(ELEMENTWISE, SELECTS))
def _clip(c: InferContext) -> list[Type]:
    return [c.type(0)]


@register("Cast", traits=(ELEMENTWISE, CONVERTS))
def _cast(c: InferContext) -> list[Type]:
    return [TensorType(DType.from_onnx(int(c.attr("to"))), c.shape(0))]


@register("CastLike", traits=(ELEMENTWISE,))
def _cast_like(c: InferContext) -> list[Type]:
    return [TensorType(c.dtype(1), c.shape(0))]


@register("Div", "Mod", "Pow", "Sub", "BitShift", "PRelu", "SwiGLU", traits=(ELEMENTWISE, BROADCAST))
def _binary(c: InferContext) -> list[Type]:
    return [TensorType(c.dtype(0), c.broadcast(c.shape(0), c.shape(1)))]


@register("Add", "Mul", "BitwiseAnd", "BitwiseOr", "BitwiseXor", traits=(ELEMENTWISE, BROADCAST, COMMUTATIVE))
def _commutative(c: InferContext) -> list[Type]:
    return _binary(c)


@register("And", "Or", "Xor", "Equal", traits=(ELEMENTWISE, BROADCAST, COMMUTATIVE))
def _logical(c: InferContext) -> list[Type]:
    return [TensorType(DType.bool_, c.broadcast(c.shape(0), c.shape(1)))]


@register("Greater", "GreaterOrEqual", "Less", "LessOrEqual", traits=(ELEMENTWISE, BROADCAST))
def _compare(c: InferContext) -> list[Type]:
    return _logical(c)


@register("Max", "Min", traits=(ELEMENTWISE, BROADCAST, SELECTS))
@register("Sum", "Mean", traits=(ELEMENTWISE, BROADCAST))
def _variadic(c: InferContext) -> list[Type]:
    return [TensorType(c.dtype(0), c.broadcast(*(c.shape(i) for i in range(len(c.node.inputs)))))]


@register("Where", traits=(ELEMENTWISE, BROADCAST, SELECTS))
def _where(c: InferContext) -> list[Type]:
    return [TensorType(c.dtype(1), c.broadcast(c.shape(0), c.shape(1), c.shape(2)))]
