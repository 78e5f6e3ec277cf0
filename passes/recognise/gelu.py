"""Gelu out of its parts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Value
from graphopt.passes.recognise.introduce import introduce, require_op
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import Pattern, any_, either, op, scalar
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule


def _erf_part(x: Pattern) -> Pattern:
    """1 + erf(x / sqrt(2))"""
    inner = either(op("Div", x, scalar(math.sqrt(2))), op("Mul", x, scalar(math.sqrt(0.5))))
    return op("Add", op("Erf", inner), scalar(1.0))


def _tanh_part(x: Pattern) -> Pattern:
    """1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))"""
    square = either(op("Mul", x, x), op("Pow", x, scalar(2.0)))
    cubic = either(
        op("Mul", scalar(0.044715), either(op("Pow", x, scalar(3.0)), op("Mul", x, square))),
        op("Mul", x, op("Mul", scalar(0.044715), square)),
    )
    inner = op("Mul", op("Add", x, cubic), scalar(math.sqrt(2 / math.pi)))
    return op("Add", op("Tanh", inner), scalar(1.0))


class _Gelu(Rule):
    x = any_()
    attrs: ClassVar[dict[str, Any]] = {}

    def check(self, m: Match) -> None:
        """The operator may be used."""
        require_op(m, "Gelu", m[self.x])

    def rewrite(self, m: Match, e: Editor) -> Value:
        """One Gelu."""
        return introduce(e, "Gelu", [m[self.x]], self.attrs)


class GeluHalfLast(_Gelu):
    """x * (1 + erf(x / sqrt 2)) * 0.5 -> Gelu(x)"""

    x = any_()
    root = op("Mul", op("Mul", x, _erf_part(x)), scalar(0.5))


class GeluHalfFirst(_Gelu):
    """(0.5 * x) * (1 + erf(x / sqrt 2)) -> Gelu(x)"""

    x = any_()
    root = op("Mul", op("Mul", x, scalar(0.5)), _erf_part(x))


class GeluHalfInside(_Gelu):
    """x * (0.5 * (1 + erf(x / sqrt 2))) -> Gelu(x)"""

    x = any_()
    root = op("Mul", x, op("Mul", _erf_part(x), scalar(0.5)))


class GeluTanhHalfLast(_Gelu):
    """x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) * 0.5 -> Gelu(x, approximate=tanh)"""

    x = any_()
    attrs = {"approximate": "tanh"}
    root = op("Mul", op("Mul", x, _tanh_part(x)), scalar(0.5))


class GeluTanhHalfFirst(_Gelu):
    """(0.5 * x) * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) -> Gelu(x, approximate=tanh)"""

    x = any_()
    attrs = {"approximate": "tanh"}
    root = op("Mul", op("Mul", x, scalar(0.5)), _tanh_part(x))


class GeluTanhHalfInside(_Gelu):
    """x * (0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))) -> Gelu(x, approximate=tanh)"""

    x = any_()
    attrs = {"approximate": "tanh"}
    root = op("Mul", x, op("Mul", _tanh_part(x), scalar(0.5)))


@register_pass
@dataclass(frozen=True)
class RecogniseGelu(RewritePass):
    """Recognises Gelu, exact (erf) and approximate (tanh)."""

    name: ClassVar[str] = "recognise-gelu"
    rules: ClassVar[tuple[Rule, ...]] = (
        GeluHalfLast(),
        GeluHalfFirst(),
        GeluHalfInside(),
        GeluTanhHalfLast(),
        GeluTanhHalfFirst(),
        GeluTanhHalfInside(),
    )
