"""Operators that move elements."""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.common.lower.registry import LowerContext, Lowered, lowers
from graphopt.backends.common.tensor import Expr, Tensor, choose


@lowers("Transpose")
def _transpose(c: LowerContext) -> Lowered:
    x = c.x(0)
    perm = [int(p) for p in c.attr("perm") or range(x.rank)[::-1]]
    inverse = [perm.index(a) for a in range(x.rank)]
    return Tensor(c.out_shape(), x.dtype, lambda *i: x(*(i[p] for p in inverse)))


@lowers("Concat")
def _concat(c: LowerContext) -> Lowered:
    parts = c.operands
    axis = c.axis(int(c.attr("axis")), parts[0].rank)

    def element(*i: Expr) -> Expr:
        def pick(n: int, start: Expr) -> Expr:
            part = parts[n]
            here = (*i[:axis], i[axis] - start, *i[axis + 1 :])
            if n == len(parts) - 1:
                return part(*here)
            end = start + part.shape[axis]
            return choose(i[axis] < end, lambda: part(*here), lambda: pick(n + 1, end))

        return pick(0, 0)

    return Tensor(c.out_shape(), parts[0].dtype, element)


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(c: LowerContext) -> Lowered:
    x = c.x(0)
    shape = c.out_shape()

    def element(*i: Expr) -> Expr:
        flat: Expr = tirx.const(0, "int64")
        for p, d in zip(i, shape):
            flat = flat * d + p
        index: list[Expr] = []
        for d in reversed(x.shape[1:]):
            index.append(tirx.floormod(flat, d))
            flat = tirx.floordiv(flat, d)
        return x(*([flat, *reversed(index)] if x.rank else []))

    return Tensor(shape, x.dtype, element)
