"""LayerNormalization and RMSNormalization out of their parts, and constant factors and offsets taken into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Array, Value
from graphopt.ops.context import attr, ints
from graphopt.passes.fold.linear_node import F64
from graphopt.passes.recognise.introduce import FLOATS, introduce, require_op
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import Leaf, OpPattern, Pattern, any_, const, either, op, opt_const, scalar
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule


def _one_element(array: Array) -> bool:
    return array.size == 1


def _square(x: Pattern) -> Pattern:
    return either(op("Pow", x, scalar(2.0)), op("Mul", x, x))


class NormRule(Rule):
    """Base: a normalisation over the last axes, which become ``axis`` of the new operator."""

    op_name: ClassVar[str] = "LayerNormalization"
    x, eps = any_(), const(_one_element)
    all_axes: ClassVar[tuple[Leaf, ...]] = ()

    def check(self, m: Match) -> None:
        """The same trailing axes everywhere, of known extent."""
        require_op(m, self.op_name, m[self.x], FLOATS)
        self._axis(m)

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The normalisation with a scale of ones, into which a following factor is folded."""
        x, axis = m[self.x], self._axis(m)
        extents = [int(d) for d in x.shape[axis:] if isinstance(d, int)]
        ones = e.constant(np.ones(extents, x.dtype.numpy), "scale")
        attrs = {"axis": axis, "epsilon": float(m.array(self.eps).reshape(-1)[0])}
        return introduce(e, self.op_name, [x, ones], attrs)

    def _axis(self, m: Match) -> int:
        x = m[self.x]
        rank = len(x.shape)
        found = [sorted(a % rank for a in ints(m.array(p))) for p in self.all_axes]
        first = found[0]
        m.require(all(f == first for f in found), "mean and variance are taken over different axes", m.root)
        m.require(bool(first) and first == list(range(first[0], rank)), f"axes {first} are not the last ones", m.root)
        m.require(all(isinstance(d, int) for d in x.shape[first[0] :]), "the normalised extent is not known", x)
        return first[0]


class LayerNormFromParts(NormRule):
    """d / Sqrt(ReduceMean(d^2) + eps) -> LayerNormalization(x, 1) with d = x - ReduceMean(x).

    Does not fire when the axes are not the last ones, or a part is used elsewhere.
    """

    x, eps, axes1, axes2 = any_(), const(_one_element), const(), const()
    all_axes = (axes1, axes2)
    centred = op("Sub", x, op("ReduceMean", x, axes1, require={"keepdims": 1}))
    deviation = op("Sqrt", op("Add", op("ReduceMean", _square(centred), axes2, require={"keepdims": 1}), eps))
    root = op("Div", centred, deviation)


class LayerNormFromReciprocal(NormRule):
    """d * (1 / Sqrt(ReduceMean(d^2) + eps)) -> LayerNormalization(x, 1) with d = x - ReduceMean(x)."""

    x, eps, axes1, axes2 = any_(), const(_one_element), const(), const()
    all_axes = (axes1, axes2)
    centred = op("Sub", x, op("ReduceMean", x, axes1, require={"keepdims": 1}))
    deviation = op("Sqrt", op("Add", op("ReduceMean", _square(centred), axes2, require={"keepdims": 1}), eps))
    root = op("Mul", centred, either(op("Reciprocal", deviation), op("Div", scalar(1.0), deviation)))


class RmsNormFromParts(NormRule):
    """x / Sqrt(ReduceMean(x^2) + eps) -> RMSNormalization(x, 1)"""

    op_name = "RMSNormalization"
    x, eps, axes = any_(), const(_one_element), const()
    all_axes = (axes,)
    size = op("Sqrt", op("Add", op("ReduceMean", _square(x), axes, require={"keepdims": 1}), eps))
    root = op("Div", x, size)


