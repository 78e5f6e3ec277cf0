"""Determinants by elimination with partial pivoting."""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.linear import converted
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors.imperative import Code, result


@lowers("Det")
def _det(c: LowerContext) -> Lowered:
    x, shape, dtype = c.x(0), c.out_shape(), c.out_dtype()
    n = x.shape[-1]
    code = Code(c.k)
    a = code.copy_of(converted(x, dtype))
    out = code.scratch(shape, dtype)
    with code.nest(shape) as batch:
        det = code.cell(dtype, const(1, dtype))
        with code.loop(n) as k:
            row = code.cell("int64", k)
            best = code.cell(dtype, tirx.abs(code.load(a, *batch, k, k)))
            with code.loop(n - 1 - k) as d:
                size = tirx.abs(code.load(a, *batch, k + 1 + d, k))
                with code.when(size > best.get()):
                    best.set(size)
                    row.set(k + 1 + d)
            with code.when(row.get() > k):
                det.set(det.get() * const(-1, dtype))
                with code.loop(n) as j:
                    kept = code.cell(dtype, code.load(a, *batch, k, j))
                    code.store(a, code.load(a, *batch, row.get(), j), *batch, k, j)
                    code.store(a, kept.get(), *batch, row.get(), j)
            det.set(det.get() * code.load(a, *batch, k, k))
            with code.when(best.get() > const(0, dtype)), code.loop(n - 1 - k) as d:
                factor = code.cell(dtype, code.load(a, *batch, k + 1 + d, k) / code.load(a, *batch, k, k))
                with code.loop(n) as j:
                    rest = code.load(a, *batch, k + 1 + d, j) - factor.get() * code.load(a, *batch, k, j)
                    code.store(a, rest, *batch, k + 1 + d, j)
        code.store(out, det.get(), *batch)
    code.finish()
    return converted(result(out, shape, dtype), dtype)
