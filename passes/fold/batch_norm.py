"""BatchNormalization folded into the linear operator before or after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Node, Value
from graphopt.ops.context import attr
from graphopt.ops.registry import LINEAR, WHOLE_SUMS
from graphopt.ops.table import ops_with
from graphopt.passes.fold.linear_node import F64, LINEAR_ATTRS, LinearNode, per_channel
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import any_, const, op, opt_const
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule


class FoldBatchNormIntoLinear(Rule):
    """BatchNormalization(L(x, W, b?)) -> L(x, W * s, b * s + t), for L one of Conv, ConvTranspose, Gemm, MatMul,
    where s = scale / sqrt(var + epsilon) and t = shift - mean * s.

    Does not fire in training mode, when W is shared, or when the channels of L lie on another axis than 1.
    """

    x, w, b = any_(), const(), opt_const()
    scale, shift, mean, var = const(), const(), const(), const()
    linear = op(ops_with(LINEAR), x, w, b, keep=LINEAR_ATTRS)
    root = op("BatchNormalization", linear, scale, shift, mean, var, keep={"epsilon", "momentum"})

    def check(self, m: Match) -> None:
        """Weights that may change."""
        linear = LinearNode.of(m.node(self.linear))
        m.require(linear.channel_axis == 1, "the channels are not on axis 1", linear.node.out)
        linear.require_bias()
        s, t = affine_of(m.root)
        linear.require_fit(linear.scaled_outputs(s), linear.bias * s + t)

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The linear operator with scaled weights."""
        linear = LinearNode.of(m.node(self.linear))
        s, t = affine_of(m.root)
        return linear.rebuilt(e, m[self.x], linear.scaled_outputs(s), linear.bias * s + t)


