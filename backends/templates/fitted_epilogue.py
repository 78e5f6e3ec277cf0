"""Whether a group's epilogue fits a template's accumulators, and how it is written into the kernel."""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.template import KernelCall, No, Support, Yes
from graphopt.backends.templates.epilogue import Epilogue
from graphopt.backends.templates.storing import ExtraOperand, StoreStyle
from graphopt.ir.dims import SymExpr, known
from graphopt.ir.dtypes import DType
from graphopt.ir.fused import Group
from graphopt.ops.registry import ELEMENTWISE, has_trait

LONG_EPILOGUE = 24
"""Operations in an epilogue above which one copy of it a tile is worth a trip of the accumulators through L1."""


def store_style(epilogue: Epilogue) -> StoreStyle:
    """How to write the loops around an epilogue."""
    if epilogue.conditional:
        return StoreStyle.scalar
    return StoreStyle.rolled if epilogue.weight > LONG_EPILOGUE else StoreStyle.unrolled


def plain_epilogue(group: Group) -> str | None:
    """Why a group's epilogue can't be evaluated on an accumulator, None if it can."""
    if len(group.outputs) != 1 or group.outputs[0].producer is not group.nodes[-1]:
        return "more than one result"
    out = group.anchor.out
    for node in group.epilogue:
        if not has_trait(node, ELEMENTWISE) or len(node.outputs) != 1:
            return f"{node.op} in the epilogue"
        if node.out.shape != out.shape:
            return f"{node.op} changes the shape"
    if group.outputs[0].dtype is DType.bool_:
        return f"{group.nodes[-1].op} gives conditions"  # TVM 0.27 has no vectors of them in memory
    return None


def extra_operands(epilogue: Epilogue) -> list[ExtraOperand]:
    """Parameters of a kernel that its epilogue reads."""
    return [
        ExtraOperand(f"e{i}", shape, type_) for i, (shape, type_) in enumerate(zip(epilogue.shapes, epilogue.types))
    ]


def symbolic_operands_fit(call: KernelCall) -> Support:
    """Epilogue operands may use only the dimensions that the kernel can read off its data."""
    node = call.group.anchor
    x: Any = node.inputs[0]
    allowed = {d for d in (*x.shape, *node.out.shape) if isinstance(d, SymExpr)}
    for n in call.group.epilogue:
        for v in n.inputs:
            if v is not None and not known(d for d in v.shape if d not in allowed):
                return No("an epilogue operand has a symbolic dimension of its own")
    return Yes()
