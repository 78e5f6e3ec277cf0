"""Masks of attention in the forms that ONNX Runtime takes, as summands of scores."""

from __future__ import annotations

import numpy as np

from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Value
from graphopt.ops.contrib.builder import Builder


def padding_mask(b: Builder, mask: Value, query: Value, key: Value, lowest: float) -> Value:
    """What a mask adds to scores of [batch, heads, queries, keys]: 0 where it lets through, ``lowest`` elsewhere.

    Raises:
        UnsupportedOpError: a form of mask that isn't known here.
    """
    shape, batch = b.shape(mask), b.shape(query)[0]
    if len(shape) == 1:
        visible = _within_lengths(b, mask, key, both=_is_double(b, shape[0], batch))
    elif len(shape) in (2, 3):
        visible = b.emit("Greater", [mask, b.constant(0, "zero", b.dtype(mask).numpy)])
    else:
        raise b.refuse(f"{b.node.op} with a mask of rank {len(shape)}", "give it a mask of [batch, keys]")
    axes = [1] if len(shape) == 3 else [1, 2]
    return b.emit("Unsqueeze", [_summand(b, visible, query, lowest), b.integer_list(axes, "axes")])


def _is_double(b: Builder, length: object, batch: object) -> bool:
    """Whether a vector holds two numbers for each sequence, not one."""
    if length == batch:
        return False
    if isinstance(length, int) and isinstance(batch, int) and length == 2 * batch:
        return True
    raise b.refuse(
        f"{b.node.op} with a mask of {length} numbers for {batch} sequences",
        "make the batch static, or give it a mask of [batch, keys]",
    )


def _within_lengths(b: Builder, mask: Value, key: Value, *, both: bool) -> Value:
    """[batch, keys]: positions before the end of each sequence, and from its start on where the mask tells ``both``."""
    at = _positions(b, key)
    column = b.integer_list([1], "column")
    if not both:
        return b.emit("Less", [at, b.emit("Unsqueeze", [mask, column])])
    ends, starts = b.emit_all("Split", [mask], {"axis": 0, "num_outputs": 2}, 2)
    before = b.emit("Less", [at, b.emit("Unsqueeze", [ends, column])])
    behind = b.emit("GreaterOrEqual", [at, b.emit("Unsqueeze", [starts, column])])
    return b.emit("And", [before, behind])


def _positions(b: Builder, rows: Value) -> Value:
    """0, 1, ... for each index of axis 2."""
    extent = b.shape(rows)[2]
    if isinstance(extent, int):
        return b.constant(np.arange(extent), "positions", np.int32)
    limit = b.emit("Squeeze", [b.emit("Shape", [rows], {"start": 2, "end": 3})])
    limit = b.emit("Cast", [limit], {"to": DType.i32.onnx})
    return b.emit("Range", [b.constant(0, "first", np.int32), limit, b.constant(1, "step", np.int32)])


def causal_mask(b: Builder, query: Value, key: Value, fresh: Value) -> Value:
    """[queries, keys]: the first query sees the keys of the past and the first one of its own, each later one sees one more.

    Args:
        fresh: the keys without those of the past; as many as queries.

    Raises:
        UnsupportedOpError: there are more or fewer, for which ONNX Runtime lets the last query see them all.
    """
    extents = [b.shape(v)[2] for v in (query, key, fresh)]
    lowest = float(np.finfo(np.float32).min) if b.dtype(query) is not DType.f16 else float(np.finfo(np.float16).min)
    if all(isinstance(d, int) for d in extents):
        queries, keys, own = (int(d) for d in extents)  # type: ignore[arg-type]
        if own != queries:
            raise b.refuse(f"{b.node.op} with unidirectional=1 of {queries} queries and {own} keys", "set it to 0")
        seen = np.tril(np.ones((queries, keys), bool), keys - own)
        return _summand(b, b.constant(seen, "causal"), query, lowest)
    b.context.assume_equal(extents[2], extents[0], "unidirectional attention has as many keys as queries")
    of_query = _positions(b, query)
    if key is not fresh:
        past = b.emit("Sub", [b.emit("Shape", [v], {"start": 2, "end": 3}) for v in (key, fresh)])
        of_query = b.emit("Add", [of_query, b.emit("Cast", [past], {"to": DType.i32.onnx})])
    column = b.emit("Unsqueeze", [of_query, b.integer_list([1], "column")])
    return _summand(b, b.emit("LessOrEqual", [_positions(b, key), column]), query, lowest)


def _summand(b: Builder, visible: Value, like: Value, lowest: float) -> Value:
    dtype = b.dtype(like).numpy
    return b.emit("Where", [visible, b.constant(0, "seen", dtype), b.constant(lowest, "hidden", dtype)])
