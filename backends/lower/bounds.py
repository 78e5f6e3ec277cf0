"""Checks on what run-time tensors hold: indices, lengths. Made before the kernel that relies on them, over the small tensor alone.

Kernels stay safe without them (they clamp): on GPUs, where nothing is checked, an index out of range reads the nearest element.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.registry import LowerContext, const
from graphopt.backends.tensors.checks import refuse_if
from graphopt.backends.tensors.imperative import Code
from graphopt.backends.tensors.index import i64
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Value

POSITIONS = {"ArgMax": 0, "ArgMin": 0, "TopK": 1}
"""Operators whose result number so and so holds positions along an axis of their first operand."""


def refuse(c: LowerContext, broken: Expr, why: str, values: Sequence[tuple[str, Expr]]) -> None:
    """End the run where ``broken`` holds (on CPUs)."""
    if c.k.schedule.calls_back:
        c.k.raw(refuse_if(broken, c.node.label, f"{c.node.op}: {why}", values))


def refuse_unless(c: LowerContext, holds: Expr, why: str, values: Sequence[tuple[str, Expr]]) -> None:
    """End the run unless ``holds`` (on CPUs), also where that compares with NaN: TVM takes ``not a < b`` for ``b <= a``."""
    if not c.k.schedule.calls_back:
        return
    code = Code(c.k)
    broken = code.cell("int64", i64(1))
    with code.when(holds):
        broken.set(i64(0))
    code.finish()
    refuse(c, tirx.NE(broken.get(), i64(0)), why, values)


def check_indices(c: LowerContext, i: int, extent: Dim, column: int | None = None) -> None:
    """Refuse indices of input ``i`` outside ``[-extent, extent)``.

    Args:
        column: only elements at this position of the last axis are indices along the axis.
    """
    value = c.value(i)
    if not _points_inside(value, extent):
        check_between(c, i, -extent, extent - 1, "index out of range", column)


def check_between(c: LowerContext, i: int, low: Dim, high: Dim, why: str, column: int | None = None) -> None:
    """Refuse elements of the integer input ``i`` outside ``[low, high]``.

    Raises:
        ModelError: the elements are known, and one is outside.
    """
    known = c.const(i)
    if known is not None:
        part = known if column is None else known[..., column]
        if part.size:
            _check_known(c, i, int(part.min()), int(part.max()), low, high, why)
        return
    if not c.k.schedule.calls_back:
        return
    tensor = c.x(i)
    dtype = tensor.dtype
    code = Code(c.k)
    least, most = code.cell(dtype, tirx.max_value(dtype)), code.cell(dtype, tirx.min_value(dtype))
    with code.nest(tensor.shape if column is None else tensor.shape[:-1]) as at:
        element = code.read(tensor, *at, *(() if column is None else (column,)))
        least.set(tirx.min(least.get(), element))
        most.set(tirx.max(most.get(), element))
    first, last = (i64(e) for e in c.dims([low, high]))
    below, above = code.let(least.get().astype("int64")), code.let(most.get().astype("int64"))
    some = code.let(below <= above)
    code.finish()
    outside = tirx.And(some, tirx.Or(below < first, above > last))
    shown = [(c.value(i).name, tirx.Select(below < first, below, above)), ("least", first), ("most", last)]
    refuse(c, outside, why, shown)


def _check_known(c: LowerContext, i: int, least: int, most: int, low: Dim, high: Dim, why: str) -> None:
    name = c.value(i).name
    for number, bound, over in ((least, low, False), (most, high, True)):
        if isinstance(bound, int):
            if (number > bound) if over else (number < bound):
                raise c.invalid(f"{why}: %{name} holds {number}, the {'largest' if over else 'smallest'} is {bound}")
            continue
        limit = i64(c.dims([bound])[0])
        value = const(number, "int64")
        refuse(c, value > limit if over else value < limit, why, [(name, value), ("most" if over else "least", limit)])


def _points_inside(value: Value, extent: Dim) -> bool:
    """Whether an operator has computed the indices as positions along an axis of the same extent."""
    node = value.producer
    if node is None or node.domain or node.op not in POSITIONS or value is not node.output(POSITIONS[node.op]):
        return False
    data = node.input(0)
    assert data is not None
    axis = int(np.asarray(node.attrs.get("axis", -1 if node.op == "TopK" else 0)))
    return len(data.shape) > 0 and data.shape[axis] == extent
