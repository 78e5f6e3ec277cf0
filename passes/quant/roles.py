"""What an operator does with numbers, as far as quantization goes by it."""

from __future__ import annotations

from enum import Enum

import numpy as np

from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import TensorType
from graphopt.ops.context import attr
from graphopt.ops.registry import ACTIVATION, COMMUTATIVE, GREATEST, LINEAR, MOVEMENT, POOL, VIEW, has_trait


class Role(Enum):
    """The part that a node takes.

    ``PRODUCT`` sums products: what quantization is for. ``KEEPS`` gives elements of its operands, so that one scale holds
    for all of them. ``CLAMPS`` cuts numbers off, as saturation does. ``COMPUTES`` gives other numbers that 8 bits can hold.
    """

    PRODUCT = "product"
    KEEPS = "keeps"
    CLAMPS = "clamps"
    COMPUTES = "computes"


def is_float32(value: Value | None) -> bool:
    """Whether it is a float32 tensor of known rank, the only kind that is quantized."""
    type_ = None if value is None else value.type
    return isinstance(type_, TensorType) and type_.dtype is DType.f32 and type_.shape is not None


def role_of(node: Node) -> Role | None:
    """The node's part; None for what stays in float."""
    if node.domain or not node.outputs or not is_float32(node.outputs[0]) or not is_float32(node.input(0)):
        return None
    if has_trait(node, LINEAR):
        return Role.PRODUCT if is_float32(node.input(1)) else None
    if _keeps(node):
        return Role.KEEPS
    if node.op == "Relu" or node.op == "Clip":
        return Role.CLAMPS
    if has_trait(node, POOL) or has_trait(node, ACTIVATION):
        return Role.COMPUTES
    if has_trait(node, COMMUTATIVE) and is_float32(node.input(1)):
        return Role.COMPUTES
    return None


def data_operands(node: Node, role: Role) -> list[int]:
    """Positions of the operands that are numbers of the kind that the result has: no indices, shapes, bounds, or biases."""
    if role is Role.PRODUCT or has_trait(node, COMMUTATIVE):
        return [0, 1]
    if node.op == "Concat":
        return list(range(len(node.inputs)))
    return [0]


def _keeps(node: Node) -> bool:
    if node.op == "Pad":
        return attr(node, "mode") != "constant" or _is_zero(node.input(2))
    if node.op == "Resize":
        crops = attr(node, "coordinate_transformation_mode") == "tf_crop_and_resize"  # gives a number from elsewhere
        return attr(node, "mode") == "nearest" and not crops
    return has_trait(node, MOVEMENT) or has_trait(node, GREATEST) or has_trait(node, VIEW)


def _is_zero(value: Value | None) -> bool:
    return value is None or (value.data is not None and not np.any(value.data))
