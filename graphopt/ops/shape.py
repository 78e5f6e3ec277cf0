"""Operators that read or change shapes without moving elements, and those that make tensors of a given shape."""

from __future__ import annotations

import numpy as np

from graphopt.ir.atoms import SymbolKind
from graphopt.ir.dims import Dim, ceildiv, dim_max, equal_int, floordiv, known, mod, nonnegative, product, where
from graphopt.ir.dims import apply as apply_dim
from graphopt.ir.dtypes import DType
from graphopt.ir.types import Shape, TensorType, Type
from graphopt.ops.context import InferContext, content_of, ints
from graphopt.ops.registry import MOVEMENT, RESHAPE, VIEW, register

_CARRIERS = ("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape")
"""Operators that hand a single number through."""


@register("Shape")
def _shape(c: InferContext) -> list[Type]:
    start, end = shape_range(c)
    return [TensorType(DType.i64, (max(end - start, 0),))]


def shape_range(c: InferContext) -> tuple[int, int]:
    """The clamped [start, end) of a Shape node."""
    rank = c.rank(0)
    start, end = int(c.attr("start") or 0), c.attr("end")
    end = rank if end is None else int(end)
    start, end = (v + rank if v < 0 else v for v in (start, end))
    return min(max(start, 0), rank), min(max(end, 0), rank)


@register("Size")
def _size(c: InferContext) -> list[Type]:
    return [TensorType(DType.i64, ())]


@register("Reshape", traits=(MOVEMENT, RESHAPE, VIEW))
def _reshape(c: InferContext) -> list[Type]:
    wanted: list[Dim] = list(c.content(1).reshape(-1))
    x = c.shape(0)
    keep_zero = bool(c.attr("allowzero"))
    out: list[Dim] = []
    for i, d in enumerate(wanted):
        if d == 0 and not keep_zero:
            if i >= len(x):
                raise c.invalid(f"Reshape copies dimension {i} of a rank {len(x)} tensor")
            out.append(x[i])
        else:
            out.append(d)
    unknown = [i for i, d in enumerate(out) if d == -1 and isinstance(wanted[i], int) and wanted[i] == -1]
    if len(unknown) > 1:
        raise c.invalid("Reshape with more than one -1")
    if unknown:
        rest = product(d for i, d in enumerate(out) if i != unknown[0])
        total = product(x)
        if isinstance(total, int) and isinstance(rest, int) and (rest == 0 or total % rest):
            raise c.invalid(f"Reshape of {total} elements into {[str(d) for d in out]}")
        if isinstance(rest, int) and rest > 0:
            c.assume_equal(mod(total, rest), 0, f"Reshape into parts of {rest} elements")
        else:
            c.assume_not(rest, 0, "Reshape with -1 beside an extent of 0")
            c.assume_equal(floordiv(total, rest) * rest, total, "element count of Reshape")
        out[unknown[0]] = floordiv(total, rest)
        return [TensorType(c.dtype(0), tuple(out))]
    bound = c.value(1).binds
    if bound:  # elements only known at run time may be -1 or 0
        out = _resolve_at_run_time(out, x, keep_zero)
        c.assume_equal(product(x), product(out), "element count of Reshape")
    elif known(out) and known(x) and product(out) != product(x):
        raise c.invalid(f"Reshape of {product(x)} elements into {out}")
    elif not (known(out) and known(x)):
        c.assume_equal(product(x), product(out), "element count of Reshape")
    return [TensorType(c.dtype(0), tuple(out))]


def _resolve_at_run_time(wanted: list[Dim], x: Shape, keep_zero: bool) -> list[Dim]:
    dims = [d if keep_zero or i >= len(x) else where(equal_int(d, 0), x[i], d) for i, d in enumerate(wanted)]
    positive = [where(equal_int(d, -1), 1, d) for d in dims]
    rest = dim_max(product(positive), 1)
    return [where(equal_int(d, -1), floordiv(product(x), rest), d) for d in dims]


@register("Flatten", traits=(MOVEMENT, RESHAPE, VIEW))
def _flatten(c: InferContext) -> list[Type]:
    x = c.shape(0)
    axis = int(c.attr("axis"))
    axis = axis + len(x) if axis < 0 else axis
    return [TensorType(c.dtype(0), (product(x[:axis]), product(x[axis:])))]


@register("Squeeze", traits=(MOVEMENT, RESHAPE, VIEW))
def _squeeze(c: InferContext) -> list[Type]:
    x = c.shape(0)
    if c.has(1):
        count, ones = c.type(1).num_elements, {i for i, d in enumerate(x) if d == 1}
        if c.const(1) is None and known(x) and len(ones) == count:
            axes = ones  # whatever the operand says, it can be no others
        else:
            axes = {c.axis(a, len(x)) for a in ints(c.need_const(1, "the axes of Squeeze"))}
    else:
        if not known(x):
            raise c.unsupported(
                "Squeeze without axes of a symbolic shape", "give the axes, or fix the shape with --shape"
            )
        axes = {i for i, d in enumerate(x) if d == 1}
    for a in axes:
        c.assume_equal(x[a], 1, "squeezed dimension is 1")
    return [TensorType(c.dtype(0), tuple(d for i, d in enumerate(x) if i not in axes))]


