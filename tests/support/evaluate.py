"""Graphs run by ONNX's reference evaluator, on random inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx.reference import ReferenceEvaluator

from graphopt.errors import AccuracyError
from graphopt.ir.dims import Dim, SymExpr, subs, symbols_of
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array, Graph
from graphopt.ir.onnx_io import graph_to_onnx
from graphopt.ir.types import TensorType

DEFAULT_EXTENT = 2
"""What symbolic dimensions stand for in random inputs, unless given."""


def random_inputs(graph: Graph, seed: int = 0, extents: Mapping[str, int] | None = None) -> dict[str, Array]:
    """Seeded inputs by name: normal floats, small non-negative integers; symbols take ``extents`` or a default."""
    rng = np.random.default_rng(seed)
    out: dict[str, Array] = {}
    for value in graph.inputs:
        if not isinstance(value.type, TensorType) or value.type.shape is None:
            raise AccuracyError(f"can't make random data for %{value.name}: {value.type}", hint="pass the inputs")
        shape = tuple(_extent(d, extents or {}) for d in value.type.shape)
        dtype = value.type.dtype
        if dtype.is_float:
            out[value.name] = rng.standard_normal(shape).astype(dtype.numpy)
        elif dtype is DType.bool_:
            out[value.name] = rng.integers(0, 2, shape).astype(bool)
        else:
            out[value.name] = rng.integers(0, 3, shape).astype(dtype.numpy)
    return out


def _extent(dim: Dim, extents: Mapping[str, int]) -> int:
    if isinstance(dim, SymExpr):
        dim = subs(dim, {s: extents.get(s, DEFAULT_EXTENT) for s in symbols_of(dim)})
    assert isinstance(dim, int)
    return dim


def evaluate_graph(graph: Graph, inputs: Mapping[str, Array]) -> list[Array]:
    """Outputs of the graph by ``onnx.reference.ReferenceEvaluator``."""
    outputs = ReferenceEvaluator(graph_to_onnx(graph)).run(None, dict(inputs))
    return [np.asarray(o) for o in outputs]


def difference(want: Array, got: Array, rtol: float) -> str | None:
    """What differs beyond ``rtol`` times the largest magnitude, or None. NaN and infinity must be at equal places."""
    if want.shape != got.shape or want.dtype != got.dtype:
        return f"{got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
    if want.dtype.kind in "OUSb" or want.size == 0:
        return None if np.array_equal(want, got) else "elements differ"
    a, b = want.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(np.isnan(a), np.isnan(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return "NaN or infinity at different places"
    if not finite.any():
        return None
    error, scale = float(np.abs(a - b)[finite].max()), float(np.abs(a[finite]).max())
    bound = rtol * max(scale, 1e-6) if want.dtype.kind not in "iu" else 0.0
    return f"error {error:.3g} where {bound:.3g} is allowed" if error > bound else None
