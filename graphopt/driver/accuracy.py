"""The one tolerance table: how far two float results of the same mathematics may be apart, and what differs beyond it.

A sum of n products rounds at most n times in sequence, about sqrt(n) in practice for random signs; transcendental
functions add a few units. The bound is ``eps(dtype) * (SLACK + sqrt(n)) * depth`` relative to the largest magnitude of
the result. Everything that is not a float must be equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.ir.graph import Graph, Node
from graphopt.ir.types import TensorType
from graphopt.ops.linear import kept_axis, summed_axis
from graphopt.ops.registry import CONVOLUTION, LINEAR, RECURRENT, has_trait

Array = npt.NDArray[Any]

EPS = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "float8_e4m3fn": 2.0**-3,
    "float8_e4m3fnuz": 2.0**-3,
    "float8_e5m2": 2.0**-2,
    "float8_e5m2fnuz": 2.0**-2,
    "complex64": 2.0**-23,
    "complex128": 2.0**-52,
}
SLACK = 16.0
"""Units allowed for everything that is not a sum: exp, division, a handful of element-wise operators."""

_SUMMING = ("Attention", "Einsum")


L2_ALLOWED = {"fp16": 1e-2, "bf16": 1e-1}
"""Relative L2 error that results in 16 bits may have against float32: 40 dB and 20 dB of signal to noise."""


@dataclass(frozen=True)
class Comparison:
    """One output against its reference.

    Attributes:
        error: largest error over the largest magnitude of the reference, or the relative L2 error of what was computed in
            fewer bits; 0 when elements are compared exactly.
        allowed: what the table allows, in the same unit.
        problem: what is wrong, or None.
    """

    name: str
    error: float
    allowed: float
    problem: str | None

    @property
    def ok(self) -> bool:
        """Whether it passed."""
        return self.problem is None


def bound(dtype: object, reduction: int = 1, depth: int = 1) -> float:
    """Allowed error relative to the largest magnitude; 0 for types that are compared exactly.

    Args:
        dtype: element type of the result.
        reduction: length of the longest sum of a layer.
        depth: layers after one another; their errors add up.
    """
    eps = EPS.get(str(np.dtype(dtype)), 0.0)  # type: ignore[call-overload]
    return eps * (SLACK + math.sqrt(reduction)) * depth


def compare(
    name: str, got: Array, want: Array, *, reduction: int = 1, depth: int = 1, l2: float | None = None
) -> Comparison:
    """Compare shapes, dtypes, the places of NaN and infinity, and the values with the table.

    Args:
        reduction, depth: as for ``bound``.
        l2: what floats may differ by as a relative L2 error instead, where one side was computed in fewer bits.
    """
    if l2 is not None and str(want.dtype) in EPS:
        error, problem = _error(got, want)
        if problem is None:
            error = relative_l2(got, want)
            problem = None if error <= l2 else f"relative L2 error {error:.3g}, allowed {l2:.3g}"
        return Comparison(name, error, l2, problem)
    allowed = bound(want.dtype, reduction, depth) if want.dtype.kind not in "OUS" else 0.0
    error, problem = _error(got, want)
    if problem is None and error > allowed:
        problem = f"error {error:.3g} of the largest magnitude, allowed {allowed:.3g}"
    return Comparison(name, error, allowed, problem)


def relative_l2(got: Array, want: Array) -> float:
    """L2 norm of the difference over that of the reference, of its finite elements; infinite where only the latter is 0."""
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    a, b = want.astype(wide), got.astype(wide)
    finite = np.isfinite(a)
    noise, signal = float(np.linalg.norm(a[finite] - b[finite])), float(np.linalg.norm(a[finite]))
    if noise == 0.0:
        return 0.0
    return noise / signal if signal else math.inf


def _error(got: Array, want: Array) -> tuple[float, str | None]:
    if got.dtype != want.dtype:
        return math.inf, f"dtype {got.dtype} instead of {want.dtype}"
    if got.shape != want.shape:
        return math.inf, f"shape {list(got.shape)} instead of {list(want.shape)}"
    if str(want.dtype) not in EPS:
        wrong = int(np.sum(got != want))
        return (0.0, None) if not wrong else (math.inf, f"{wrong} of {want.size} elements differ")
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    a, b = want.astype(wide), got.astype(wide)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return math.inf, "NaN or infinity where none belongs, or missing"
    if not finite.any():
        return 0.0, None
    error, largest = float(np.abs(a - b)[finite].max()), float(np.abs(a[finite]).max())
    if error == 0.0:
        return 0.0, None
    return (error / largest if largest else math.inf), None


def compare_all(
    got: Mapping[str, Array],
    want: Mapping[str, Array],
    *,
    reduction: int = 1,
    depth: int = 1,
    l2: float | None = None,
) -> list[Comparison]:
    """``compare`` for every output of the reference; an output that is missing is a problem too."""
    return [
        compare(name, got[name], array, reduction=reduction, depth=depth, l2=l2)
        if name in got
        else Comparison(name, math.inf, 0.0, "missing")
        for name, array in want.items()
    ]


def longest_sum(graph: Graph) -> int:
    """Length of the longest sum that a node of the graph computes (1 where none is known)."""
    return max((sum_length(node) for node in graph.walk()), default=1)


def summing_depth(graph: Graph) -> int:
    """How many summing layers follow one another at most, at least 1."""
    depth: dict[Any, int] = {}
    deepest = 1
    for node in graph.nodes:
        before = max((depth.get(v, 0) for v in node.inputs if v is not None), default=0)
        here = before + int(_sums(node) or bool(node.subgraphs))
        depth.update({v: here for v in node.outputs if v is not None})
        deepest = max(deepest, here)
    return deepest


def _sums(node: Node) -> bool:
    return node.op in _SUMMING or has_trait(node, LINEAR) or has_trait(node, RECURRENT)


def sum_length(node: Node) -> int:
    """Number of products or terms that one element of the node's result adds up."""
    weight = node.input(1)
    static = _static(weight)
    if has_trait(node, CONVOLUTION) and static:
        return max(1, math.prod(static) // max(1, static[kept_axis(node, 1)]))
    if has_trait(node, LINEAR) and static and len(static) >= 2:
        return max(1, static[summed_axis(node, 1)])
    if has_trait(node, RECURRENT) and static:
        return static[-1] + int(node.attrs.get("hidden_size", 0))
    source = _static(node.input(0))
    if source and (node.op.startswith("Reduce") or node.op in ("GlobalAveragePool", "Softmax", "LayerNormalization")):
        return max(1, math.prod(source))
    return 1


def _static(value: Any) -> list[int] | None:
    if value is None or not isinstance(value.type, TensorType) or value.type.shape is None:
        return None
    shape = [d for d in value.type.shape if isinstance(d, int)]
    return shape if len(shape) == len(value.type.shape) else None
