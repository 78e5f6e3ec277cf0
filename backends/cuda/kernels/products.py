"""How the tensor cores multiply: one row for each pair of element types.

Every instruction takes 16 rows by 32 bytes of one operand and 8 rows by 32 bytes of the other, what is summed over innermost,
and the words of its fragments are spread over a warp in the same way. So kernels count in bytes, and types differ in nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.caps import Caps
from graphopt.backends.specs.types import KernelTypes
from graphopt.ir.dtypes import DType

STEP_BYTES = 32
"""Of an operand, along what is summed over, that an instruction takes."""
ROWS, COLUMNS = 16, 8
"""Of the tile of sums that an instruction adds to."""


@dataclass(frozen=True)
class Product:
    """One way of multiplying.

    Attributes:
        name: by which configurations call it.
        function: device function that multiplies and adds a tile.
        element: bytes of an operand's element.
        sums: TVM's name of the type of sums.
        rate: multiply-adds of a multiprocessor of compute capability 8.0 in a cycle.
        rounds: whether operands lose bits.
    """

    name: str
    function: str
    element: int
    sums: str
    rate: int
    rounds: bool = False


PRODUCTS: dict[str, Product] = {
    product.name: product
    for product in (
        Product("f16", "gopt_mma_f16", 2, "float32", 1024),
        Product("bf16", "gopt_mma_bf16", 2, "float32", 1024),
        Product("tf32", "gopt_mma_tf32", 4, "float32", 512, rounds=True),
        *(Product(f"{a}{b}", f"gopt_mma_{a}{b}", 1, "int32", 2048) for a in ("s8", "u8") for b in ("s8", "u8")),
        Product("fma", "", 4, "float32", 64),
    )
}
"""By name; ``fma`` is the one without tensor cores."""

_BYTES = {DType.i8: "s8", DType.u8: "u8"}
_FLOATS = {DType.f16: "f16", DType.bf16: "bf16"}


def product_of(types: KernelTypes, caps: Caps, exact: bool) -> Product | None:
    """How operands of these types are multiplied; None if they can't be.

    Args:
        types: of a kernel.
        caps: of the target.
        exact: whether nothing may be rounded that the operator doesn't round.
    """
    data, weight = types.input, types.weight
    if types.of_integers:
        if data.dtype in _BYTES and weight.dtype in _BYTES and data.conversion is None and weight.conversion is None:
            return PRODUCTS[_BYTES[data.dtype] + _BYTES[weight.dtype]]
        return None
    if types.sum != "float32" or data.conversion is not None:
        return None
    if data.dtype in _FLOATS:
        return PRODUCTS[_FLOATS[data.dtype]]
    if data.dtype is DType.f32:
        return PRODUCTS["tf32" if caps.tf32 and not exact else "fma"]
    return None
