"""Arithmetic on indices that are Python integers or TVM int64 expressions: integers stay integers."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.tensor import Expr, Index


def i64(value: Expr) -> Expr:
    """``value`` as an int64 expression."""
    if isinstance(value, int):
        return tirx.const(value, "int64")
    return value if str(value.ty.dtype) == "int64" else value.astype("int64")


def floordiv(a: Expr, b: Expr) -> Expr:
    """``a // b``, and 0 for an extent of 0, along which there is no position to compute."""
    if isinstance(b, int) and b == 0:
        return 0  # TVM refuses a division by a constant 0, even in a loop that never runs
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    return a if isinstance(b, int) and b == 1 else tirx.floordiv(i64(a), i64(b))


def floormod(a: Expr, b: Expr) -> Expr:
    """``a % b`` with the sign of ``b``, and 0 for an extent of 0, along which there is no position to compute."""
    if isinstance(b, int) and b in (0, 1):
        return 0
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    return tirx.floormod(i64(a), i64(b))


def largest(a: Expr, b: Expr) -> Expr:
    """``max(a, b)``."""
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else tirx.max(i64(a), i64(b))


def smallest(a: Expr, b: Expr) -> Expr:
    """``min(a, b)``."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else tirx.min(i64(a), i64(b))


def clamp(index: Expr, extent: Expr) -> Expr:
    """The nearest position in ``[0, extent)``."""
    return largest(smallest(index, extent - 1), 0)


def wrapped(index: Expr, extent: Expr) -> Expr:
    """An index that may count from the end, as ONNX allows, forced into range so that nothing outside is read."""
    index = i64(index)
    return clamp(tirx.Select(index < 0, index + extent, index), extent)


def both(a: Expr, b: Expr) -> Expr:
    """``a and b``; either may be True or False."""
    if isinstance(a, bool):
        return b if a else False
    if isinstance(b, bool):
        return a if b else False
    return tirx.And(a, b)


def every(conditions: Sequence[Expr]) -> Expr:
    """Whether all hold."""
    out: Expr = True
    for condition in conditions:
        out = both(out, condition)
    return out


def inside(index: Expr, extent: Expr) -> Expr:
    """Whether ``0 <= index < extent``."""
    if isinstance(index, int) and isinstance(extent, int):
        return 0 <= index < extent
    return tirx.And(i64(index) >= 0, i64(index) < extent)


def product(dims: Sequence[Expr]) -> Expr:
    """Product of extents."""
    out: Expr = 1
    for d in dims:
        out = out * d
    return out


def row_major(shape: Sequence[Expr]) -> Index:
    """Strides, in elements, of a tensor stored row by row."""
    strides: list[Expr] = []
    step: Expr = 1
    for d in reversed(shape):
        strides.append(step)
        step = step * d
    return tuple(reversed(strides))


def flatten(index: Sequence[Expr], shape: Sequence[Expr]) -> Expr:
    """Position of an element in row-major order."""
    flat: Expr = 0
    for i, d in zip(index, shape):
        flat = flat * d + i
    return flat


def unflatten(flat: Expr, shape: Sequence[Expr]) -> Index:
    """Inverse of ``flatten``."""
    index: list[Expr] = []
    for d in reversed(shape[1:]):
        index.append(floormod(flat, d))
        flat = floordiv(flat, d)
    return (flat, *reversed(index)) if shape else ()


def never_empty(shape: Sequence[Expr]) -> bool:
    """Whether a tensor has elements for certain, so that a clamped index can be read."""
    return all(isinstance(d, int) and d > 0 for d in shape)
