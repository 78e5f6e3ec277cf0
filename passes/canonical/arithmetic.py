"""Arithmetic with neutral constants. Exact: signed zeros and NaN come out as before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.graph import Array, Value
from graphopt.passes.canonical.identities import Forward
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import NoMatch, any_, const, op
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule


def _ones(array: Array) -> bool:
    return bool(array.size and array.dtype != object and np.all(array == 1))


def _zeros(array: Array) -> bool:
    return bool(array.size and array.dtype != object and not np.any(array))


class RemoveMulByOne(Forward):
    """Mul(x, 1) -> x;  Div(x, 1) -> x;  Pow(x, 1) -> x.  Does not fire when the constant's shape widens x."""

    x, c = any_(), const(_ones)
    root = op(("Mul", "Div", "Pow"), x, c)

    def check(self, m: Match) -> None:
        """Same type."""
        m.require_forward(m[self.x])


class RemoveOneTimes(RemoveMulByOne):
    """Mul(1, x) -> x"""

    x, c = any_(), const(_ones)
    root = op("Mul", c, x)


class RemoveAddZero(Forward):
    """Add(x, 0) -> x for integers, Add(x, -0.0) -> x for floats.

    Does not fire for ``Add(x, +0.0)``, which turns -0.0 into +0.0.
    """

    x, c = any_(), const(_zeros)
    root = op("Add", x, c)

    def check(self, m: Match) -> None:
        """Zero of the sign that changes nothing."""
        array, value = m.array(self.c), m[self.c]
        if value.dtype.is_float and not (bool(np.all(np.signbit(array))) or never_minus_zero(m[self.x])):
            raise NoMatch("adding +0.0 turns -0.0 into +0.0", value)
        m.require_forward(m[self.x])


class RemoveSubZero(Forward):
    """Sub(x, 0) -> x for integers and +0.0.  Does not fire for ``Sub(x, -0.0)``, which turns -0.0 into +0.0."""

    x, c = any_(), const(_zeros)
    root = op("Sub", x, c)

    def check(self, m: Match) -> None:
        """Zero of the sign that changes nothing."""
        array, value = m.array(self.c), m[self.c]
        signed = value.dtype.is_float and bool(np.any(np.signbit(array)))
        m.require(not signed or never_minus_zero(m[self.x]), "subtracting -0.0 turns -0.0 into +0.0", value)
        m.require_forward(m[self.x])


class RemoveNeutralLogic(Forward):
    """And(x, true) -> x;  Or(x, false) -> x;  Xor(x, false) -> x"""

    x, c = any_(), const()
    root = op(("And", "Or", "Xor"), x, c)

    def check(self, m: Match) -> None:
        """The neutral truth value."""
        neutral = m.root.op == "And"
        m.require(bool(np.all(m.array(self.c) == neutral)), f"the constant is not {neutral}", m[self.c])
        m.require_forward(m[self.x])


def never_minus_zero(value: Value) -> bool:
    """Whether the value's producer gives no -0.0: sums of squares, exponentials, sigmoids and such."""
    return value.producer is not None and value.producer.op in (
        "Exp",
        "Sigmoid",
        "Softmax",
        "ReduceL2",
        "ReduceL1",
        "Abs",
    )


@register_pass
@dataclass(frozen=True)
class RemoveNeutralArithmetic(RewritePass):
    """Removes multiplications by 1, additions of 0 and their kin."""

    name: ClassVar[str] = "remove-neutral-arithmetic"
    rules: ClassVar[tuple[Rule, ...]] = (
        RemoveMulByOne(), RemoveOneTimes(), RemoveAddZero(), RemoveSubZero(), RemoveNeutralLogic(),
    )  # fmt: skip
