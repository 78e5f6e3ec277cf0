"""Constant factors and offsets folded into the weights of the linear operator before or after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Value
from graphopt.ops.context import attr
from graphopt.ops.registry import LINEAR, WHOLE_SUMS
from graphopt.ops.table import ops_with
from graphopt.passes.fold.batch_norm import pads
from graphopt.passes.fold.linear_node import F64, LINEAR_ATTRS, LinearNode, per_channel
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import any_, const, op, opt_const
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule


def _by_channel(m: Match, linear: LinearNode, constant: Value) -> F64:
    """The constant as a number per output channel, or refuse."""
    assert constant.data is not None
    flat = per_channel(constant.data, linear.out_channels, len(linear.node.out.shape), linear.channel_axis)
    m.require(flat is not None, "the constant is not a number per output channel", constant)
    assert flat is not None
    m.require(bool(np.all(np.isfinite(flat))), "the constant is not finite", constant)
    return flat


class FoldScaleIntoLinear(Rule):
    """Mul(L(x, W, b?), c) -> L(x, W * c, b * c);  Div(L(x, W, b?), c) -> L(x, W / c, b / c)

    Does not fire when W is shared, when c varies along other axes than the output channels, or divides by zero.
    """

    x, w, b, c = any_(), const(), opt_const(), const()
    linear = op(ops_with(LINEAR), x, w, b, keep=LINEAR_ATTRS)
    root = op(("Div",), linear, c)

    def check(self, m: Match) -> None:
        """A usable factor."""
        linear = LinearNode.of(m.node(self.linear))
        factor = self._factor(m, linear)
        m.require(bool(np.all(np.isfinite(factor))), "it divides by zero", m[self.c])
        linear.require_fit(linear.scaled_outputs(factor), linear.bias * factor)

    def rewrite(self, m: Match, e: Editor) -> Value:
        """Scaled weights."""
        linear = LinearNode.of(m.node(self.linear))
        factor = self._factor(m, linear)
        return linear.rebuilt(e, m[self.x], linear.scaled_outputs(factor), linear.bias * factor)

    def _factor(self, m: Match, linear: LinearNode) -> F64:
        flat = _by_channel(m, linear, m[self.c])
        if m.root.op == "Mul":
            return flat
        with np.errstate(divide="ignore"):
            return np.asarray(1.0 / flat)


class FoldFactorIntoLinear(FoldScaleIntoLinear):
    """Mul(L(x, W, b?), c) -> L(x, W * c, b * c), in both orders of the operands."""

    x, w, b, c = any_(), const(), opt_const(), const()
    linear = op(ops_with(LINEAR), x, w, b, keep=LINEAR_ATTRS)
    root = op("Mul", linear, c)


class FoldAddIntoLinear(Rule):
    """Add(L(x, W, b?), c) -> L(x, W, b + c)

    Does not fire when c varies along other axes than the output channels, or L is a MatMul of more than two axes.
    """

    x, w, b, c = any_(), any_(), opt_const(), const()
    linear = op(ops_with(LINEAR), x, w, b, keep=LINEAR_ATTRS)
    root = op("Add", linear, c)

    def check(self, m: Match) -> None:
        """A bias by channel."""
        node = m.node(self.linear)
        m.require(node.out.dtype.is_float, "the result is not floating point", node.out)
        m.require(m[self.w].tensor.is_static, "the extents of the weight are not known", m[self.w])
        m.require(node.op != "MatMul" or len(m[self.w].shape) == 2, "the weight is not a matrix", m[self.w])
        linear = LinearNode(node)
        linear.require_bias()
        _by_channel(m, linear, m[self.c])
        _ = linear.bias

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The same operator with another bias; the weight is not touched, so it may be shared or computed."""
        node = m.node(self.linear)
        linear = LinearNode(node)
        total = linear.bias + self._sign(m) * _by_channel(m, linear, m[self.c])
        bias = e.constant(total.astype(node.out.dtype.numpy), f"{node.out.name}_bias")
        attrs = {k: v for k, v in node.attrs.items() if k != "beta"}
        return e.node("Gemm" if node.op == "MatMul" else node.op, [m[self.x], m[self.w], bias], attrs).out

    def _sign(self, m: Match) -> float:
        return -1.0 if m.root.op == "Sub" else 1.0


class FoldSubIntoLinear(FoldAddIntoLinear):
    """Sub(L(x, W, b?), c) -> L(x, W, b - c)"""

    x, w, b, c = any_(), any_(), opt_const(), const()
    linear = op(ops_with(LINEAR), x, w, b, keep=LINEAR_ATTRS)
    root = op("Sub", linear, c)


