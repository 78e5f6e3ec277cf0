"""Operators that write elements to places given by index, in order, so that of duplicates the last one wins.

Of ScatterND's on a GPU any one does: ONNX has no duplicates where nothing combines them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.bounds import check_between, check_indices
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors.imperative import Code, result
from graphopt.backends.tensors.index import every, floordiv, floormod, i64, inside, unflatten
from graphopt.backends.tensors.reducers import REDUCERS
from graphopt.backends.tensors.tensor import Expr, Tensor
from graphopt.ir.dims import product

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "max", "min": "min"}


def _write(c: LowerContext, code: Code, target: Any, at: Sequence[Expr], extents: Sequence[Expr], value: Expr) -> None:
    """``target[at] (op)= value`` where ``at`` is inside."""
    reduction = c.attr("reduction") or "none"
    if reduction != "none" and reduction not in _REDUCTIONS:
        raise c.unsupported(f"{c.node.op} with reduction {reduction}")
    within = every([inside(p, d) for p, d in zip(at, extents)])
    with code.when(within):
        if reduction != "none":
            old = code.load(target, *at)
            if str(old.ty.dtype) == "bool":
                value = tirx.Or(old, value) if reduction in ("add", "max") else tirx.And(old, value)
            else:
                value = REDUCERS[_REDUCTIONS[reduction]](old, value)
        code.store(target, value, *at)


@contextmanager
def _updates(c: LowerContext, code: Code, shape: Sequence[Expr], meeting: Sequence[int]) -> Iterator[Sequence[Expr]]:
    """Loops over all updates; only those that differ along nothing but the axes ``meeting`` may write to the same place.

    Where there are threads for many of them, those that can't meet are written at once.
    """
    if not c.k.schedule.spreads_work:
        with code.nest(shape) as i:
            yield i
        return
    apart = [a for a in range(len(shape)) if a not in meeting]
    with code.each([shape[a] for a in apart]) as outer, code.nest([shape[a] for a in meeting]) as inner:
        at = {**dict(zip(apart, outer)), **dict(zip(meeting, inner))}
        yield [at[a] for a in range(len(shape))]


@lowers("ScatterElements")
def _scatter_elements(c: LowerContext) -> Lowered:
    x, index, updates = c.x(0), c.x(1), c.x(2)
    axis = c.axis(int(c.attr("axis")), x.rank)
    check_indices(c, 1, c.shape(0)[axis])
    code = Code(c.k)
    target = code.copy_of(x)
    with _updates(c, code, index.shape, [axis]) as i:
        p = code.let(_from_end(index(*i), x.shape[axis]))
        _write(c, code, target, (*i[:axis], p, *i[axis + 1 :]), x.shape, updates(*i))
    code.finish()
    return result(target, x.shape, x.dtype)


@lowers("ScatterND")
def _scatter_nd(c: LowerContext) -> Lowered:
    x, index, updates = c.x(0), c.x(1), c.x(2)
    depth = index.shape[-1]
    if not isinstance(depth, int):
        raise c.unsupported("ScatterND with index tuples of unknown length", "fix the shape of the indices")
    for n in range(depth):
        check_indices(c, 1, c.shape(0)[n], n)
    code = Code(c.k)
    target = code.copy_of(x)
    lead = index.rank - 1
    reduces = (c.attr("reduction") or "none") != "none"
    if not reduces and not c.k.schedule.spreads_work:
        _copy_slices(code, target, x, index, updates, depth)
        return result(target, x.shape, x.dtype)
    # ONNX: without a reduction no two index tuples are the same
    meeting = range(lead) if reduces else ()
    with _updates(c, code, (*index.shape[:-1], *x.shape[depth:]), meeting) as i:
        at = [code.let(_from_end(index(*i[:lead], n), x.shape[n])) for n in range(depth)]
        _write(c, code, target, (*at, *i[lead:]), x.shape, updates(*i))
    code.finish()
    return result(target, x.shape, x.dtype)


def _copy_slices(code: Code, target: Any, x: Tensor, index: Tensor, updates: Tensor, depth: int) -> None:
    """Write one slice an index tuple, which is looked at once for all of it."""
    with code.nest(index.shape[:-1]) as i:
        at = [code.let(_from_end(index(*i, n), x.shape[n])) for n in range(depth)]
        present = every([inside(p, d) for p, d in zip(at, x.shape)])
        with code.when(present), code.nest(x.shape[depth:]) as inner:
            code.store(target, updates(*i, *inner), *at, *inner)
    code.finish()


def _from_end(index: Expr, extent: Expr) -> Expr:
    index = i64(index)
    return tirx.Select(index < 0, index + extent, index)


@lowers("TensorScatter")
def _tensor_scatter(c: LowerContext) -> Lowered:
    x, updates = c.x(0), c.x(1)
    axis = c.axis(int(c.attr("axis")), x.rank)
    circular = c.attr("mode") == "circular"
    if c.has(2):
        last = c.shape(0)[axis] - (1 if circular else c.shape(1)[axis])
        check_between(c, 2, 0, last, "the update starts outside of the cache")
    code = Code(c.k)
    target = code.copy_of(x)
    with code.nest(updates.shape) as i:
        start = c.x(2)(i[0]) if c.has(2) else const(0, "int64")
        p = i64(start) + i[axis]
        p = code.let(floormod(p, x.shape[axis]) if circular else p)
        with code.when(inside(p, x.shape[axis])):
            code.store(target, updates(*i), *i[:axis], p, *i[axis + 1 :])
    code.finish()
    return result(target, x.shape, x.dtype)


@lowers("MaxUnpool")
def _max_unpool(c: LowerContext) -> Lowered:
    """Indices are positions in the output that the pooling attributes imply, which may be smaller than ``output_shape``."""
    x, index = c.x(0), c.x(1)
    shape = c.out_shape()
    n = x.rank - 2
    kernel = [int(k) for k in c.attr("kernel_shape")]
    strides = [int(s) for s in c.attr("strides") or [1] * n]
    pads = [int(p) for p in c.attr("pads") or [0] * 2 * n]
    sizes = [
        (d - 1) * s + k - pads[a] - pads[n + a] for a, (d, s, k) in enumerate(zip(c.shape(0)[2:], strides, kernel))
    ]
    inner = (*x.shape[:2], *c.dims(sizes))
    check_between(c, 1, 0, product(c.shape(0)[:2]) * product(sizes) - 1, "index out of range")
    code = Code(c.k)
    target = code.copy_of(Tensor(shape, x.dtype, lambda *_: const(0, x.dtype)))
    with code.nest(x.shape) as i:
        flat = code.let(i64(index(*i)))
        at = unflatten(flat, inner)
        with code.when(every([flat >= 0, *(inside(p, d) for p, d in zip(at, shape))])):
            code.store(target, x(*i), *at)
    code.finish()
    return result(target, shape, x.dtype)


@lowers("Col2Im")
def _col2im(c: LowerContext) -> Lowered:
    """Every column element is added where its window put it."""
    x, shape = c.x(0), c.out_shape()
    block = c.dims(list(c.content(2).reshape(-1)))
    n = len(block)
    strides = [int(s) for s in c.attr("strides") or [1] * n]
    dilations = [int(d) for d in c.attr("dilations") or [1] * n]
    pads = [int(p) for p in c.attr("pads") or [0] * 2 * n]
    counts = [
        floordiv(d + pads[a] + pads[n + a] - (block[a] - 1) * dilations[a] - 1, strides[a]) + 1
        for a, d in enumerate(shape[2:])
    ]
    dtype = c.out_dtype()

    def body(i: tuple[Expr, ...], r: tuple[Expr, ...]) -> Expr:
        windows = []
        valid: list[Expr] = []
        for a, (p, t) in enumerate(zip(i[2:], r)):
            offset = i64(p + pads[a] - t * dilations[a])
            window = tirx.floordiv(offset, i64(strides[a]))
            valid += [tirx.EQ(window * strides[a], offset), inside(window, counts[a])]
            windows.append(tirx.max(tirx.min(window, i64(counts[a]) - 1), i64(0)))
        row: Expr = i[1]
        for t, b in zip(r, block):
            row = row * b + t
        column: Expr = 0
        for w, count in zip(windows, counts):
            column = column * count + w
        return tirx.Select(every(valid), x(i[0], row, column), const(0, dtype))

    return c.k.reduce(shape, dtype, block, body)
