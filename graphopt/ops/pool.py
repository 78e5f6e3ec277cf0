"""Pooling."""

from __future__ import annotations

from graphopt.ir.dtypes import DType
from graphopt.ir.types import TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.conv import Window, assume_windows, window_of
from graphopt.ops.registry import ANY_LAYOUT, GREATEST, ONE_NEST, POOL, REDUCTION, register


def pool_window(c: InferContext) -> Window:
    """The pooling window of a node."""
    kernel = tuple(int(k) for k in c.attr("kernel_shape") or ())
    if len(kernel) != c.rank(0) - 2:
        raise c.invalid(f"kernel_shape {list(kernel)} does not fit data of rank {c.rank(0)}")
    return window_of(c, kernel, c.shape(0)[2:])


@register("LpPool", traits=(REDUCTION,))
@register("AveragePool", traits=(REDUCTION, POOL, ONE_NEST, ANY_LAYOUT))
@register("MaxPool", traits=(REDUCTION, POOL, GREATEST, ONE_NEST, ANY_LAYOUT))
def _pool(c: InferContext) -> list[Type]:
    x = c.shape(0)
    window = pool_window(c)
    ceil_mode = bool(c.attr("ceil_mode"))
    assume_windows(c, window, x[2:], ceil_mode)
    out = (*x[:2], *(window.out_extent(i, d, ceil_mode) for i, d in enumerate(x[2:])))
    return [TensorType(c.dtype(0), out), TensorType(DType.i64, out)]


@register("GlobalLpPool", traits=(REDUCTION,))
@register("GlobalAveragePool", traits=(REDUCTION, POOL, ONE_NEST, ANY_LAYOUT))
@register("GlobalMaxPool", traits=(REDUCTION, POOL, GREATEST, ONE_NEST, ANY_LAYOUT))
def _global_pool(c: InferContext) -> list[Type]:
    x = c.shape(0)
    return [TensorType(c.dtype(0), (*x[:2], *([1] * (len(x) - 2))))]
