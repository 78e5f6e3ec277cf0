"""Which input positions an output position of Resize reads along one axis, and with what weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]


@dataclass(frozen=True)
class AxisForm:
    """How one axis is resized.

    Attributes:
        mode: nearest, linear or cubic.
        transform: coordinate_transformation_mode.
        scale: output extent over input extent, as given or as the quotient.
        length: output extent before it is rounded down.
        roi: begin and end of the region for tf_crop_and_resize, in fractions of the axis.
    """

    mode: str
    transform: str
    nearest: str
    antialias: bool
    exclude_outside: bool
    cubic_a: float
    scale: float = 1.0
    length: float = 1.0
    roi: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class AxisTable:
    """Input positions and weights by output position and tap; ``outside`` marks positions to extrapolate."""

    index: npt.NDArray[np.int64]
    weight: Floats
    outside: npt.NDArray[np.bool_]


def source_coordinate(form: AxisForm, y: Floats, extent: int, out_extent: int) -> Floats:
    """Positions in the input, before rounding, of output positions ``y``, by arithmetic of their type."""
    number = y.dtype.type
    scale, length, one, half = number(form.scale), number(form.length), number(1), number(0.5)
    last = number(extent - 1)
    if form.transform == "align_corners":
        return np.zeros_like(y) if length == 1 else y * last / (length - one)
    if form.transform == "asymmetric":
        return np.asarray(y / scale)
    if form.transform == "tf_crop_and_resize":
        begin, end = (number(r) for r in form.roi)
        if length == 1:
            return np.full_like(y, half * (begin + end) * last)
        return np.asarray(begin * last + y * (end - begin) * last / (length - one))
    if form.transform == "pytorch_half_pixel" and length == 1:
        return np.full_like(y, -0.5)
    found = (y + half) / scale
    if form.transform == "half_pixel_symmetric":
        found = number(extent) / number(2) * (one - number(out_extent) / length) + found
    return np.asarray(found - half)


def axis_table(form: AxisForm, extent: int, out_extent: int) -> AxisTable:
    """The table of an axis with known extents.

    Which element is the nearest, and what is outside, is decided by positions in float32, as ONNX Runtime, PyTorch and others
    do: the float32 next to 1/3 is above it, so that in exact arithmetic every third element would be the one before.
    """
    decisive = source_coordinate(form, np.arange(out_extent, dtype=np.float32), extent, out_extent).astype(np.float64)
    outside = np.zeros(out_extent, bool)
    if form.transform == "tf_crop_and_resize":
        outside = (decisive < 0) | (decisive > extent - 1)
    if form.mode == "nearest":
        nearest = np.clip(round_nearest(form.nearest, decisive), 0, max(extent - 1, 0))
        index = nearest.astype(np.int64)[:, None]
        return AxisTable(index, np.ones(index.shape), outside)
    x = source_coordinate(form, np.arange(out_extent, dtype=np.float64), extent, out_extent)
    floor = np.floor(x)
    ratio = x - floor
    first, weight = _weights(form, ratio)
    index = (floor[:, None] + first + np.arange(weight.shape[1])[None, :]).astype(np.int64)
    if form.exclude_outside:
        weight = np.where((index < 0) | (index >= extent), 0.0, weight)
        total = weight.sum(axis=1, keepdims=True)
        weight = weight / np.where(total == 0, 1.0, total)
    return AxisTable(np.clip(index, 0, max(extent - 1, 0)), weight, outside)


def round_nearest(mode: str, x: Any) -> Any:
    """Positions rounded by ``nearest_mode``."""
    if mode == "floor":
        return np.floor(x)
    if mode == "ceil":
        return np.ceil(x)
    return np.floor(x + 0.5) if mode == "round_prefer_ceil" else np.ceil(x - 0.5)


def _weights(form: AxisForm, ratio: Floats) -> tuple[int, Floats]:
    """First tap relative to the floor, and weights by position and tap."""
    scale = min(form.scale, 1.0) if form.antialias else 1.0
    support = 1 if form.mode == "linear" else 2
    first = math.floor(-support / scale) + 1
    taps = np.arange(first, 2 - first)
    distance = np.abs((taps[None, :] - ratio[:, None]) * scale)
    if form.mode == "linear":
        weight = np.clip(1 - distance, 0, 1)
    else:
        weight = cubic(distance, form.cubic_a)
    if form.antialias:
        weight = weight / weight.sum(axis=1, keepdims=True)
    return first, weight


def cubic(d: Floats, a: float) -> Floats:
    """Keys' kernel at distances ``d``."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
