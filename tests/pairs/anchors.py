"""Operators that take epilogues, on values whose results are exact, so that a fused kernel can't round otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Anchor:
    """An operator with its inputs.

    Attributes:
        shape: of the result.
        fuses: whether an element-wise operator behind it joins its kernel.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    inputs: Mapping[str, Array] = field(hash=False, compare=False)
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    fuses: bool = True


def _halves(name: str, *shape: int) -> dict[str, Array]:
    rng = np.random.default_rng([len(name), *shape])
    return {f"{name}_{'_'.join(map(str, shape))}": (rng.integers(-3, 4, shape) / 2).astype(np.float32)}


def _of(name: str, values: Array) -> dict[str, Array]:
    return {name: np.asarray(values)}


def anchors() -> list[Anchor]:
    """All of them: those whose kernels take an epilogue, and some whose results are stored first."""
    image, small = _halves("image", 1, 8, 6, 6), _halves("small", 2, 3, 4, 5)
    rows = _halves("rows", 3, 17)
    found = [
        Anchor("Conv", "Conv", (1, 16, 6, 6), image | _halves("weight", 16, 8, 3, 3), {"pads": [1, 1, 1, 1]}),
        Anchor("Conv.pointwise", "Conv", (1, 7, 6, 6), image | _halves("weight", 7, 8, 1, 1)),
        Anchor(
            "Conv.depthwise", "Conv", (1, 8, 6, 6), image | _halves("weight", 8, 1, 3, 3), {"pads": [1] * 4, "group": 8}
        ),
        Anchor(
            "ConvTranspose", "ConvTranspose", (1, 5, 12, 12), image | _halves("weight", 8, 5, 2, 2), {"strides": [2, 2]}
        ),
        Anchor("MatMul", "MatMul", (3, 33), rows | _halves("right", 17, 33)),
        Anchor("MatMul.batched", "MatMul", (2, 3, 4, 7), small | _halves("right", 2, 3, 5, 7)),
        Anchor("Gemm", "Gemm", (3, 15), rows | _halves("right", 17, 15) | _halves("bias", 15)),
        Anchor("Einsum", "Einsum", (3, 15), rows | _halves("right", 17, 15), {"equation": "ik,kj->ij"}),
        Anchor("MaxPool", "MaxPool", (1, 8, 5, 5), image, {"kernel_shape": [2, 2]}),
        Anchor("AveragePool", "AveragePool", (1, 8, 5, 5), image, {"kernel_shape": [2, 2]}),
        Anchor("GlobalMaxPool", "GlobalMaxPool", (1, 8, 1, 1), image),
        Anchor("GlobalAveragePool", "GlobalAveragePool", (4, 3, 1, 1), _halves("even", 4, 3, 4, 4)),
        Anchor("Transpose", "Transpose", (17, 3), rows, fuses=False),
        Anchor("Concat", "Concat", (3, 24), rows | _halves("more", 3, 7), {"axis": 1}, fuses=False),
        Anchor("Gather", "Gather", (4, 17), rows | _of("picked", np.array([2, 0, 1, 2])), fuses=False),
        Anchor("Softmax", "Softmax", (3, 16), _of("equal", np.zeros((3, 16), np.float32)), fuses=False),
    ]
    rows4 = _halves("rows4", 5, 7, 4)
    for op in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceSumSquare", "ReduceL1"):
        found.append(Anchor(op, op, (5, 7, 1), rows4 | _of("last", np.array([2])), {}))
        found.append(Anchor(f"{op}.first", op, (1, 7, 4), _halves("rows5", 4, 7, 4) | _of("axis0", np.array([0])), {}))
    return found
