"""Partial evaluation of shape arithmetic: elements of small integer tensors as symbolic dimensions.

``Shape -> Gather -> Mul -> Concat -> Reshape`` chains become known target shapes here, without a constant folder and
with symbols left in where the model is dynamic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.dims import Dim, SymExpr, dim_max, dim_min, equal_int, floordiv, mod, product, where
from graphopt.ir.dims import apply as apply_dim
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Content
from graphopt.ir.types import TensorType
from graphopt.ops.context import MAX_CONTENT, InferContext, content_of, ints
from graphopt.ops.movement import slice_bounds, split_sizes
from graphopt.ops.shape import shape_range

Evaluator = Callable[[InferContext, "list[Content]"], "list[Content] | Content | None"]


def evaluate(c: InferContext) -> None:
    """Set ``content`` of the node's integer outputs where it follows from the inputs' contents."""
    node = c.node
    fn = _TABLE.get(node.op)
    if fn is None:
        return
    for out in node.outputs:
        if out is None or not isinstance(out.type, TensorType) or out.type.dtype not in _TRACKED:
            return
        count = out.type.num_elements
        if count is None or count > MAX_CONTENT:
            return
    inputs: list[Content] = []
    if node.op not in ("Shape", "Size"):
        for value in node.inputs:
            found = None if value is None else content_of(value)
            if found is None:
                return
            inputs.append(found)
    result = fn(c, inputs)
    if result is None:
        return
    results = result if isinstance(result, list) else [result]
    for out, content in zip(node.outputs, results):
        if out is not None and isinstance(out.type, TensorType) and out.type.is_static:
            array = np.empty(out.type.static_shape, object)
            array.reshape(-1)[:] = np.asarray(content, object).reshape(-1)
            if _representable(array, out.type.dtype):
                out.content = array


def _representable(content: Content, dtype: DType) -> bool:
    """Whether all numbers are in the type's range. Kernels wrap around beyond it, which dimensions don't."""
    if dtype is DType.bool_:
        return True
    kind: Any = dtype.numpy  # one of integers, which the type of numpy's dtypes here doesn't say
    limits = np.iinfo(kind)
    return all(limits.min <= d <= limits.max for d in content.reshape(-1) if isinstance(d, int))


_TRACKED = (DType.i64, DType.i32, DType.bool_)


def _map(fn: Callable[..., Dim], *arrays: Content) -> Content:
    wide = np.broadcast_arrays(*arrays)
    out = np.empty(wide[0].shape, object)
    flat = [w.reshape(-1) for w in wide]
    out.reshape(-1)[:] = [fn(*items) for items in zip(*flat)]
    return out


def _truncdiv(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        quotient = abs(a) // abs(b) if b else 0
        return quotient if (a >= 0) == (b >= 0) else -quotient
    return floordiv(a, b)  # dimensions are not negative


def _elementwise(fn: Callable[..., Dim]) -> Evaluator:
    return lambda c, xs: _map(fn, *xs)


def _shape(c: InferContext, _: list[Content]) -> Content:
    start, end = shape_range(c)
    return _array(c.shape(0)[start:end])


def _array(items: object) -> Content:
    values = list(items)  # type: ignore[call-overload]
    out = np.empty(len(values), object)
    out[:] = values
    return out


def _gather(c: InferContext, xs: list[Content]) -> Content | None:
    if any(isinstance(i, SymExpr) for i in xs[1].reshape(-1)):
        return None
    axis = c.axis(int(c.attr("axis")), xs[0].ndim)
    index = xs[1].astype(np.int64)
    extent = xs[0].shape[axis]
    if index.size and (index.min() < -extent or index.max() >= extent):
        raise c.invalid(f"Gather index out of range for extent {extent}")
    return np.take(xs[0], index, axis=axis)


def _slice(c: InferContext, xs: list[Content]) -> Content | None:
    index = []
    for first, extent, step in slice_bounds(c):
        if not (isinstance(first, int) and isinstance(extent, int) and isinstance(step, int)):
            return None
        index.append(first + np.arange(extent) * step)
    return xs[0][np.ix_(*index)] if index else xs[0]


def _split(c: InferContext, xs: list[Content]) -> list[Content] | None:
    sizes = [s for s in split_sizes(c) if isinstance(s, int)]
    if len(sizes) != len(c.node.outputs):
        return None
    axis = c.axis(int(c.attr("axis")), xs[0].ndim)
    return np.split(xs[0], np.cumsum(sizes)[:-1], axis=axis)


def _range(c: InferContext, xs: list[Content]) -> Content | None:
    start, limit, delta = (x.reshape(-1)[0] for x in xs)
    if not all(isinstance(v, int) for v in (start, limit, delta)):
        return None
    return _array(range(start, limit, delta))


def _constant_of_shape(c: InferContext, xs: list[Content]) -> Content | None:
    value = c.attr("value")
    fill = 0 if value is None else int(np.asarray(value).reshape(-1)[0])
    shape = [int(d) for d in xs[0].reshape(-1)] if not _symbolic(xs[0]) else None
    return None if shape is None else _array([fill] * int(np.prod(shape)))


def _symbolic(x: Content) -> bool:
    return any(isinstance(d, SymExpr) for d in x.reshape(-1))


def _expand(c: InferContext, xs: list[Content]) -> Content | None:
    if _symbolic(xs[1]):
        return None
    return np.broadcast_to(xs[0], np.broadcast_shapes(xs[0].shape, tuple(int(d) for d in xs[1].reshape(-1))))


def _reduce(fn: Callable[[list[Dim]], Dim]) -> Evaluator:
    def run(c: InferContext, xs: list[Content]) -> Content | None:
        axes = ints(c.need_const(1, "axes")) if c.has(1) else list(range(xs[0].ndim))
        if sorted(a % max(xs[0].ndim, 1) for a in axes) != list(range(xs[0].ndim)):
            return None
        return _array([fn(list(xs[0].reshape(-1)))])

    return run


def _transpose(c: InferContext, xs: list[Content]) -> Content:
    perm = c.attr("perm")
    return np.transpose(xs[0], [int(p) for p in perm] if perm else None)


def _cast(c: InferContext, xs: list[Content]) -> Content | None:
    if c.node.out.dtype is DType.bool_:
        return None if _symbolic(xs[0]) else _map(lambda d: int(bool(d)), xs[0])
    return xs[0]


def _concat(c: InferContext, xs: list[Content]) -> Content:
    return np.concatenate(xs, axis=int(c.attr("axis")))


def _compare(fn: str) -> Evaluator:
    return _elementwise(lambda a, b: apply_dim(fn, a, b))


_same: Evaluator = lambda c, xs: xs[0]  # noqa: E731  (a table entry)

_TABLE: dict[str, Evaluator] = {
    "Shape": _shape,
    "Size": lambda c, xs: _array([product(c.shape(0))]),
    "Gather": _gather,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Transpose": _transpose,
    "Identity": _same,
    "Squeeze": _same,
    "Unsqueeze": _same,
    "Reshape": _same,
    "Flatten": _same,
    "Cast": _cast,
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Div": _elementwise(_truncdiv),
    "Mod": lambda c, xs: None if c.attr("fmod") else _map(mod, *xs),
    "Neg": _elementwise(lambda a: -a),
    "Max": lambda c, xs: _map(dim_max, *xs),
    "Min": lambda c, xs: _map(dim_min, *xs),
    "Where": _elementwise(where),
    "Equal": _elementwise(equal_int),
    "Less": _compare("lt"),
    "Greater": _elementwise(lambda a, b: apply_dim("lt", b, a)),
    "Not": _elementwise(lambda a: equal_int(a, 0)),
    "And": _elementwise(lambda a, b: a * b),
    "ReduceProd": _reduce(product),
    "ReduceSum": _reduce(lambda ds: sum(ds, start=0)),
    "ReduceMax": _reduce(lambda ds: dim_max(*ds)),
    "ReduceMin": _reduce(lambda ds: dim_min(*ds)),
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
}