class FoldReverseSubIntoLinear(Rule):
    """Sub(c, L(x, W, b?)) -> L(x, -W, c - b).  Does not fire when W is shared."""

    x, w, b, c = any_(), const(), opt_const(), const()
    linear = op(ops_with(LINEAR), x, w, b, keep=LINEAR_ATTRS)
    root = op("Sub", c, linear)

    def check(self, m: Match) -> None:
        """A bias by channel, a weight of its own."""
        linear = LinearNode.of(m.node(self.linear))
        linear.require_bias()
        _by_channel(m, linear, m[self.c])
        _ = linear.bias

    def rewrite(self, m: Match, e: Editor) -> Value:
        """Negated weights."""
        linear = LinearNode.of(m.node(self.linear))
        minus = np.full(linear.out_channels, -1.0)
        return linear.rebuilt(
            e, m[self.x], linear.scaled_outputs(minus), _by_channel(m, linear, m[self.c]) - linear.bias
        )


class FoldScaleBeforeLinear(Rule):
    """L(Mul(x, c), W, b?) -> L(x, W * c, b), for L one of Conv, Gemm, MatMul and c a number per input channel.

    Does not fire when W is shared. Zero padding is no obstacle: zero times c is zero.
    """

    x, w, b, c = any_(), const(), opt_const(), const()
    scaled = op("Mul", x, c)
    root = op(ops_with(WHOLE_SUMS), scaled, w, b, keep=LINEAR_ATTRS)

    def check(self, m: Match) -> None:
        """A factor by input channel that does not widen x."""
        linear = LinearNode.of(m.root)
        m.require(m[self.x].type == m[self.scaled].type, "the constant widens the data", m[self.c])
        m.require(linear.node.op != "Gemm" or not attr(linear.node, "transA"), "the data is transposed", linear.node)
        linear.require_fit(linear.scaled_inputs(self._factor(m, linear)), linear.bias)

    def rewrite(self, m: Match, e: Editor) -> Value:
        """Scaled weights."""
        linear = LinearNode.of(m.root)
        return linear.rebuilt(e, m[self.x], linear.scaled_inputs(self._factor(m, linear)), linear.bias)

    def _factor(self, m: Match, linear: LinearNode) -> F64:
        rank = len(m[self.x].shape)
        axis = 1 if linear.node.op == "Conv" else rank - 1
        flat = per_channel(m.array(self.c), linear.in_channels, rank, axis)
        m.require(flat is not None, "the constant is not a number per input channel", m[self.c])
        assert flat is not None
        m.require(bool(np.all(np.isfinite(flat))), "the constant is not finite", m[self.c])
        return flat


class FoldAddBeforeLinear(Rule):
    """L(Add(x, c), W, b?) -> L(x, W, b + sum over W * c), for L one of Conv without padding, Gemm, MatMul of matrices.

    Does not fire when the convolution pads: padding puts zeros behind the addition, not in front of it.
    """

    x, w, b, c = any_(), const(), opt_const(), const()
    moved = op("Add", x, c)
    root = op(ops_with(WHOLE_SUMS), moved, w, b, keep=LINEAR_ATTRS)

    def check(self, m: Match) -> None:
        """An offset by input channel, no padding."""
        linear = LinearNode.of(m.root)
        m.require(m[self.x].type == m[self.moved].type, "the constant widens the data", m[self.c])
        m.require(linear.node.op != "Conv" or not pads(m.root), "the convolution pads with zeros", m.root)
        m.require(linear.node.op != "Gemm" or not attr(linear.node, "transA"), "the data is transposed", linear.node)
        linear.require_bias()
        self._offset(m, linear)
        _ = linear.bias

    def rewrite(self, m: Match, e: Editor) -> Value:
        """Another bias."""
        linear = LinearNode.of(m.root)
        bias = linear.bias + linear.response_to(self._offset(m, linear))
        return linear.rebuilt(e, m[self.x], linear.weight, bias)

    def _offset(self, m: Match, linear: LinearNode) -> F64:
        rank = len(m[self.x].shape)
        flat = per_channel(m.array(self.c), linear.in_channels, rank, 1 if linear.node.op == "Conv" else rank - 1)
        m.require(flat is not None, "the constant is not a number per input channel", m[self.c])
        assert flat is not None
        m.require(bool(np.all(np.isfinite(flat))), "the constant is not finite", m[self.c])
        return flat


@register_pass
@dataclass(frozen=True)
class FoldAffine(RewritePass):
    """Folds constant Mul, Div, Add and Sub into the weights of the convolution or matrix product next to them."""

    name: ClassVar[str] = "fold-affine"
    rules: ClassVar[tuple[Rule, ...]] = (
        FoldScaleIntoLinear(), FoldFactorIntoLinear(), FoldAddIntoLinear(), FoldSubIntoLinear(),
        FoldReverseSubIntoLinear(),
        FoldScaleBeforeLinear(), FoldAddBeforeLinear(),
    )  # fmt: skip
