"""What a value is of a tensor further up: a strided view, through reshapes, transpositions, slices and factors.

Exporters spell the heads of attention as reshapes, transpositions and slices of one matrix. Where each element of a value lies in
that matrix is an offset and a stride for each axis, as in numpy's arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphopt.ir.dims import Dim, floordiv, nonnegative
from graphopt.ir.graph import Node, Value
from graphopt.ops.context import InferContext, attr, known_array
from graphopt.ops.movement import slice_bounds
from graphopt.ops.registry import RESHAPE
from graphopt.ops.table import ops_with

_RENAMING = frozenset({*ops_with(RESHAPE), "Identity"})
_SUM = frozenset({"Mul", "Div"})


@dataclass(frozen=True)
class StridedView:
    """The element at index i is ``factor * source.flat[offset + sum(i * strides)]``.

    Attributes:
        source: the tensor.
        shape: of the view.
        strides: in elements of the source.
        offset: of the first element.
        factor: that all elements are multiplied with.
    """

    source: Value
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim = 0
    factor: float = 1.0


def row_major(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """Strides of a tensor that lies in memory row by row."""
    strides: list[Dim] = []
    step: Dim = 1
    for d in reversed(shape):
        strides.append(step)
        step = step * d
    return tuple(reversed(strides))


def views(value: Value) -> Iterator[StridedView]:
    """What a value is of itself, of what that is made of, and so on, as long as it is a view."""
    view: StridedView | None = StridedView(value, value.shape, row_major(value.shape))
    while view is not None:
        yield view
        node = view.source.producer
        view = None if node is None or node.domain else _through(view, node)


def _through(view: StridedView, node: Node) -> StridedView | None:
    x = node.input(0)
    if x is None or node.graph is None or (x.is_const and node.op not in _SUM):
        return None
    if node.op in _RENAMING:
        return replace(view, source=x)
    if node.op in _SUM:
        return _scaled(view, node)
    axes = list(range(len(x.shape)))
    begin: list[Dim] = [0] * len(axes)
    if node.op == "Transpose":
        axes = [int(a) for a in (attr(node, "perm") or axes[::-1])]
    elif node.op == "Slice":
        bounds = slice_bounds(InferContext(node, node.graph))
        if any(step != 1 for _, _, step in bounds):
            return None
        begin = [first for first, _, _ in bounds]
    elif node.op == "Split":
        axis = int(attr(node, "axis") or 0) % len(axes)
        for out in node.outputs:
            if out is view.source:
                break
            if out is None:
                return None
            begin[axis] += out.shape[axis]
    elif node.op == "Gather":
        index = node.input(1)
        place = None if index is None else known_array(index)
        axis = int(attr(node, "axis") or 0) % len(axes)
        if place is None or place.ndim or not isinstance(x.shape[axis], int):
            return None
        extent = x.shape[axis]
        assert isinstance(extent, int)
        begin[axis] = int(place) % extent
        axes.remove(axis)
    else:
        return None
    return _moved(view, x, axes, begin)


def _scaled(view: StridedView, node: Node) -> StridedView | None:
    """Through a product with, or a division by, a number."""
    for data, other in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        if data is None or other is None or other.data is None or other.data.size != 1 or data.type != view.source.type:
            continue
        if node.op == "Div" and data is node.inputs[1]:
            continue
        number = float(np.asarray(other.data).reshape(-1)[0])
        if not np.isfinite(number) or number == 0:
            return None
        return replace(view, source=data, factor=view.factor * (number if node.op == "Mul" else 1 / number))
    return None


def _moved(view: StridedView, x: Value, axes: Sequence[int], begin: Sequence[Dim]) -> StridedView | None:
    """A view of a tensor whose axes are those ``axes`` of ``x``, each from a position on."""
    shape, own, of_x = view.source.shape, row_major(view.source.shape), row_major(x.shape)
    strides: list[Dim] = []
    last: list[Dim] = [0] * len(shape)  # the largest position along each axis
    for extent, stride in zip(view.shape, view.strides):
        if extent == 1 or stride == 0:
            strides.append(0)
            continue
        found = next(
            ((a, m) for a in range(len(shape)) if shape[a] != 1 and (m := _multiple(stride, own[a])) is not None), None
        )
        if found is None:
            return None
        axis, steps = found
        strides.append(steps * of_x[axes[axis]])
        last[axis] = last[axis] + (extent - 1) * steps
    offset: Dim = sum((b * s for b, s in zip(begin, of_x)), 0)
    rest = view.offset
    for axis, stride in enumerate(own):
        if rest == 0:
            break
        whole = floordiv(rest, stride) if isinstance(rest, int) and isinstance(stride, int) else _multiple(rest, stride)
        if whole is not None:
            offset, rest = offset + whole * of_x[axes[axis]], rest - whole * stride
            last[axis] = last[axis] + whole
    if rest != 0 or not all(nonnegative(d - 1 - end) for d, end in zip(shape, last) if end != 0):
        return None  # elements of one axis of the view lie in several rows
    return replace(view, source=x, strides=tuple(strides), offset=offset)


def _multiple(stride: Dim, of: Dim) -> Dim | None:
    """How many times a stride is another one, None if it is no multiple."""
    if of == 0:
        return None
    times = floordiv(stride, of)
    return times if times != 0 and times * of == stride else None