class FoldBatchNormBeforeLinear(Rule):
    """L(BatchNormalization(x), W, b?) -> L(x, W * s, b + sum over W * t), for L one of Conv, Gemm, MatMul.

    Does not fire when the convolution pads and t is not zero: padding puts zeros behind the normalisation, not in
    front of it.
    """

    x, w, b = any_(), const(), opt_const()
    norm = op("BatchNormalization", x, const(), const(), const(), const(), keep={"epsilon", "momentum"})
    root = op(ops_with(WHOLE_SUMS), norm, w, b, keep=LINEAR_ATTRS)

    def check(self, m: Match) -> None:
        """No padding, or nothing to add."""
        linear = LinearNode.of(m.root)
        _, t = affine_of(m.node(self.norm))
        if linear.node.op == "Conv":
            m.require(
                not np.any(t) or not pads(m.root), "the convolution pads with zeros, which the shift moves", m.root
            )
        else:
            m.require(len(m[self.x].shape) == 2, "the channels are not the contracted axis", m[self.x])
            m.require(not attr(m.root, "transA"), "the data is transposed", m.root)
            linear.require_bias()
        _ = linear.bias

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The linear operator with scaled weights."""
        linear = LinearNode.of(m.root)
        s, t = affine_of(m.node(self.norm))
        return linear.rebuilt(e, m[self.x], linear.scaled_inputs(s), linear.bias + linear.response_to(t))


class FoldScaleIntoBatchNorm(Rule):
    """Mul(BatchNormalization(x, scale, shift, ...), c) -> BatchNormalization(x, scale * c, shift * c, ...)

    Does not fire when c varies along other axes than the channels or is not finite.
    """

    x, c = any_(), const()
    norm = op("BatchNormalization", x, const(), const(), const(), const(), keep={"epsilon", "momentum"})
    root = op("Mul", norm, c)

    def check(self, m: Match) -> None:
        """A number per channel that does not widen the data."""
        self._factor(m)

    def rewrite(self, m: Match, e: Editor) -> Value:
        """Other parameters of the normalisation."""
        c = self._factor(m)
        scale, shift = (_wide_input(m.node(self.norm), i) for i in (1, 2))
        return _rebuilt(e, m.node(self.norm), *self._parameters(scale, shift, c), like=m.root)

    def _parameters(self, scale: F64, shift: F64, c: F64) -> tuple[F64, F64]:
        return scale * c, shift * c

    def _factor(self, m: Match) -> F64:
        norm = m.node(self.norm)
        m.require(m.root.out.type == norm.out.type, "the constant widens the data", m[self.c])
        channels = _wide_input(norm, 1).size
        flat = per_channel(m.array(self.c), channels, len(norm.out.shape), 1)
        m.require(flat is not None, "the constant is not a number per channel", m[self.c])
        assert flat is not None
        m.require(bool(np.all(np.isfinite(flat))), "the constant is not finite", m[self.c])
        return flat


class FoldShiftIntoBatchNorm(FoldScaleIntoBatchNorm):
    """Add(BatchNormalization(x, scale, shift, ...), c) -> BatchNormalization(x, scale, shift + c, ...)"""

    x, c = any_(), const()
    norm = op("BatchNormalization", x, const(), const(), const(), const(), keep={"epsilon", "momentum"})
    root = op("Add", norm, c)

    def _parameters(self, scale: F64, shift: F64, c: F64) -> tuple[F64, F64]:
        return scale, shift + c


class BatchNormToAffine(Rule):
    """BatchNormalization(x) -> x * s + t, where no linear operator takes it in."""

    x = any_()
    root = op("BatchNormalization", x, const(), const(), const(), const(), keep={"epsilon", "momentum"})

    def check(self, m: Match) -> None:
        """A float tensor with a channel axis."""
        m.require(len(m[self.x].shape) >= 2, "the data has no channel axis", m[self.x])

    def rewrite(self, m: Match, e: Editor) -> Value:
        """Mul and Add."""
        x = m[self.x]
        shape = (-1,) + (1,) * (len(x.shape) - 2)
        s, t = (v.reshape(shape).astype(x.dtype.numpy) for v in affine_of(m.root))
        scaled = e.node("Mul", [x, e.constant(s, f"{m.root.out.name}_scale")])
        return e.node("Add", [scaled.out, e.constant(t, f"{m.root.out.name}_shift")]).out


def _wide_input(norm: Node, index: int) -> F64:
    value = norm.inputs[index]
    assert value is not None
    assert value.data is not None
    return value.data.astype(np.float64)


def _rebuilt(e: Editor, norm: Node, scale: F64, shift: F64, like: Node) -> Value:
    """``norm`` with another scale and shift, in the place of ``like``."""
    x, *old = norm.inputs
    assert x is not None
    new = []
    for value, array in zip(old, (scale, shift)):
        assert value is not None
        new.append(e.constant(array.astype(value.dtype.numpy), value.name))
    return e.node("BatchNormalization", [x, *new, *old[2:]], dict(norm.attrs), like=[norm, like]).out


def affine_of(norm: Node) -> tuple[F64, F64]:
    """(s, t) with ``BatchNormalization(x) == x * s + t`` by channel, in double precision."""
    arrays = []
    for value in norm.inputs[1:5]:
        assert value is not None
        assert value.data is not None
        arrays.append(value.data.astype(np.float64))
    scale, shift, mean, var = arrays
    s = scale / np.sqrt(var + float(attr(norm, "epsilon")))
    return s, shift - mean * s


def pads(conv: Node) -> bool:
    """Whether a convolution may read padding."""
    mode = attr(conv, "auto_pad")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        weight = conv.inputs[1]
        assert weight is not None
        return any(k != 1 for k in weight.shape[2:])
    return mode != "VALID" and any(int(p) for p in attr(conv, "pads") or ())


@register_pass
@dataclass(frozen=True)
class FoldBatchNorm(RewritePass):
    """Folds BatchNormalization into the weights next to it, and constant factors and offsets after it into its own."""

    name: ClassVar[str] = "fold-batch-norm"
    rules: ClassVar[tuple[Rule, ...]] = (
        FoldBatchNormIntoLinear(), FoldBatchNormBeforeLinear(), FoldScaleIntoBatchNorm(), FoldShiftIntoBatchNorm(),
    )  # fmt: skip


@register_pass
@dataclass(frozen=True)
class LowerBatchNorm(RewritePass):
    """Turns each BatchNormalization that is left into a multiplication and an addition."""

    name: ClassVar[str] = "lower-batch-norm"
    rules: ClassVar[tuple[Rule, ...]] = (BatchNormToAffine(),)
