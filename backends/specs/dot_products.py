"""Which dot product a target has for the operands of a kernel."""

from __future__ import annotations

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dot_product import DOT_PRODUCTS
from graphopt.backends.specs.types import KernelTypes


def dot_product_for(types: KernelTypes, extent: object, caps: Caps) -> str:
    """Name of the dot product for products of elements as they are stored, empty if the target has none.

    Args:
        types: of the operands.
        extent: of the axis that is summed over, or of the part of it that lies side by side: groups have to divide it.
        caps: of the target.
    """
    if types.input.conversion is not None or types.weight.conversion is not None or not isinstance(extent, int):
        return ""
    fitting = (
        dot.name
        for dot in DOT_PRODUCTS.values()
        if types.input.dtype is types.weight.dtype is dot.dtype and extent % dot.group == 0 and dot.available(caps)
    )
    return next(fitting, "")
