"""Scaled dot-product attention in its plain form; the others are expanded to their parts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.backends.base.element_type import SINGLE_TYPES
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.reduce import Axes
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.tensor import Expr, Index, Tensor, broadcast_index, elementwise, let
from graphopt.ir.dims import Dim
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Node, Value
from graphopt.ops.context import attr


@dataclass(frozen=True)
class AttentionForm:
    """``softmax(scale * q kT + mask) v`` over heads.

    Attributes:
        batch, heads, kv_heads: extents; query head i belongs to key head ``i // (heads / kv_heads)``.
        queries, keys, size, v_size: lengths of the sequences, and of a vector.
        scale: factor of the scores.
        causal: whether query i sees keys up to i only.
        packed: operands are [batch, length, heads * size] instead of [batch, heads, length, size].
        mask: added to the scores (float), or telling which count (bool); broadcast to [batch, heads, queries, keys].
    """

    batch: Dim
    heads: int
    kv_heads: int
    queries: Dim
    keys: Dim
    size: int
    v_size: int
    scale: float
    causal: bool
    packed: bool
    mask: Value | None

    @property
    def scores(self) -> tuple[Dim, ...]:
        """Shape of the scores."""
        return (self.batch, self.heads, self.queries, self.keys)


def attention_form(node: Node) -> AttentionForm | str:
    """The plain form that an Attention node has, or why it has none."""
    q, k, v = (node.input(i) for i in range(3))
    mask = node.input(3)
    if q is None or k is None or v is None:
        return "an operand is missing"
    if any(node.input(i) is not None for i in range(4, len(node.inputs))):
        return "a cache of keys and values"
    if any(o is not None and (o.uses or o.escapes) for o in node.outputs[1:]):
        return "more than one result"
    if any(t.dtype not in SINGLE_TYPES for t in (q, k, v)):
        return "needs float32"
    if attr(node, "softcap") or attr(node, "softmax_precision") not in (None, 0, 1):
        return "softcap or another precision"
    if any(node.attrs.get(f"{side}_window_size", -1) != -1 for side in ("left", "right")):
        return "a window"
    packed = len(q.shape) == 3
    if packed:
        heads, kv_heads = int(attr(node, "q_num_heads")), int(attr(node, "kv_num_heads"))
        widths = (q.shape[2], k.shape[2], v.shape[2])
        if not all(isinstance(w, int) for w in widths):
            return "vectors of unknown size"
        size, k_size, v_size = (int(w) // h for w, h in zip(widths, (heads, kv_heads, kv_heads)))  # type: ignore[arg-type]
        lengths = (q.shape[1], k.shape[1], v.shape[1])
    else:
        fixed = (q.shape[1], k.shape[1], v.shape[1], q.shape[3], k.shape[3], v.shape[3])
        if not all(isinstance(d, int) for d in fixed):
            return "heads or vectors of unknown size"
        heads, kv_heads, v_heads, size, k_size, v_size = (int(d) for d in fixed)  # type: ignore[arg-type]
        lengths = (q.shape[2], k.shape[2], v.shape[2])
        if v_heads != kv_heads:
            return "keys and values differ in heads"
    if lengths[1] != lengths[2] or k_size != size or not q.shape[0] == k.shape[0] == v.shape[0] or heads % kv_heads:
        return "operands that are not known to fit"
    if min(heads, size, v_size) < 1 or 0 in (q.shape[0], *lengths):
        return "an empty dimension"
    scale = node.attrs.get("scale")
    form = AttentionForm(
        q.shape[0], heads, kv_heads, lengths[0], lengths[1], size, v_size,
        1 / math.sqrt(size) if scale is None else float(scale), bool(attr(node, "is_causal")), packed, mask,
    )  # fmt: skip
    if mask is not None:
        if mask.dtype not in SINGLE_TYPES | {DType.bool_}:
            return "a mask of another type"
        if not 2 <= len(mask.shape) <= 4 or mask.shape[-1] != form.keys:
            return "a mask that is not known to fit"
        if any(d not in (1, s) for d, s in zip(mask.shape[::-1], form.scores[::-1])):
            return "a mask that is not known to fit"
    return form


@lowers("Attention")
def _attention(c: LowerContext) -> Lowered:
    form = attention_form(c.node)
    if isinstance(form, str):
        raise c.unsupported(f"Attention: {form}")
    q, k, v = c.x(0), c.x(1), c.x(2)
    ratio = form.heads // form.kv_heads
    batch, queries, keys = (c.k.dim(d) for d in (form.batch, form.queries, form.keys))

    def at(t: Tensor, b: Expr, head: Expr, position: Expr, i: Expr, size: int) -> Expr:
        return t(b, position, head * size + i) if form.packed else t(b, head, position, i)

    def kv_head(head: Expr) -> Expr:
        return (
            head
            if ratio == 1
            else head // ratio
            if isinstance(head, int)
            else tirx.floordiv(head, const(ratio, "int64"))
        )

    def product(i: Index, r: Index) -> Expr:
        b, head, row, column = i
        return at(q, b, head, row, r[0], form.size) * at(k, b, kv_head(head), column, r[0], form.size)

    shape = (batch, form.heads, queries, keys)
    products = c.k.reduce(shape, "float32", (form.size,), product)

    def score(*i: Expr) -> Expr:
        value = products(*i) * const(form.scale, "float32")
        if form.mask is not None:
            value = masked(value, c.x(3)(*broadcast_index(c.x(3), i)))
        return tirx.Select(i[3] <= i[2], value, const(-math.inf, "float32")) if form.causal else value

    scores = c.k.stage(Tensor(shape, "float32", score))
    axes = Axes(scores, (3,))
    top = c.k.stage(axes.reduce(c, lambda i: scores(*i), "float32", "max"))

    def exponential(score: Expr, top: Expr) -> Expr:
        # a query that sees no key gets weights of 0, as in ONNX's reference
        top = let(top)
        return m.exp_up_to_60(score - tirx.Select(top > const(-math.inf, "float32"), top, const(0.0, "float32")))

    power = c.k.stage(elementwise(exponential, "float32", shape, scores, top))
    total = c.k.stage(axes.reduce(c, lambda i: power(*i), "float32"))

    def weighted(i: Index, r: Index) -> Expr:
        b, head, row, column = _place(i, form)
        return power(b, head, row, r[0]) * at(v, b, kv_head(head), r[0], column, form.v_size)

    out = c.k.reduce(c.out_shape(), "float32", (keys,), weighted)

    def element(*i: Expr) -> Expr:
        b, head, row, _ = _place(i, form)
        weight = let(total(b, head, row, 0))
        return out(*i) / tirx.Select(tirx.EQ(weight, const(0.0, "float32")), const(1.0, "float32"), weight)

    return Tensor(c.out_shape(), "float32", element)


def masked(score: Expr, mask: Expr) -> Expr:
    """A score under one element of the mask."""
    if str(mask.ty.dtype) == "bool":
        return tirx.Select(mask, score, const(-math.inf, "float32"))
    return score + mask


def _place(i: Index, form: AttentionForm) -> Index:
    """Batch, head, query and element of an index into the result."""
    if not form.packed:
        return i
    b, row, rest = i
    if isinstance(rest, int):
        return b, rest // form.v_size, row, rest % form.v_size
    size = const(form.v_size, "int64")
    return b, tirx.floordiv(rest, size), row, tirx.floormod(rest, size)
