"""Matrix products."""

from __future__ import annotations

from graphopt.ir.dtypes import DType
from graphopt.ir.types import Shape, TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.registry import ANCHOR, BIAS, LINEAR, MATRIX_PRODUCT, WHOLE_SUMS, register


def matmul_shape(c: InferContext, a: Shape, b: Shape) -> Shape:
    """Result shape of numpy.matmul."""
    if not a or not b:
        raise c.invalid("MatMul of a scalar")
    left, right = (a if len(a) > 1 else (1, *a)), (b if len(b) > 1 else (*b, 1))
    c.assume_equal(left[-1], right[-2], "inner dimensions of a matrix product")
    out = (*c.broadcast(left[:-2], right[:-2]), left[-2], right[-1])
    if len(a) == 1:
        out = (*out[:-2], out[-1])
    return out[:-1] if len(b) == 1 else out


@register("MatMul", traits=(ANCHOR, LINEAR, MATRIX_PRODUCT, WHOLE_SUMS))
def _matmul(c: InferContext) -> list[Type]:
    return [TensorType(c.dtype(0), matmul_shape(c, c.shape(0), c.shape(1)))]


@register("MatMulInteger", traits=(ANCHOR,))
def _matmul_integer(c: InferContext) -> list[Type]:
    return [TensorType(DType.i32, matmul_shape(c, c.shape(0), c.shape(1)))]


@register("QLinearMatMul", traits=(ANCHOR,))
def _qlinear_matmul(c: InferContext) -> list[Type]:
    return [TensorType(c.dtype(7), matmul_shape(c, c.shape(0), c.shape(3)))]


@register("Gemm", traits=(ANCHOR, LINEAR, MATRIX_PRODUCT, WHOLE_SUMS, BIAS))
def _gemm(c: InferContext) -> list[Type]:
    a, b = c.shape(0), c.shape(1)
    if len(a) != 2 or len(b) != 2:
        raise c.invalid(f"Gemm needs matrices, got ranks {len(a)} and {len(b)}")
    m, k = a[::-1] if c.attr("transA") else a
    k2, n = b[::-1] if c.attr("transB") else b
    c.assume_equal(k, k2, "inner dimensions of Gemm")
    if c.has(2):
        c.broadcast_to(c.shape(2), (m, n), "the summand of Gemm")
    return [TensorType(c.dtype(0), (m, n))]
