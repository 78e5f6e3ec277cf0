"""Chains of casts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Value
from graphopt.passes.canonical.identities import Forward
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import any_, op
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule

_MANTISSA = {DType.f16: 11, DType.bf16: 8, DType.f32: 24, DType.f64: 53}
_FLOAT_IN = {(DType.f16, DType.f32), (DType.f16, DType.f64), (DType.bf16, DType.f32), (DType.bf16, DType.f64),
             (DType.f32, DType.f64)}  # fmt: skip


def is_lossless(src: DType, dst: DType) -> bool:
    """Whether every value of ``src`` is exactly a value of ``dst``."""
    if src is dst:
        return True
    if src is DType.bool_:
        return dst.is_int or dst in _MANTISSA
    if src.is_int and dst.is_int:
        return dst.is_signed and src.bits < dst.bits if not src.is_signed else dst.is_signed and src.bits <= dst.bits
    if src.is_int and dst in _MANTISSA:
        return src.bits - src.is_signed <= _MANTISSA[dst]
    return (src, dst) in _FLOAT_IN


class RemoveCast(Forward):
    """Cast(x, to=type of x) -> x"""

    x = any_()
    root = op("Cast", x, keep={"to", "saturate", "round_mode"})

    def check(self, m: Match) -> None:
        """Same type."""
        m.require(m[self.x].dtype is m.root.out.dtype, "the type changes")
        m.require_forward(m[self.x])


class MergeCasts(Rule):
    """Cast(Cast(x, mid), to) -> Cast(x, to) where mid holds every value of x's type exactly."""

    x = any_()
    inner = op("Cast", x, keep={"to"}, shared=True)
    root = op("Cast", inner, keep={"to"})

    def check(self, m: Match) -> None:
        """Lossless in between."""
        src, mid, dst = m[self.x].dtype, m[self.inner].dtype, m.root.out.dtype
        m.require(is_lossless(src, mid), f"{src} loses something in {mid}", m[self.inner])
        m.require(DType.string not in (src, mid, dst), "text form depends on the type in between")

    def rewrite(self, m: Match, e: Editor) -> Value:
        """One cast; a cast to the same type is removed by ``RemoveCast``."""
        return e.node("Cast", [m[self.x]], {"to": m.root.out.dtype.onnx}).out


@register_pass
@dataclass(frozen=True)
class MergeCastChains(RewritePass):
    """Removes casts to the same type and the first of two casts where it loses nothing."""

    name: ClassVar[str] = "merge-casts"
    rules: ClassVar[tuple[Rule, ...]] = (RemoveCast(), MergeCasts())
