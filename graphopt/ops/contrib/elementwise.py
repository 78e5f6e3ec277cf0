"""Element-wise operators on integers with scales: QLinearAdd, QLinearMul and their kin."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.graph import Value
from graphopt.ops.contrib.affine import dequantized, quantized
from graphopt.ops.contrib.builder import Builder
from graphopt.ops.contrib.table import becomes_plain


def result(b: Builder, numbers: Value, like: Value, prefix: str) -> list[Value]:
    """The node's result: numbers as integers of the type of ``like``, with the operands ``<prefix>_scale`` and ``_zero_point``."""
    scale, zero_point = b.x(f"{prefix}_scale"), b.option(f"{prefix}_zero_point")
    return [quantized(b, numbers, scale, zero_point, b.dtype(like))]


def operand(b: Builder, name: str) -> Value:
    """The numbers of a quantized operand, whose scale and zero point are called after it."""
    return dequantized(b, b.x(name), b.x(f"{name}_scale"), b.option(f"{name}_zero_point"))


@becomes_plain(
    "QLinearAdd", "QLinearMul", operands="A A_scale A_zero_point? B B_scale B_zero_point? C_scale C_zero_point?"
)
def binary(b: Builder) -> Sequence[Value]:
    """``C = quantize(dequantize(A) + dequantize(B))``, or their product, broadcast."""
    op = b.node.op.removeprefix("QLinear")
    return result(b, b.emit(op, [operand(b, "A"), operand(b, "B")]), b.x("A"), "C")


@becomes_plain("QLinearLeakyRelu", operands="X X_scale X_zero_point? Y_scale Y_zero_point?", attributes="alpha")
def leaky_relu(b: Builder) -> Sequence[Value]:
    """``Y = quantize(LeakyRelu(dequantize(X)))``; the slope is 0.01 if the node names none."""
    return result(b, b.emit("LeakyRelu", [operand(b, "X")], {"alpha": b.number("alpha", 0.01)}), b.x("X"), "Y")


@becomes_plain("QLinearSigmoid", operands="X X_scale X_zero_point? Y_scale Y_zero_point?")
def sigmoid(b: Builder) -> Sequence[Value]:
    """``Y = quantize(Sigmoid(dequantize(X)))``."""
    return result(b, b.emit("Sigmoid", [operand(b, "X")]), b.x("X"), "Y")


@becomes_plain(
    "QLinearWhere",
    operands="condition X X_scale X_zero_point Y Y_scale Y_zero_point Z_scale Z_zero_point",
)
def where(b: Builder) -> Sequence[Value]:
    """``Z = quantize(Where(condition, dequantize(X), dequantize(Y)))``."""
    chosen = b.emit("Where", [b.x("condition"), operand(b, "X"), operand(b, "Y")])
    return result(b, chosen, b.x("X"), "Z")


@becomes_plain("QLinearConcat", operands="Y_scale Y_zero_point inputs*", attributes="axis")
def concat(b: Builder) -> Sequence[Value]:
    """Operands come in threes: integers, scale, zero point. Their numbers are joined and quantized once."""
    rest = b.node.inputs[2:]
    if not rest or len(rest) % 3 or any(v is None for v in rest):
        raise b.invalid(f"QLinearConcat takes a tensor, a scale and a zero point for each part; {len(rest)} are given")
    given = [v for v in rest if v is not None]
    parts = [dequantized(b, given[i], given[i + 1], given[i + 2]) for i in range(0, len(given), 3)]
    b.needed("axis")
    joined = b.emit("Concat", parts, {"axis": b.integer("axis", 0)})
    return result(b, joined, b.x("Y_zero_point"), "Y")


@becomes_plain("QLinearSoftmax", operands="X X_scale X_zero_point? Y_scale Y_zero_point", attributes="axis opset")
def softmax(b: Builder) -> Sequence[Value]:
    """``opset`` says which Softmax is meant: before 13 it runs over all axes from ``axis`` on."""
    b.needed("opset")
    x, opset = operand(b, "X"), b.integer("opset", 13)
    rank = b.rank(x)
    axis = b.context.axis(b.integer("axis", -1), rank)
    if opset >= 13 or axis == rank - 1:
        return result(b, b.emit("Softmax", [x], {"axis": axis}), b.x("X"), "Y")
    flat = b.emit("Flatten", [x], {"axis": axis})
    shares = b.emit("Softmax", [flat], {"axis": 1})
    whole = b.emit("Reshape", [shares, b.emit("Shape", [x])], {"allowzero": 1})
    return result(b, whole, b.x("X"), "Y")


@becomes_plain(
    "QLinearReduceMean",
    operands="data data_scale data_zero_point? reduced_scale reduced_zero_point?",
    attributes="axes keepdims",
)
def reduce_mean(b: Builder) -> Sequence[Value]:
    """``quantize(ReduceMean(dequantize(data)))``."""
    b.needed("axes")
    axes = b.integer_list(b.integers("axes") or [], "axes")
    mean = b.emit("ReduceMean", [operand(b, "data"), axes], {"keepdims": int(b.flag("keepdims", 1))})
    return result(b, mean, b.x("data"), "reduced")
