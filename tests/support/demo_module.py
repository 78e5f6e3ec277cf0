"""A small Relax module to build with: matmul, bias and activation, a reduction; static or with a symbolic batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.backends.base.tvm_api import relax, te, tirx, tvm

K, N = 24, 40


def demo_module(batch: int | None = 8) -> Any:
    """``main(x[batch, K], w[K, N], b[N]) -> sum over N of erf(x @ w + b) ** 2``, as three unscheduled PrimFuncs.

    Args:
        batch: rows, or None for a symbolic number of them.
    """
    rows = tirx.Var("m", "int64") if batch is None else batch
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((rows, K), "float32"))
    w = relax.Var("w", relax.TensorType((K, N), "float32"))
    b = relax.Var("b", relax.TensorType((N,), "float32"))

    def matmul(a: Any, c: Any) -> Any:
        k = te.reduce_axis((0, K), "k")
        return te.compute((a.shape[0], N), lambda i, j: te.sum(a[i, k] * c[k, j], axis=k), name="matmul")

    def bias_erf(a: Any, c: Any) -> Any:
        return te.compute(a.shape, lambda i, j: tirx.erf(a[i, j] + c[j]), name="bias_erf")

    def sum_squares(a: Any) -> Any:
        k = te.reduce_axis((0, N), "k")
        return te.compute((a.shape[0],), lambda i: te.sum(a[i, k] * a[i, k], axis=k), name="sum_squares")

    with builder.function("main", [x, w, b]):
        with builder.dataflow():
            y = builder.emit_te(matmul, x, w)
            y = builder.emit_te(bias_erf, y, b)
            y = builder.emit_te(sum_squares, y)
            out = builder.emit_output(y)
        builder.emit_func_output(out)
    module: tvm.IRModule = builder.get()
    return module


def demo_arrays(batch: int = 8, seed: int = 0) -> tuple[list[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Inputs for `demo_module` and the expected output, computed in float64."""
    from math import erf

    rng = np.random.default_rng(seed)
    x, w, b = (rng.standard_normal(shape).astype("float32") * 0.3 for shape in ((batch, K), (K, N), (N,)))
    y = np.vectorize(erf)(x.astype("float64") @ w + b)
    return [x, w, b], (y * y).sum(1)
