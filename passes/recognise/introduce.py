"""What rules that introduce a bigger operator have in common: may it be used, and does it compute in the same type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Value
from graphopt.rewrite.passes import first_version
from graphopt.rewrite.rule import Match

FLOATS = (DType.f32, DType.f16, DType.bf16)


def require_op(m: Match, op: str, x: Value, dtypes: Sequence[DType] = (*FLOATS, DType.f64)) -> None:
    """Refuse an operator newer than the opset limit, a type it is not meant for, or one whose operand was broadcast.

    Raises:
        NoMatch: with the reason.
    """
    limit = m.ctx.max_opset
    m.require(m.ctx.allows(op), f"{op} needs opset {first_version(op)}, and the limit is {limit}")
    m.require(x.dtype in dtypes, f"{op} is not used for {x.dtype}", x)
    m.require(x.type == m.root.out.type, "a constant widens the shape", x)


def introduce(e: Editor, op: str, inputs: Sequence[Value | None], attrs: Mapping[str, Any]) -> Value:
    """The operator's first output."""
    return e.node(op, inputs, dict(attrs)).out
