"""Steps that add nodes on 8-bit integers."""

from __future__ import annotations

import numpy as np

from tests.random_graphs.draft import Draft, Rejected


def _scale(d: Draft) -> str:
    return d.constant(np.float32(d.pick(0.02, 0.1, 0.05)))


def _bytes(d: Draft, min_rank: int, max_rank: int) -> str:
    return d.find(lambda a: str(a.dtype) in ("uint8", "int8") and min_rank <= a.ndim <= max_rank and a.size > 0)


def quantize(d: Draft) -> None:
    """A float to bytes, per tensor or per channel, and back at times."""
    x = d.find(lambda a: a.dtype == np.float32)
    dtype = d.pick("uint8", "int8")
    rank = len(d.dims(x))
    if rank >= 2 and d.chance(0.3):
        channels = d.dims(x)[1]
        scale = d.constant(d.rng.random(channels) * 0.1 + 0.01, "float32")
        zero = d.constant(d.rng.integers(0, 9, channels), dtype)
        q, attrs = d.one("QuantizeLinear", x, scale, zero, axis=1), {"axis": 1}
    else:
        scale = _scale(d)
        zero = d.constant(d.pick(0, 3, 100), dtype)
        q, attrs = d.one("QuantizeLinear", x, scale, zero), {}
    if d.chance(0.6):
        d.one("DequantizeLinear", q, scale, zero, **attrs)


def dequantize(d: Draft) -> None:
    """Bytes to a float."""
    x = _bytes(d, 0, 4)
    d.one("DequantizeLinear", x, _scale(d), d.constant(d.pick(0, 5), d.dtype(x)) if d.chance(0.6) else None)


def integer_matmul(d: Draft) -> None:
    """MatMulInteger or QLinearMatMul."""
    x = _bytes(d, 2, 4)
    dtype = d.dtype(x)
    other = d.pick("uint8", "int8") if dtype == "uint8" else "int8"
    w = d.constant(d.rng.integers(0, 100, (d.dims(x)[-1], d.pick(1, 5, 16))), other)
    zero, w_zero = d.constant(d.pick(0, 7), dtype), d.constant(d.pick(0, 2), other)
    if d.chance(0.5):
        d.one("MatMulInteger", x, w, zero, w_zero)
    else:
        d.one("QLinearMatMul", x, _scale(d), zero, w, _scale(d), w_zero, _scale(d), d.constant(d.pick(0, 11), dtype))


def integer_conv(d: Draft) -> None:
    """ConvInteger or QLinearConv."""
    x = _bytes(d, 4, 4)
    dtype, shape = d.dtype(x), d.dims(x)
    if shape[1] == 0:
        raise Rejected("no channels")
    out = d.pick(1, 3, 16)
    k = d.pick(1, 3)
    integer = dtype == "uint8" and d.chance(0.4)
    w_dtype = "uint8" if integer else d.pick("int8", dtype)
    w = d.constant(d.rng.integers(0, 100, (out, shape[1], k, k)), w_dtype)
    zero, w_zero = d.constant(d.pick(0, 7), dtype), d.constant(0, w_dtype)
    pads = {"pads": [k // 2] * 4}
    if integer:
        d.one("ConvInteger", x, w, zero, w_zero, **pads)
    else:
        bias = d.constant(d.rng.integers(-50, 50, out), "int32") if d.chance(0.5) else None
        y_zero = d.constant(d.pick(0, 11), dtype)
        d.one("QLinearConv", x, _scale(d), zero, w, _scale(d), w_zero, _scale(d), y_zero, bias, **pads)


STEPS = (quantize, quantize, dequantize, integer_matmul, integer_conv)
