"""Quantisation and dequantisation."""

from __future__ import annotations

from graphopt.ir.dtypes import DType
from graphopt.ir.types import Shape, TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.registry import AFFINE, CONVERTS, ELEMENTWISE, REDUCTION, register


@register("QuantizeLinear", traits=(ELEMENTWISE, AFFINE))
def _quantize(c: InferContext) -> list[Type]:
    code = int(c.attr("output_dtype") or 0)
    _check_parameters(c)
    if c.has(2):
        dtype = c.dtype(2)
        if code and DType.from_onnx(code) is not dtype:
            raise c.invalid(f"output_dtype {DType.from_onnx(code)} differs from the zero point's {dtype}")
    else:
        dtype = DType.from_onnx(code) if code else DType.u8
    return [TensorType(dtype, c.shape(0))]


@register("DequantizeLinear", traits=(ELEMENTWISE, AFFINE, CONVERTS))
def _dequantize(c: InferContext) -> list[Type]:
    _check_parameters(c)
    code = int(c.attr("output_dtype") or 0)
    return [TensorType(DType.from_onnx(code) if code else c.dtype(1), c.shape(0))]


def _check_parameters(c: InferContext) -> None:
    """Scale and zero point have one shape: one element, one for each position along the axis, or one for each block."""
    x, scale = c.shape(0), c.shape(1)
    if c.has(2) and c.rank(2) != len(scale):
        raise c.invalid(f"the scale has shape {_shown(scale)}, the zero point {_shown(c.shape(2))}")
    for a, b in zip(scale, c.shape(2) if c.has(2) else ()):
        c.assume_equal(a, b, "scale and zero point have one shape")
    if not scale or scale == (1,):
        return
    axis, block = c.axis(int(c.attr("axis")), len(x)), int(c.attr("block_size") or 0)
    if block < 0 or len(scale) != (len(x) if block else 1):
        raise c.invalid(f"a scale of shape {_shown(scale)} with block_size={block} does not fit data of rank {len(x)}")
    for a, (have, extent) in enumerate(zip(scale, x)) if block else [(axis, (scale[0], x[axis]))]:
        want = -(-extent // block) if a == axis and block and isinstance(extent, int) else extent
        if a != axis or not block or isinstance(extent, int):
            c.assume_equal(have, want, f"scale along axis {a} of the data")


def _shown(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"


@register("DynamicQuantizeLinear", traits=(REDUCTION,))
def _dynamic_quantize(c: InferContext) -> list[Type]:
    return [TensorType(DType.u8, c.shape(0)), TensorType(DType.f32, ()), TensorType(DType.u8, ())]
