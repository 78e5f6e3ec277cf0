"""Arrays at the edge of a model whose inputs and outputs a plan of precisions casts, beside others that don't."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array, Value
from graphopt.ir.types import TensorType
from graphopt.runtime.signature import TensorSpec

_CAST = (DType.f32, DType.f16, DType.bf16)
Edge = TypeVar("Edge", Value, TensorSpec)


def in_types_of(edges: Iterable[Edge], arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays by name, those of float32 and 16 bits in the types that inputs or outputs of their names have.

    Everything else is left as it is, for those who take it to judge.
    """
    wanted = {edge.name: _dtype(edge) for edge in edges}
    found = dict(arrays)
    for name, array in arrays.items():
        dtype = wanted.get(name)
        if dtype in _CAST and array.dtype != dtype.numpy and any(array.dtype == d.numpy for d in _CAST):
            found[name] = array.astype(dtype.numpy)
    return found


def _dtype(edge: Value | TensorSpec) -> DType | None:
    if isinstance(edge, TensorSpec):
        return edge.dtype
    return edge.dtype if isinstance(edge.type, TensorType) else None
