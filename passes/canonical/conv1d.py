"""Convolutions along one axis as convolutions over images of one row, for which there are kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Value
from graphopt.ops.context import attr
from graphopt.ops.registry import UNARY, has_trait
from graphopt.ops.table import ops_with
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import ANY_ATTRS, any_, const, op, opt_any
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule

ROW_AXIS = 2


class Conv1dAs2d(Rule):
    """Conv(x, W, b?) -> Squeeze(Conv(Unsqueeze(x), Unsqueeze(W), b?)), the new axis being the second last.

    Does not fire when the data is not of rank 3, or when the weight is neither constant nor a dequantized constant.
    """

    x, w, b = any_(), any_(), opt_any()
    root = op("Conv", x, w, b, keep={"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"})

    def check(self, m: Match) -> None:
        """Rank 3."""
        m.require(len(m.root.out.shape) == 3, "the data is not of rank 3", m.root.out)
        m.require(_is_stored(m[self.w]), "the weight is computed", m[self.w])

    def rewrite(self, m: Match, e: Editor) -> Value:
        """Views around a convolution of rank 4."""
        axes = e.constant(np.asarray([ROW_AXIS], np.int64), "axes")
        image = e.node("Unsqueeze", [m[self.x], axes]).out
        w = m[self.w]
        if w.data is not None:
            weight = e.constant(np.expand_dims(w.data, ROW_AXIS), w.name)
        else:
            weight = e.node("Unsqueeze", [w, axes]).out
        attrs: dict[str, Any] = {k: v for k, v in m.root.attrs.items() if k in ("auto_pad", "group")}
        for name, along_row in (("kernel_shape", 1), ("strides", 1), ("dilations", 1)):
            values = attr(m.root, name)
            if values:
                attrs[name] = [along_row, *(int(v) for v in values)]
        pads = attr(m.root, "pads")
        if pads:
            attrs["pads"] = [0, int(pads[0]), 0, int(pads[1])]
        inputs = [image, weight] + ([m.root.inputs[2]] if m.root.input(2) is not None else [])
        conv = e.node("Conv", inputs, attrs, like=[m.root])
        return e.node("Squeeze", [conv.out, axes]).out


def _is_stored(weight: Value) -> bool:
    node = weight.producer
    if weight.data is not None or node is None:
        return weight.data is not None
    source = node.input(0)
    return node.op == "DequantizeLinear" and not node.domain and source is not None and source.is_const


class UnaryBeforeSqueeze(Rule):
    """f(Squeeze(Conv(...))) -> Squeeze(f(Conv(...))) for element-wise f of one operand, so that convolutions can meet."""

    x, axes = any_(), const()
    view = op("Squeeze", x, axes)
    root = op(ops_with(UNARY), view, keep=ANY_ATTRS)

    def check(self, m: Match) -> None:
        """The squeeze of a convolution."""
        producer = m[self.x].producer
        m.require(
            producer is not None and (producer.op == "Conv" or has_trait(producer, UNARY)),
            "it squeezes no convolution",
            m[self.x],
        )

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The view last."""
        inner = e.node(m.root.op, [m[self.x]], dict(m.root.attrs), like=[m.root])
        return e.node("Squeeze", [inner.out, m[self.axes]]).out


class UnsqueezeOfSqueeze(Rule):
    """Unsqueeze(Squeeze(x, axes), axes) -> x"""

    x, axes, again = any_(), const(), const()
    inner = op("Squeeze", x, axes, shared=True)
    root = op("Unsqueeze", inner, again)

    def check(self, m: Match) -> None:
        """The same axes."""
        same = np.array_equal(m.array(self.axes), m.array(self.again))
        m.require(same and m[self.x].type == m.root.out.type, "other axes", m[self.again])

    def rewrite(self, m: Match, e: Editor) -> Value:
        """What was squeezed."""
        return m[self.x]


@register_pass
@dataclass(frozen=True)
class LowerConv1d(RewritePass):
    """Turns convolutions of rank 3 into convolutions over images of one row."""

    name: ClassVar[str] = "lower-conv1d"
    rules: ClassVar[tuple[Rule, ...]] = (Conv1dAs2d(), UnaryBeforeSqueeze(), UnsqueezeOfSqueeze())
