"""How large sums of products of integers get, by the constant that is multiplied: some kernels have less than 32 bits for them."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from graphopt.backends.base.template import KernelCall
from graphopt.backends.templates.reading import constant_weight, zero_point_before
from graphopt.ir.graph import Array, Value

BITS_OF_SINGLE = 25
"""Up to so many bits, that of the sign included, integers are float32 as well."""

_LARGEST: WeakKeyDictionary[Value, tuple[Array, dict[tuple[int, int, int, int], int]]] = WeakKeyDictionary()
"""What `_largest_sum` found for an array, which templates ask for every configuration that they think of."""


_WIDTHS = (BITS_OF_SINGLE, 26, 30, 32)
"""Widths that kernels tell apart, so that layers whose weights differ share one (`cpu/kernels/winograd_integers.py`)."""


def sum_bits(call: KernelCall, data: Value, weight: Value, axis: int = 0, *, keeps_zero_point: bool = False) -> int:
    """Bits, that of the sign included, in which sums of products fit, those of any part of these too.

    Rounded up to a width that makes a difference to some kernel.

    Args:
        call: the group.
        data: the anchor's first operand, dequantized bytes.
        weight: its second one, dequantized bytes that are a constant.
        axis: of the weight, along which sums differ: that of the output channels.
        keeps_zero_point: whether the data is multiplied as it is stored.
    """
    of_data, of_weight = zero_point_before(call, data), zero_point_before(call, weight)
    assert of_data is not None
    assert of_weight is not None
    dtype: np.dtype[Any] = np.dtype(call.group.source(data).dtype.numpy)
    info = np.iinfo(dtype)
    zero_point = 0 if keeps_zero_point else of_data
    below, above = zero_point - int(info.min), int(info.max) - zero_point
    stored = constant_weight(call, weight)
    assert stored is not None
    source = call.group.source(weight)
    bits = _largest_sum(source, stored, axis, of_weight, below, above).bit_length() + 1
    return next((width for width in _WIDTHS if bits <= width), bits)


def _largest_sum(weight: Value, array: Array, axis: int, zero_point: int, below: int, above: int) -> int:
    """The largest absolute sum over a position along ``axis``, with data from ``-below`` to ``above``."""
    seen, known = _LARGEST.get(weight, (None, {}))
    if seen is not array:
        known = {}
        _LARGEST[weight] = array, known
    key = axis, zero_point, below, above
    if key not in known:
        flat = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).astype(np.int16) - np.int16(zero_point)
        positive = np.maximum(flat, 0).sum(1, dtype=np.int64)
        negative = positive - flat.sum(1, dtype=np.int64)
        largest = np.maximum(positive * above + negative * below, positive * below + negative * above)
        known[key] = int(largest.max(initial=0))
    return known[key]
