"""Local response normalisation across channels on channel blocks: windows of lanes out of neighbouring blocks of a pixel.

A window crosses blocks, so its squares are shuffled together out of three vectors in registers; the generic schedule would gather
them one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.nest_loops import PARALLEL_WORK
from graphopt.backends.specs.normalization import LrnSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.loops import lane_kind, loop, seq
from graphopt.backends.tensors.tensor import Expr, Scope

OPERATIONS = 40
"""Scalar operations an element, most of them in the power."""


@dataclass(frozen=True)
class LrnConfig:
    """How to compute it.

    Attributes:
        parallel: whether rows are shared out among threads.
    """

    parallel: bool


def default_config(spec: LrnSpec, caps: Caps) -> LrnConfig:
    """Threads where they pay."""
    return LrnConfig(caps.cores > 1 and math.prod(spec.shape) * OPERATIONS >= PARALLEL_WORK)


def emit(spec: LrnSpec, parallel: bool, name: str) -> Any:
    """The kernel ``(x, y)``."""
    n, c, h, w = spec.shape
    block, blocks = spec.block, c // spec.block
    physical = [tirx.const(d, "int64") for d in (n, blocks, h, w, block)]
    x = View(tirx.decl_buffer(physical, spec.types.input.storage, "x"), spec.types.input)
    y = View(tirx.decl_buffer(physical, spec.types.output.storage, "y"), spec.types.output)
    row, co, col, lane, last = (tirx.Var(v, "int64") for v in ("row", "co", "w", "lane", "lane"))
    batch, line = (row // h, row % h) if n > 1 else (tirx.const(0, "int64"), row)
    lanes = tirx.Ramp(tirx.const(0, "int64"), tirx.const(1, "int64"), block)
    dtype = spec.types.sum

    def number(value: float) -> Expr:
        return tirx.const(value, dtype)

    zero = tirx.Broadcast(tirx.const(0.0, dtype), block)

    def squares(offset: int) -> Expr:
        """Squares of the block before, at or after ``co``; zeros beyond the ends."""
        at = tirx.max(co + offset, 0) if offset < 0 else tirx.min(co + offset, blocks - 1) if offset else co
        value = x.load([batch, at, line, col, lanes])
        if not offset:
            return value * value
        outside = co < -offset if offset < 0 else co >= blocks - offset
        return tirx.Select(tirx.Broadcast(outside, block), zero, value * value)

    kept = {o: tirx.Var(f"squares{o + 1}", zero.ty) for o in (-1, 0, 1)}
    total: Expr = kept[0]
    for d in range(1, spec.before + 1):
        total = total + tirx.Shuffle([kept[-1], kept[0]], _indices(block - d, block))
    for d in range(1, spec.after + 1):
        total = total + tirx.Shuffle([kept[0], kept[1]], _indices(d, block))
    sums = tirx.decl_buffer((block,), dtype, "sums", scope="local")
    with Scope() as log_scope:  # two loops: TVM keeps a loop over one long expression scalar
        exponent = m.log(tirx.BufferLoad(sums, [lane]) * number(spec.alpha / spec.size) + number(spec.bias)) * number(
            -spec.beta
        )
    with Scope() as exp_scope:
        value = x.load([batch, co, line, col, last]) * m.exp(tirx.BufferLoad(sums, [last]))
    to_exponent = tirx.BufferStore(sums, exponent, [lane])
    store = tirx.BufferStore(y.buffer, y.type.stored(value), [batch, co, line, col, last])
    body = seq([
        tirx.AllocBuffer(sums, annotations={"disable_lower_builtin": tirx.const(True, "bool")}),
        *(tirx.Bind(var, squares(offset)) for offset, var in kept.items()),
        tirx.BufferStore(sums, total, [lanes]),
        loop(lane, block, seq([*log_scope.statements(), to_exponent]), lane_kind(log_scope)),
        loop(last, block, seq([*exp_scope.statements(), store]), lane_kind(exp_scope)),
    ])  # fmt: skip
    kind = tirx.ForKind.PARALLEL if parallel else tirx.ForKind.SERIAL
    nest = loop(row, n * h, loop(co, blocks, loop(col, w, body)), kind)
    func = tirx.PrimFunc([x.buffer, y.buffer], nest)
    return func.with_attr({"global_symbol": name, "tirx.noalias": True, "s_tir": True})


def _indices(first: int, count: int) -> list[Expr]:
    return [tirx.const(first + i, "int32") for i in range(count)]
