"""Zero points of constant weights, subtracted when the model is compiled: kernels read signed bytes that need no subtraction.

uint8 weights about 128, and signed ones with a zero point of each channel, are what TensorFlow's tools and asymmetric settings of
others give. A kernel takes one zero point at most, so that several would have the weights dequantized in every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Array, Value
from graphopt.ops.context import attr
from graphopt.ops.registry import LINEAR, has_trait
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import any_, const, op
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule

_BYTES = (DType.i8, DType.u8)


class WithoutZeroPoint(Rule):
    """DequantizeLinear(W, s, z) -> DequantizeLinear(W - z, s), in 8 bits if the differences fit, else in 16.

    Does not fire unless a product reads the result and W is of 8 bits, where one zero point is 0 already, or where it is one for
    all and the differences need 16 bits, which kernels store by themselves.
    """

    w, s, z = const(), any_(), const()
    root = op("DequantizeLinear", w, s, z, keep={"axis", "output_dtype"})

    def check(self, m: Match) -> None:
        """A weight of bytes, with something to subtract."""
        m.require(m[self.w].dtype in _BYTES, "the integers are no bytes", m[self.w])
        m.require(any(has_trait(u.node, LINEAR) for u in m.root.out.uses), "no product reads the result", m.root.out)
        zeros = m.array(self.z)
        m.require(bool(zeros.any()), "the zero point is 0", m[self.z])
        m.require(_fits(self._differences(m)) or len(np.unique(zeros)) > 1, "the differences need 16 bits", m[self.w])

    def _differences(self, m: Match) -> Array:
        w, zeros = m.array(self.w).astype(np.int16), m.array(self.z).astype(np.int16)
        if zeros.size == 1:
            return w - zeros.reshape(())
        axis = int(attr(m.root, "axis")) % w.ndim
        return w - zeros.reshape([-1 if i == axis else 1 for i in range(w.ndim)])

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The differences as they are stored now."""
        found = self._differences(m)
        weight = e.constant(found.astype(np.int8) if _fits(found) else found, m[self.w].name)
        return e.node("DequantizeLinear", [weight, m[self.s]], dict(m.root.attrs), like=[m.root]).out


def _fits(array: Array) -> bool:
    return bool(array.size == 0 or (array.min() >= -128 and array.max() <= 127))


@register_pass
@dataclass(frozen=True)
class SubtractZeroPoints(RewritePass):
    """Subtracts zero points of constant weights, where kernels would have to, or couldn't."""

    name: ClassVar[str] = "subtract-zero-points"
    rules: ClassVar[tuple[Rule, ...]] = (WithoutZeroPoint(),)
