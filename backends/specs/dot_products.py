"""Which dot product a target has for the operands of a kernel."""

from __future__ import annotations

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dot_product import DOT_PRODUCTS, DotProduct
from graphopt.backends.specs.types import KernelTypes


def dot_product_for(types: KernelTypes, caps: Caps) -> DotProduct | None:
    """The instruction for products of elements as they are stored, None if the target has none."""
    if types.input.conversion is not None or types.weight.conversion is not None:
        return None
    return next(
        (d for d in DOT_PRODUCTS.values() if types.input.dtype is types.weight.dtype is d.dtype and d.available(caps)),
        None,
    )