@register("Unsqueeze", traits=(MOVEMENT, RESHAPE, VIEW))
def _unsqueeze(c: InferContext) -> list[Type]:
    x = c.shape(0)
    if c.const(1) is None:
        return [TensorType(c.dtype(0), _unsqueezed_at_run_time(c, x, list(c.content(1).reshape(-1))))]
    axes = ints(c.need_const(1, "the axes of Unsqueeze"))
    rank = len(x) + len(axes)
    places = {c.axis(a, rank) for a in axes}
    if len(places) != len(axes):
        raise c.invalid(f"Unsqueeze names an axis twice: {axes}")
    rest = iter(x)
    return [TensorType(c.dtype(0), tuple(1 if i in places else next(rest) for i in range(rank)))]


def _unsqueezed_at_run_time(c: InferContext, x: Shape, axes: list[Dim]) -> Shape:
    """Where the new dimensions are turns out at run time."""
    rank = len(x) + len(axes)
    places = [where(apply_dim("lt", a, 0), a + rank, a) for a in axes]
    for i, place in enumerate(places):
        c.assume_at_most(0, place, "axis of Unsqueeze")
        c.assume_at_most(place, rank - 1, "axis of Unsqueeze")
        for other in places[:i]:
            c.assume_not(place - other, 0, "Unsqueeze names an axis twice")
    out: list[Dim] = []
    before: Dim = 0
    for i in range(rank):
        new: Dim = 0
        for a in axes:
            new = where(equal_int(a, i), 1, where(equal_int(a, i - rank), 1, new))
        kept: Dim = 1
        for n, d in enumerate(x):
            kept = where(equal_int(i - before, n), d, kept)
        out.append(where(new, 1, kept))
        before = before + new
    return tuple(out)


@register("Expand", traits=(MOVEMENT,))
def _expand(c: InferContext) -> list[Type]:
    wanted = tuple(c.content(1).reshape(-1))
    return [TensorType(c.dtype(0), c.broadcast(c.shape(0), wanted, what="the data and the target of Expand"))]


@register("Tile", traits=(MOVEMENT,))
def _tile(c: InferContext) -> list[Type]:
    repeats = list(c.content(1).reshape(-1))
    x = c.shape(0)
    if len(repeats) != len(x):
        raise c.invalid(f"Tile of rank {len(x)} with {len(repeats)} repeats")
    for r in repeats:
        c.assume_at_most(0, r, "repeats of Tile")
    return [TensorType(c.dtype(0), tuple(d * r for d, r in zip(x, repeats)))]


@register("ConstantOfShape")
def _constant_of_shape(c: InferContext) -> list[Type]:
    value = c.attr("value")
    dtype = DType.f32 if value is None else DType.from_numpy(np.asarray(value).dtype)
    return [TensorType(dtype, tuple(c.content(0).reshape(-1)))]


@register("Range")
def _range(c: InferContext) -> list[Type]:
    """The extent is ``max(ceil((limit - start) / delta), 0)``; floats that are cast from integers count as these."""
    if c.dtype(0).is_int:
        whole = [c.content(i).reshape(-1)[0] for i in range(3)]
    else:
        whole = [d for i in range(3) if (d := _integral(c, i)) is not None]
    if len(whole) == 3:
        start, limit, delta = whole
        if isinstance(delta, int) and delta == 0:
            raise c.invalid("Range with a delta of 0")
        count = ceildiv(limit - start, delta)
        return [TensorType(c.dtype(0), (count if nonnegative(count) else dim_max(count, 0),))]
    values = [c.const(i) for i in range(3)]
    if any(v is None for v in values):
        return [TensorType(c.dtype(0), (c.graph.fresh_symbol("u", SymbolKind.measured),))]
    start, limit, delta = (np.asarray(v).reshape(-1)[0] for v in values)
    return [TensorType(c.dtype(0), (max(int(np.ceil((limit - start) / delta)), 0),))]


def _integral(c: InferContext, i: int) -> Dim | None:
    """A scalar float operand as an integer expression, None when it isn't known to be one."""
    known_now = c.const(i)
    if known_now is not None:
        number = float(known_now.reshape(-1)[0])
        return int(number) if number.is_integer() else None
    value = c.value(i)
    while value.producer is not None and value.producer.op in _CARRIERS and value.producer.inputs[0] is not None:
        if not (value.dtype.is_float or value.dtype in (DType.i64, DType.i32)):
            return None  # a cast to a narrow type changes the number
        value = value.producer.inputs[0]
        found = content_of(value)
        if found is not None and found.size == 1:
            dim: Dim = found.reshape(-1)[0]
            return dim
    return None


@register("EyeLike")
def _eye_like(c: InferContext) -> list[Type]:
    code = c.node.attrs.get("dtype")
    return [TensorType(c.dtype(0) if code is None else DType.from_onnx(int(code)), c.shape(0))]


@register("Trilu")
def _trilu(c: InferContext) -> list[Type]:
    return [c.type(0)]
