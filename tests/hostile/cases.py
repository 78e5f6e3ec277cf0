"""Operators with operands that decide sizes and positions at run time, hostile values for them, and what is legal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.support.run_node import node

Feed = dict[str, Any]
Random = np.random.Generator
FLOAT, INT32, INT64, BOOL = 1, 6, 7, 9
NUMPY = {FLOAT: np.float32, INT32: np.int32, INT64: np.int64, BOOL: np.bool_}
HOSTILE = (
    0, 1, -1, 2, 3, 4, 5, 7, -2, -3, -5, 100, 2**20, 2**31 - 1, 2**31, -(2**31), 10**12, 2**40, 2**61, 2**62, 2**63 - 1,
    -(2**62), -(2**63),
)  # fmt: skip
FLOATS = (0.0, 1.0, 2.0, 0.5, -1.0, 1e-30, 3.5, 1e12, 1e30, -1e30, math.inf, -math.inf, math.nan)
SMALL = 2**20
"""Results up to so many elements are computed and compared."""
HUGE = 2**34
"""Results from so many elements on must be refused."""


@dataclass(frozen=True)
class Case:
    """One model and what it is given.

    Attributes:
        feed: random operands.
        legal: whether the specification allows them; None where it leaves that open, or the result is too large to compare.
    """

    name: str
    model: onnx.ModelProto
    feed: Callable[[Random], Feed]
    legal: Callable[[Feed], bool | None]


def model(
    nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, tuple[int, Sequence[Any]]], outputs: Mapping[str, tuple[int, int]],
    consts: Mapping[str, Any] | None = None,
    *,
    opset: int = 21,
) -> onnx.ModelProto:  # fmt: skip
    """Inputs as (element type, shape), outputs as (element type, rank) of unknown extents."""
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info(n, t, list(s)) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, [f"{n}_{a}" for a in range(r)]) for n, (t, r) in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (consts or {}).items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 10
    return made


def integers(rng: Random, count: int, low: int = -1, high: int = 5, dtype: Any = np.int64) -> Any:
    """Mostly small numbers; one of three vectors holds a hostile one."""
    out = rng.integers(low, high + 1, count).astype(np.int64)
    if count and rng.random() < 0.35:
        out[rng.integers(count)] = HOSTILE[rng.integers(len(HOSTILE))]
    with np.errstate(all="ignore"):
        return out.astype(dtype)


def floats(rng: Random, *shape: int) -> Any:
    """Data."""
    return rng.standard_normal(shape).astype(np.float32)


def fits(*dims: int) -> bool | None:
    """Whether a result of these extents must be made (True), must be refused (False), or either."""
    if any(d < 0 for d in dims):
        return False
    size = math.prod(max(d, 1) for d in dims)
    return True if size <= SMALL else False if math.prod(dims) >= HUGE else None


def both(*verdicts: bool | None) -> bool | None:
    """False if one is, else None if one is."""
    return False if False in verdicts else None if None in verdicts else True


def wide(values: Any) -> list[int]:
    """Elements as Python integers, which don't overflow."""
    return [int(v) for v in np.asarray(values).reshape(-1)]


def inside(indices: Any, extent: int) -> bool:
    """Whether all are in ``[-extent, extent)``."""
    return all(-extent <= i < extent for i in wide(indices))


def all_cases() -> list[Case]:
    """Every case, by name."""
    from tests.hostile import moving, sizing

    return sorted([*sizing.cases(), *moving.cases()], key=lambda case: case.name)


__all__ = ["node"]
