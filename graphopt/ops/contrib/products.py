"""Matrix products of integers with scales: QGemm, MatMulIntegerToFloat, DynamicQuantizeMatMul, QLinearMatMul."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Value
from graphopt.ops.contrib.affine import dequantized, is_single, quantized
from graphopt.ops.contrib.builder import Builder
from graphopt.ops.contrib.table import becomes_plain


@becomes_plain(
    "QGemm",
    operands="A a_scale a_zero_point B b_scale b_zero_point C? y_scale? y_zero_point?",
    attributes="alpha transA transB",
)
def gemm(b: Builder) -> Sequence[Value]:
    """``Y = alpha * a_scale * b_scale * (A' B' + C)``, quantized where there is a scale for it.

    C is int32 in steps of ``alpha * a_scale * b_scale``, so that alpha holds for it as well. Scales of B go by column.
    """
    alpha, turned = b.number("alpha", 1.0), b.flag("transB")
    columns = 0 if turned else 1
    left = dequantized(b, b.x("A"), b.x("a_scale"), b.x("a_zero_point"))
    right = dequantized(b, b.x("B"), b.x("b_scale"), b.x("b_zero_point"), columns)
    bias = b.option("C")
    if bias is not None:
        steps = b.product(b.x("b_scale"), b.reshaped(b.x("a_scale"), ()))
        if alpha != 1:
            steps = b.product(steps, b.constant(alpha, "alpha", np.float32))
        bias = _in_steps(b, bias, steps)
    turns = {"transA": int(b.flag("transA")), "transB": int(turned)}
    attributes = {**({} if alpha == 1 else {"alpha": alpha}), **{k: v for k, v in turns.items() if v}}
    sums = b.emit("Gemm", [left, right, bias], attributes)
    scale, zero_point = b.option("y_scale"), b.option("y_zero_point")
    if scale is None and zero_point is None:
        return [sums]
    if scale is None or zero_point is None:
        raise b.invalid("QGemm has a scale of its result without a zero point, or the other way round")
    return [quantized(b, sums, scale, zero_point, b.dtype(zero_point))]


def _in_steps(b: Builder, integers: Value, steps: Value) -> Value:
    """Integers times steps that are one number, or one for each index of the last axis."""
    shape = b.shape(integers)
    if is_single(b, steps) or (shape and shape[-1] == b.shape(steps)[0]):
        return dequantized(b, integers, steps, None, len(shape) - 1)
    return b.emit("Mul", [b.emit("Cast", [integers], {"to": DType.f32.onnx}), steps])


@becomes_plain(
    "QLinearMatMul",
    domain="",
    operands="a a_scale a_zero_point b b_scale b_zero_point y_scale y_zero_point",
)
def matmul(b: Builder) -> Sequence[Value] | None:
    """``y = quantize(MatMul(dequantize(a), dequantize(b)))``.

    The operator stays where scales are computed at run time, which no kernel of integers takes, or go by row.
    """
    single = all(is_single(b, b.x(name)) for name in ("a_scale", "a_zero_point", "y_scale", "y_zero_point"))
    names = [f"{of}_{what}" for of in "aby" for what in ("scale", "zero_point")]
    columns = b.rank(b.x("b")) - 1
    if not single or any(b.x(name).data is None for name in names) or b.dtype(b.x("a_scale")) is not DType.f32:
        return None
    if any(b.rank(b.x(name)) > 1 for name in ("b_scale", "b_zero_point")):
        return None
    left = dequantized(b, b.x("a"), b.x("a_scale"), b.x("a_zero_point"))
    right = dequantized(b, b.x("b"), b.x("b_scale"), b.x("b_zero_point"), columns)
    sums = b.emit("MatMul", [left, right])
    return [quantized(b, sums, b.x("y_scale"), b.x("y_zero_point"), b.dtype(b.x("y_zero_point")))]


@becomes_plain("MatMulIntegerToFloat", operands="A B a_scale b_scale a_zero_point? b_zero_point? bias?")
def matmul_to_float(b: Builder) -> Sequence[Value]:
    """``Y = MatMul(dequantize(A), dequantize(B)) + bias``; A has one scale, B may have one a column.

    Raises:
        UnsupportedOpError: A has several scales, as ONNX Runtime refuses too, or scales are no float32.
    """
    if not is_single(b, b.x("a_scale")):
        raise b.refuse("MatMulIntegerToFloat with several scales of A", "give A one scale")
    return [_biased(b, b.x("A"), b.x("a_scale"), b.option("a_zero_point"))]


@becomes_plain("DynamicQuantizeMatMul", operands="A B b_scale b_zero_point? bias?")
def dynamic_matmul(b: Builder) -> Sequence[Value]:
    """A is quantized by its own range (DynamicQuantizeLinear), and then ``MatMul(dequantize(A), dequantize(B)) + bias``."""
    integers, scale, zero_point = b.emit_all("DynamicQuantizeLinear", [b.x("A")], None, 3)
    return [_biased(b, integers, scale, zero_point)]


def _biased(b: Builder, data: Value, scale: Value, zero_point: Value | None) -> Value:
    """The product of quantized data with the operand B, and the operand ``bias`` added."""
    numbers = integer_product(b, data, scale, zero_point, b.x("B"), b.x("b_scale"), b.option("b_zero_point"))
    bias = b.option("bias")
    return numbers if bias is None else b.emit("Add", [numbers, bias])


def integer_product(
    b: Builder,
    data: Value,
    scale: Value,
    zero_point: Value | None,
    weight: Value,
    steps: Value,
    zero_points: Value | None,
) -> Value:
    """The numbers that a product of integers stands for, in the form that ONNX Runtime's quantizer gives it in ai.onnx.

    Sums of integers are exact wherever the exported model runs, and scales may be computed.

    Args:
        scale, zero_point: of the data, one number each.
        steps, zero_points: scales and zero points of the weight, one or one a column.

    Raises:
        UnsupportedOpError: scales are no float32.
    """
    if b.dtype(scale) is not DType.f32:
        raise b.refuse(f"{b.node.op} with a scale of {b.dtype(scale)}", "convert the model to float32 scales")
    zeros = [None if z is None else b.reshaped(z, ()) if is_single(b, z) else z for z in (zero_point, zero_points)]
    sums = b.emit("MatMulInteger", [data, weight, *zeros])
    factor = b.product(b.reshaped(scale, ()), steps)
    return b.emit("Mul", [b.emit("Cast", [sums], {"to": DType.f32.onnx}), factor])
