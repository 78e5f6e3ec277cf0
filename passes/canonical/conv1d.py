"""Convolutions and pools along one axis as those over images of one row, for which there are kernels."""

from __future__ import annotations

from collections.abc import Mapping
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
WINDOWS = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool"})


class _AlongRow(Rule):
    """A window over one axis becomes one over images of one row: views around a node of rank 4."""

    lists: ClassVar[Mapping[str, int]] = {"kernel_shape": 1, "strides": 1, "dilations": 1}
    """Attributes with a number for each axis, and what they say of the row's."""
    kept: ClassVar[frozenset[str]] = frozenset({"auto_pad"})

    def rewrite(self, m: Match, e: Editor) -> Value:
        """Views around a node of rank 4."""
        node = m.root
        axes = e.constant(np.asarray([ROW_AXIS], np.int64), "axes")
        data = node.input(0)
        assert data is not None
        image = e.node("Unsqueeze", [data, axes]).out
        attrs: dict[str, Any] = {k: v for k, v in node.attrs.items() if k in self.kept}
        for name, of_row in self.lists.items():
            values = attr(node, name)
            if values:
                attrs[name] = [of_row, *(int(v) for v in values)]
        pads = attr(node, "pads")
        if pads:
            attrs["pads"] = [0, int(pads[0]), 0, int(pads[1])]
        window = e.node(node.op, [image, *self._others(m, e, axes)], attrs, like=[node])
        return e.node("Squeeze", [window.out, axes]).out

    def _others(self, m: Match, e: Editor, axes: Value) -> list[Value | None]:
        """The operands behind the data."""
        return []


class Conv1dAs2d(_AlongRow):
    """Conv(x, W, b?) -> Squeeze(Conv(Unsqueeze(x), Unsqueeze(W), b?)), the new axis being the second last; ConvTranspose too.

    Does not fire when the data is not of rank 3, or when the weight is neither constant nor a dequantized constant.
    """

    lists = {**_AlongRow.lists, "output_padding": 0, "output_shape": 1}
    kept = frozenset({"auto_pad", "group"})
    x, w, b = any_(), any_(), opt_any()
    root = op(frozenset({"Conv", "ConvTranspose"}), x, w, b, keep={*lists, *kept, "pads"})

    def check(self, m: Match) -> None:
        """Rank 3."""
        m.require(len(m.root.out.shape) == 3, "the data is not of rank 3", m.root.out)
        m.require(_is_stored(m[self.w]), "the weight is computed", m[self.w])

    def _others(self, m: Match, e: Editor, axes: Value) -> list[Value | None]:
        w = m[self.w]
        if w.data is not None:
            weight = e.constant(np.expand_dims(w.data, ROW_AXIS), w.name)
        else:
            weight = e.node("Unsqueeze", [w, axes]).out
        return [weight, *m.root.inputs[2:]]


class _PoolAlongRow(_AlongRow):
    """A pool of known windows."""

    kept = frozenset({"auto_pad", "ceil_mode", "count_include_pad", "storage_order"})
    x = any_()

    def check(self, m: Match) -> None:
        """Rank 3."""
        m.require(len(m.root.out.shape) == 3, "the data is not of rank 3", m.root.out)


class MaxPool1dAs2d(_PoolAlongRow):
    """MaxPool(x) -> Squeeze(MaxPool(Unsqueeze(x))), the new axis being the second last.

    Does not fire when the data is not of rank 3, or when the places of maxima are asked for.
    """

    root = op("MaxPool", _PoolAlongRow.x, keep={*_AlongRow.lists, *_PoolAlongRow.kept, "pads"})


class AveragePool1dAs2d(_PoolAlongRow):
    """AveragePool(x) -> Squeeze(AveragePool(Unsqueeze(x))), the new axis being the second last.

    Does not fire when the data is not of rank 3.
    """

    root = op("AveragePool", _PoolAlongRow.x, keep={*_AlongRow.lists, *_PoolAlongRow.kept, "pads"})


def _is_stored(weight: Value) -> bool:
    node = weight.producer
    if weight.data is not None or node is None:
        return weight.data is not None
    source = node.input(0)
    return node.op == "DequantizeLinear" and not node.domain and source is not None and source.is_const


class UnaryBeforeSqueeze(Rule):
    """f(Squeeze(Conv(...))) -> Squeeze(f(Conv(...))) for element-wise f of one operand, so that convolutions and pools can meet."""

    x, axes = any_(), const()
    view = op("Squeeze", x, axes)
    root = op(ops_with(UNARY), view, keep=ANY_ATTRS)

    def check(self, m: Match) -> None:
        """The squeeze of a convolution or pool."""
        producer = m[self.x].producer
        m.require(
            producer is not None and (producer.op in WINDOWS or has_trait(producer, UNARY)),
            "it squeezes no convolution or pool",
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
    """Turns convolutions and pools of rank 3 into those over images of one row."""

    name: ClassVar[str] = "lower-conv1d"
    rules: ClassVar[tuple[Rule, ...]] = (
        Conv1dAs2d(),
        MaxPool1dAs2d(),
        AveragePool1dAs2d(),
        UnaryBeforeSqueeze(),
        UnsqueezeOfSqueeze(),
    )
