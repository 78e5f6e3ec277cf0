"""Attention of several heads with merged weights (Attention, QAttention) or of projected operands (MultiHeadAttention)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphopt.ir.graph import Value
from graphopt.ops.contrib.affine import is_single
from graphopt.ops.contrib.attention_mask import causal_mask, padding_mask
from graphopt.ops.contrib.builder import Builder
from graphopt.ops.contrib.products import integer_product
from graphopt.ops.contrib.table import becomes_plain

_MASK_FILTER = -10000.0


@becomes_plain(
    "Attention",
    operands="input weights bias? mask_index? past? attention_bias? past_sequence_length?",
    attributes="do_rotary mask_filter_value num_heads past_present_share_buffer qkv_hidden_sizes rotary_embedding_dim scale"
    " unidirectional",
    outputs=2,
)
def attention(b: Builder) -> Sequence[Value | None]:
    """Queries, keys and values are three runs of columns of ``input weights + bias``."""
    _refuse_shared_buffers(b)
    return _self_attention(b, b.emit("MatMul", [b.x("input"), b.x("weights")]), b.option("attention_bias"))


@becomes_plain(
    "QAttention",
    operands="input weight bias input_scale weight_scale mask_index? input_zero_point? weight_zero_point? past?",
    attributes="do_rotary mask_filter_value num_heads past_present_share_buffer scale unidirectional",
    outputs=2,
)
def quantized_attention(b: Builder) -> Sequence[Value | None]:
    """Attention whose product with the weights is one of integers with scales, those of the weights maybe by column."""
    _refuse_shared_buffers(b)
    data = (b.x("input"), b.x("input_scale"), b.option("input_zero_point"))
    weight = (b.x("weight"), b.x("weight_scale"), b.option("weight_zero_point"))
    if any(b.rank(scale) and not is_single(b, scale) for scale in data[1:] if scale is not None):
        raise b.invalid("the data of QAttention have several scales")
    return _self_attention(b, integer_product(b, *data, *weight), None)


def _refuse_shared_buffers(b: Builder) -> None:
    for name in ("past_present_share_buffer", "do_rotary"):
        if b.flag(name):
            raise b.refuse(f"{b.node.op} with {name}=1", "export the model without that option")


def _self_attention(b: Builder, merged: Value, scores_bias: Value | None) -> list[Value | None]:
    """Attention of queries, keys and values that lie side by side in ``merged``, to which the operand ``bias`` is added."""
    if b.rank(merged) != 3:
        raise b.invalid(f"{b.node.op} takes data of [batch, sequence, features], not {merged.type}")
    if (bias := b.option("bias")) is not None:
        merged = b.emit("Add", [merged, bias])
    heads = b.integer("num_heads", 0)
    width = merged.shape[2]
    if not isinstance(width, int):
        raise b.refuse(f"{b.node.op} whose weights have an unknown number of columns", "make the weights constants")
    sizes = b.integers("qkv_hidden_sizes") if "qkv_hidden_sizes" in b.node.attrs else [width // 3] * 3
    if heads < 1 or sizes is None or len(sizes) != 3 or sum(sizes) != width or any(s % heads for s in sizes):
        raise b.invalid(f"{width} columns of weights are no queries, keys and values of {heads} heads")
    parts = b.emit_all("Split", [merged, b.integer_list(sizes, "sizes")], {"axis": 2}, 3)
    query, key, value = (split_heads(b, part, heads) for part in parts)
    fresh, past = key, b.option("past")
    if past is not None:
        states = b.emit_all("Split", [past], {"axis": 0, "num_outputs": 2}, 2)
        first = b.integer_list([0], "state")
        key, value = (
            b.emit("Concat", [b.emit("Squeeze", [state, first]), new], {"axis": 2})
            for state, new in zip(states, (key, value))
        )
    result = attend(b, query, key, value, fresh, b.option("mask_index"), scores_bias)
    present = None
    if b.is_wanted(1):
        first = b.integer_list([0], "state")
        present = b.emit("Concat", [b.emit("Unsqueeze", [v, first]) for v in (key, value)], {"axis": 0})
    return [result, present][: len(b.node.outputs)]


@becomes_plain(
    "MultiHeadAttention",
    operands="query key? value? bias? key_padding_mask? attention_bias? past_key? past_value?",
    attributes="mask_filter_value num_heads scale unidirectional",
    outputs=3,
)
def multi_head_attention(b: Builder) -> Sequence[Value | None]:
    """Attention of queries, keys and values; keys and values may come with their heads apart already.

    Raises:
        UnsupportedOpError: queries, keys or values come packed into one operand.
    """
    heads = b.integer("num_heads", 0)
    query, key, value = b.x("query"), b.option("key"), b.option("value")
    if key is None or value is None or b.rank(query) != 3 or b.rank(key) > 4:
        raise b.refuse(
            "MultiHeadAttention of packed operands", "export the model with separate queries, keys and values"
        )
    if heads < 1:
        raise b.invalid(f"num_heads is {heads}")
    given = [query, key, value]
    bias = b.option("bias")
    if bias is not None:
        sizes = [b.shape(v)[2] for v in given if b.rank(v) == 3]
        if len(sizes) != 3 or not all(isinstance(s, int) for s in sizes):
            raise b.refuse("MultiHeadAttention with a bias of operands of unknown extents", "make their shapes static")
        lengths = b.integer_list([int(s) for s in sizes if isinstance(s, int)], "sizes")
        biases = b.emit_all("Split", [bias, lengths], {"axis": 0}, 3)
        given = [b.emit("Add", [v, part]) for v, part in zip(given, biases)]
    query, key, value = (split_heads(b, v, heads) if b.rank(v) == 3 else v for v in given)
    fresh = key
    if (past := b.option("past_key")) is not None:
        key = b.emit("Concat", [past, key], {"axis": 2})
        value = b.emit("Concat", [b.x("past_value"), value], {"axis": 2})
    result = attend(b, query, key, value, fresh, b.option("key_padding_mask"), b.option("attention_bias"))
    return [result, key, value][: len(b.node.outputs)]


def split_heads(b: Builder, x: Value, heads: int) -> Value:
    """[batch, sequence, heads * size] as [batch, heads, sequence, size]."""
    apart = b.emit("Reshape", [x, b.integer_list([0, 0, heads, -1], "heads")])
    return b.emit("Transpose", [apart], {"perm": [0, 2, 1, 3]})


def attend(
    b: Builder, query: Value, key: Value, value: Value, fresh: Value, mask: Value | None, scores_bias: Value | None
) -> Value:
    """``softmax(scale * query key' + masks) value``, the heads side by side again: [batch, sequence, heads * size].

    Args:
        fresh: the keys without those of a past state.
    """
    size = b.shape(query)[3]
    scale = b.number("scale", 0.0)
    if not scale:
        if not isinstance(size, int):
            raise b.refuse(f"{b.node.op} with heads of unknown size", "make the shape of its operands static")
        scale = 1 / math.sqrt(size)
    scores = b.emit("MatMul", [query, b.emit("Transpose", [key], {"perm": [0, 1, 3, 2]})])
    scores = b.scaled(scores, scale)
    lowest = b.number("mask_filter_value", _MASK_FILTER)
    for summand in (
        scores_bias,
        None if mask is None else padding_mask(b, mask, query, key, lowest),
        causal_mask(b, query, key, fresh) if b.flag("unidirectional") else None,
    ):
        if summand is not None:
            scores = b.emit("Add", [scores, summand])
    weights = b.emit("Softmax", [scores], {"axis": -1})
    mixed = b.emit("Transpose", [b.emit("MatMul", [weights, value])], {"perm": [0, 2, 1, 3]})
    return b.emit("Reshape", [mixed, b.integer_list([0, 0, -1], "merged")])
