"""The passes ``cast-fp16`` and ``cast-bf16``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir.graph import Graph
from graphopt.passes.precision.apply import apply_precision
from graphopt.passes.precision.decide import plan_precision
from graphopt.passes.precision.narrow_format import BF16, FP16, NarrowFormat, format_of
from graphopt.passes.precision.plan import Io, PrecisionPlan
from graphopt.passes.precision.small_weights import enlarge_small_weights
from graphopt.rewrite.passes import Pass, PassContext, register_pass


@dataclass(frozen=True)
class _CastFloats(Pass):
    """What both passes do.

    Attributes:
        io: whether inputs and outputs of the graph keep float32 or are cast.
        keep: names of nodes and operators that stay in float32; ``*`` and ``?`` stand for any letters.
    """

    format: ClassVar[NarrowFormat]

    io: Io = "keep"
    keep: tuple[str, ...] = ()

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Plan, say what was decided, and convert."""
        enlarge_small_weights(graph, self.format, ctx.editor(graph))
        plan = plan_precision(graph, self.format, io=self.io, keep=self.keep, max_opset=ctx.max_opset)
        remark(plan, ctx)
        apply_precision(plan, ctx)


@register_pass
@dataclass(frozen=True)
class CastFp16(_CastFloats):
    """Stores and computes in float16 what was float32, but for what its range or its rounding would spoil."""

    name: ClassVar[str] = "cast-fp16"
    format: ClassVar[NarrowFormat] = FP16


@register_pass
@dataclass(frozen=True)
class CastBf16(_CastFloats):
    """Stores and computes in bfloat16 what was float32, but for what its rounding would spoil."""

    name: ClassVar[str] = "cast-bf16"
    format: ClassVar[NarrowFormat] = BF16


def cast_pass(precision: str) -> Pass:
    """The pass that converts to a precision.

    Raises:
        UserError: there is no such precision; with a suggestion.
    """
    return CastFp16() if format_of(precision) is FP16 else CastBf16()


def remark(plan: PrecisionPlan, ctx: PassContext) -> None:
    """Pass on what was decided on every node."""
    for node in plan.narrow:
        ctx.applied(node, f"in {plan.format}")
    for node, why in plan.kept.items():
        ctx.refuse(node, why.reason, why.kind)
