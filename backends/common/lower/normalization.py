"""Normalisations."""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.common.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.common.tensor import Expr, Tensor


@lowers("BatchNormalization")
def _batch_norm(c: LowerContext) -> Lowered:
    if c.attr("training_mode"):
        raise c.unsupported("BatchNormalization in training mode", "export the model for inference")
    x, scale, shift, mean, var = c.operands
    eps = float(c.attr("epsilon"))

    def element(*i: Expr) -> Expr:
        ch = i[1]
        factor = scale(ch) / tirx.sqrt(var(ch) + const(eps, var.dtype))
        return ((x(*i) - mean(ch)) * factor + shift(ch)).astype(c.out_dtype())

    return Tensor(c.out_shape(), c.out_dtype(), element)
