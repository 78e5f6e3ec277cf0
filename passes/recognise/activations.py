"""SiLU, Mish, HardSigmoid and HardSwish out of their parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Value
from graphopt.ops.context import attr
from graphopt.passes.recognise.introduce import introduce, require_op
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import Pattern, any_, const, either, op, scalar
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule


class Silu(Rule):
    """x * Sigmoid(x) -> Swish(x)"""

    x = any_()
    root = op("Mul", x, op("Sigmoid", x))

    def check(self, m: Match) -> None:
        """The operator may be used."""
        require_op(m, "Swish", m[self.x])

    def rewrite(self, m: Match, e: Editor) -> Value:
        """One Swish."""
        return introduce(e, "Swish", [m[self.x]], {})


class SwishAlpha(Rule):
    """x * Sigmoid(a * x) -> Swish(x, alpha=a)"""

    x, a = any_(), const(lambda array: array.size == 1)
    root = op("Mul", x, op("Sigmoid", op("Mul", x, a)))

    def check(self, m: Match) -> None:
        """The operator may be used."""
        require_op(m, "Swish", m[self.x])

    def rewrite(self, m: Match, e: Editor) -> Value:
        """One Swish."""
        return introduce(e, "Swish", [m[self.x]], {"alpha": float(m.array(self.a).reshape(-1)[0])})


class Mish(Rule):
    """x * Tanh(Softplus(x)) -> Mish(x)"""

    x = any_()
    root = op("Mul", x, op("Tanh", op("Softplus", x)))

    def check(self, m: Match) -> None:
        """The operator may be used."""
        require_op(m, "Mish", m[self.x])

    def rewrite(self, m: Match, e: Editor) -> Value:
        """One Mish."""
        return introduce(e, "Mish", [m[self.x]], {})


def _relu6_of_shifted(x: Pattern) -> Pattern:
    """Clip(x + 3, 0, 6)"""
    return op("Clip", op("Add", x, scalar(3.0)), scalar(0.0), scalar(6.0))


class HardSigmoidFromClip(Rule):
    """Clip(x + 3, 0, 6) / 6 -> HardSigmoid(x, alpha=1/6, beta=1/2)"""

    x = any_()
    root = op("Div", _relu6_of_shifted(x), scalar(6.0))

    def check(self, m: Match) -> None:
        """The operator may be used."""
        require_op(m, "HardSigmoid", m[self.x])

    def rewrite(self, m: Match, e: Editor) -> Value:
        """One HardSigmoid."""
        return introduce(e, "HardSigmoid", [m[self.x]], {"alpha": 1 / 6, "beta": 0.5})


class HardSigmoidFromScaledClip(HardSigmoidFromClip):
    """Clip(x + 3, 0, 6) * (1/6) -> HardSigmoid(x, alpha=1/6, beta=1/2)"""

    x = any_()
    root = op("Mul", _relu6_of_shifted(x), scalar(1 / 6))


class HardSwishFromHardSigmoid(Rule):
    """x * HardSigmoid(x, alpha=1/6, beta=1/2) -> HardSwish(x)"""

    x = any_()
    gate = op("HardSigmoid", x, keep={"alpha", "beta"})
    root = op("Mul", x, gate)

    def check(self, m: Match) -> None:
        """The standard slope."""
        gate = m.node(self.gate)
        alpha, beta = float(attr(gate, "alpha")), float(attr(gate, "beta"))
        m.require(bool(np.isclose(alpha, 1 / 6, rtol=1e-6)) and beta == 0.5, f"alpha={alpha}, beta={beta}", gate)
        require_op(m, "HardSwish", m[self.x])

    def rewrite(self, m: Match, e: Editor) -> Value:
        """One HardSwish."""
        return introduce(e, "HardSwish", [m[self.x]], {})


class HardSwishFromClip(Rule):
    """x * Clip(x + 3, 0, 6) / 6 -> HardSwish(x)"""

    x = any_()
    root = op("Div", op("Mul", x, _relu6_of_shifted(x)), scalar(6.0))

    def check(self, m: Match) -> None:
        """The operator may be used."""
        require_op(m, "HardSwish", m[self.x])

    def rewrite(self, m: Match, e: Editor) -> Value:
        """One HardSwish."""
        return introduce(e, "HardSwish", [m[self.x]], {})


class HardSwishFromScaledClip(HardSwishFromClip):
    """(x * Clip(x + 3, 0, 6)) * (1/6) -> HardSwish(x)"""

    x = any_()
    root = op("Mul", op("Mul", x, _relu6_of_shifted(x)), scalar(1 / 6))


class HardSwishFromScaledData(HardSwishFromClip):
    """(x / 6) * Clip(x + 3, 0, 6) -> HardSwish(x)"""

    x = any_()
    sixth = either(op("Mul", x, scalar(1 / 6)), op("Div", x, scalar(6.0)))
    root = op("Mul", sixth, _relu6_of_shifted(x))


@register_pass
@dataclass(frozen=True)
class RecogniseActivations(RewritePass):
    """Recognises SiLU/Swish, Mish, HardSigmoid and HardSwish."""

    name: ClassVar[str] = "recognise-activations"
    rules: ClassVar[tuple[Rule, ...]] = (
        Silu(),
        SwishAlpha(),
        Mish(),
        HardSigmoidFromClip(),
        HardSigmoidFromScaledClip(),
        HardSwishFromHardSigmoid(),
        HardSwishFromClip(),
        HardSwishFromScaledClip(),
        HardSwishFromScaledData(),
    )
