"""Which dot product a target has for the operands of a kernel."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dot_product import DOT_PRODUCTS, DotProduct
from graphopt.backends.base.element_type import Conversion, ElementType
from graphopt.backends.specs.types import KernelTypes
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Node
from graphopt.ops.registry import LINEAR, has_trait


def dot_product_for(types: KernelTypes, extent: object, caps: Caps) -> str:
    """Name of the dot product for products of elements as they are stored, empty if the target has none.

    Args:
        types: of the operands, which are those of the dot product, or converted from them to float32, or to them.
        extent: of the axis that is summed over, or of the part of it that lies side by side: groups have to divide it.
        caps: of the target.
    """
    left, right = _factor(types.input), _factor(types.weight)
    if left is None or not isinstance(extent, int):
        return ""
    fitting = (
        dot.name
        for dot in _dot_products(left, caps)
        if dot.right is right and extent % dot.group == 0 and dot.sum == types.sum
    )
    return next(fitting, "")


def factors(node: Node, dtype: DType, caps: Caps) -> Collection[int]:
    """Operands of a node that dot products of a target may multiply as they are stored, in ``dtype``."""
    if not any(True for _ in _dot_products(dtype, caps)):
        return ()
    if node.op == "Attention":
        return (0, 1, 2)
    if not has_trait(node, LINEAR) or node.op == "ConvTranspose" or int(node.attrs.get("group", 1)) != 1:
        return ()
    return (0, 1)


def _dot_products(dtype: DType, caps: Caps) -> Iterator[DotProduct]:
    return (dot for dot in DOT_PRODUCTS.values() if dot.dtype is dtype and dot.available(caps))


def _factor(row: ElementType) -> DType | None:
    """What is multiplied: what is stored, also where it is converted to float32 first, or the integers that it is converted to."""
    if row.conversion in (None, Conversion(DType.f32)):
        return row.dtype
    return row.conversion.dtype if row.conversion is not None and row.compute.startswith(("int", "uint")) else None