class RmsNormFromReciprocal(NormRule):
    """x * (1 / Sqrt(ReduceMean(x^2) + eps)) -> RMSNormalization(x, 1)"""

    op_name = "RMSNormalization"
    x, eps, axes = any_(), const(_one_element), const()
    all_axes = (axes,)
    size = op("Sqrt", op("Add", op("ReduceMean", _square(x), axes, require={"keepdims": 1}), eps))
    root = op("Mul", x, either(op("Reciprocal", size), op("Div", scalar(1.0), size)))


class FoldScaleIntoNorm(Rule):
    """Mul(Norm(x, s, b?), c) -> Norm(x, s * c, b * c), for LayerNormalization and RMSNormalization.

    Does not fire when c varies along other axes than the normalised ones.
    """

    x, s, b, c = any_(), const(), opt_const(), const()
    norm = op(("LayerNormalization", "RMSNormalization"), x, s, b, keep={"axis", "epsilon", "stash_type"})
    root = op("Mul", norm, c)

    def check(self, m: Match) -> None:
        """A factor of the scale's shape."""
        _onto(m, self.norm, m[self.s], m[self.c])

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The same normalisation, scaled."""
        node, dtype = m.node(self.norm), m.root.out.dtype.numpy
        factor = _onto(m, self.norm, m[self.s], m[self.c])
        operands: list[Value | None] = [m[self.x], e.constant((_wide(m[self.s]) * factor).astype(dtype), "scale")]
        bias = m.get(self.b)
        if bias is not None:
            operands.append(e.constant((_wide(bias) * factor).astype(dtype), "bias"))
        return e.node(node.op, operands, dict(node.attrs)).out


class FoldBiasIntoNorm(Rule):
    """Add(LayerNormalization(x, s, b?), c) -> LayerNormalization(x, s, b + c)

    Does not fire when c varies along other axes than the normalised ones.
    """

    x, s, b, c = any_(), any_(), opt_const(), const()
    norm = op("LayerNormalization", x, s, b, keep={"axis", "epsilon", "stash_type"})
    root = op("Add", norm, c)

    def check(self, m: Match) -> None:
        """An offset of the scale's shape."""
        _onto(m, self.norm, m[self.s], m[self.c])

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The same normalisation with another bias."""
        node, bias = m.node(self.norm), m.get(self.b)
        total = _onto(m, self.norm, m[self.s], m[self.c]) + (0 if bias is None else _wide(bias))
        constant = e.constant(total.astype(m.root.out.dtype.numpy), "bias")
        return e.node(node.op, [m[self.x], m[self.s], constant], dict(node.attrs)).out


def _wide(value: Value) -> F64:
    assert value.data is not None
    return value.data.astype(np.float64)


def _onto(m: Match, norm: OpPattern, scale: Value, constant: Value) -> F64:
    """The constant broadcast to the normalised shape, or refuse."""
    out, node = m.root.out, m.node(norm)
    m.require(node.out.type == out.type, "the constant widens the shape", constant)
    m.require(scale.tensor.is_static, "the scale's shape is not known", scale)
    shape = scale.tensor.static_shape
    m.require(out.shape[int(attr(node, "axis")) :] == shape, "the scale is itself broadcast", scale)
    array = _wide(constant)
    extra = max(array.ndim - len(shape), 0)
    fits = all(d == 1 for d in array.shape[:extra])
    m.require(fits, "the constant varies along other axes than the normalised ones", constant)
    return np.broadcast_to(array.reshape(array.shape[extra:]), shape)


@register_pass
@dataclass(frozen=True)
class RecogniseNorms(RewritePass):
    """Recognises LayerNormalization and RMSNormalization, with scale and bias."""

    name: ClassVar[str] = "recognise-norms"
    rules: ClassVar[tuple[Rule, ...]] = (
        LayerNormFromParts(),
        LayerNormFromReciprocal(),
        RmsNormFromParts(),
        RmsNormFromReciprocal(),
        FoldScaleIntoNorm(),
        FoldBiasIntoNorm(),
    )
