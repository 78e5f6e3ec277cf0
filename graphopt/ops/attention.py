"""Attention and rotary embedding."""

from __future__ import annotations

from graphopt.ir.dims import Dim, floordiv
from graphopt.ir.types import TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.registry import ANCHOR, register


@register("Attention", traits=(ANCHOR,))
def _attention(c: InferContext) -> list[Type]:
    """Q, K, V are [batch, heads, sequence, head size], or [batch, sequence, heads * head size] with the head counts as
    attributes."""
    q, k, v = c.shape(0), c.shape(1), c.shape(2)
    if not len(q) == len(k) == len(v) or len(q) not in (3, 4):
        raise c.invalid(f"Attention needs Q, K and V of rank 3 or 4, got {len(q)}, {len(k)} and {len(v)}")
    total: Dim
    if len(q) == 4:
        batch, heads, length, size = q
        kv_heads, past, v_size = k[1], k[2], v[3]
        out: tuple[Dim, ...] = (batch, heads, length, v_size)
    else:
        if not c.attr("q_num_heads") or not c.attr("kv_num_heads"):
            raise c.invalid("Attention of rank 3 data needs q_num_heads and kv_num_heads")
        heads, kv_heads = int(c.attr("q_num_heads")), int(c.attr("kv_num_heads"))
        batch, length, past = q[0], q[1], k[1]
        size, v_size = floordiv(q[2], heads), floordiv(v[2], kv_heads)
        out = (batch, length, heads * v_size)
    total = past
    if c.has(4):
        total = c.shape(4)[2] + past
    dtype = c.dtype(0)
    return [
        TensorType(dtype, out),
        TensorType(c.dtype(1), (batch, kv_heads, total, size)),
        TensorType(c.dtype(2), (batch, kv_heads, total, v_size)),
        TensorType(dtype, (batch, heads, length, total)),
    ]


@register("RotaryEmbedding")
def _rotary(c: InferContext) -> list[Type]:
    return [c.type(0)]


@register("LinearAttention", traits=(ANCHOR,))
def _linear_attention(c: InferContext) -> list[Type]:
    """Q is [batch, time, heads * key size], V is [batch, time, kv heads * value size]; the state is [batch, kv heads,
    key, value]."""
    q, v = c.shape(0), c.shape(2)
    if len(q) != 3 or len(v) != 3:
        raise c.invalid(f"LinearAttention needs packed data of rank 3, got {len(q)} and {len(v)}")
    heads, kv_heads = int(c.attr("q_num_heads")), int(c.attr("kv_num_heads"))
    size, v_size = floordiv(q[2], heads), floordiv(v[2], kv_heads)
    out = TensorType(c.dtype(0), (q[0], q[1], heads * v_size))
    return [out, TensorType(c.dtype(3) if c.has(3) else c.dtype(0), (q[0], kv_heads, size, v_size))]


@register("CausalConvWithState", traits=(ANCHOR,))
def _causal_conv(c: InferContext) -> list[Type]:
    """Input is [batch, channels, length], weight [channels, 1, k]; the state keeps the last k - 1 columns."""
    x, w = c.shape(0), c.shape(1)
    return [c.type(0), TensorType(c.dtype(3) if c.has(3) else c.dtype(0), (*x[:2], w[2] - 1))]
