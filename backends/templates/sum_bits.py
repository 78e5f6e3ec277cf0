"""How large sums of products of integers get, by the constant that is multiplied: some kernels have less than 32 bits for them."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from graphopt.backends.base.template import KernelCall
from graphopt.backends.templates.reading import constant_weight, zero_point_before
from graphopt.ir.graph import Array, Value

_LARGEST: WeakKeyDictionary[Value, tuple[Array, dict[tuple[int, int, int], int]]] = WeakKeyDictionary()
"""What `_largest_sum` found for an array, which templates ask for every configuration that they think of."""


_WIDTHS = (26, 30, 32)
"""Widths that kernels tell apart, so that layers whose weights differ share one (`cpu/kernels/winograd_integers.py`)."""


def sum_bits(call: KernelCall, data: Value, weight: Value) -> int:
    """Bits, that of the sign included, in which the sums of a convolution fit, those of any part of their products too.

    Rounded up to a width that makes a difference to some kernel.

    Args:
        call: the group.
        data: the anchor's first operand, dequantized bytes.
        weight: its second one, dequantized bytes that are a constant, output channels first.
    """
    of_data, of_weight = zero_point_before(call, data), zero_point_before(call, weight)
    assert of_data is not None
    assert of_weight is not None
    dtype: np.dtype[Any] = np.dtype(call.group.source(data).dtype.numpy)
    info = np.iinfo(dtype)
    below, above = of_data - int(info.min), int(info.max) - of_data
    stored = constant_weight(call, weight)
    assert stored is not None
    bits = _largest_sum(call.group.source(weight), stored, of_weight, below, above).bit_length() + 1
    return next((width for width in _WIDTHS if bits <= width), bits)


def _largest_sum(weight: Value, array: Array, zero_point: int, below: int, above: int) -> int:
    """The largest absolute sum over an output channel, with data from ``-below`` to ``above``."""
    seen, known = _LARGEST.get(weight, (None, {}))
    if seen is not array:
        known = {}
        _LARGEST[weight] = array, known
    key = zero_point, below, above
    if key not in known:
        flat = array.reshape(array.shape[0], -1).astype(np.int16) - np.int16(zero_point)
        positive = np.maximum(flat, 0).sum(1, dtype=np.int64)
        negative = positive - flat.sum(1, dtype=np.int64)
        largest = np.maximum(positive * above + negative * below, positive * below + negative * above)
        known[key] = int(largest.max(initial=0))
    return known[key]
