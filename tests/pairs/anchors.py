"""Operators that others follow: ones whose kernels take an epilogue, and ones whose results are stored first.

Their operands are small multiples of a half: what they compute is exact, so that a kernel of their own and one with an epilogue
can't round differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tests.pairs.operators import FLOATS

Array = npt.NDArray[Any]


class Joins(Enum):
    """How element-wise operators join the kernel of an anchor."""

    one = "one that alone takes the result"
    many = "any number"
    none = "none: the result is stored"


@dataclass(frozen=True)
class Anchor:
    """An operator with its inputs.

    Attributes:
        shape: of the result.
        inputs: by name, in the order of the operator's; empty names stand for inputs left out.
        constants: names of inputs that are initializers.
    """

    name: str
    op: str
    dtype: str
    shape: tuple[int, ...]
    inputs: Mapping[str, Array] = field(hash=False, compare=False)
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    joins: Joins = Joins.one
    constants: frozenset[str] = frozenset()


def anchors(dtype: str) -> list[Anchor]:
    """All of a type. Those of float32 have templates; other types have generic loops, so that fewer forms tell as much."""
    out = [*_reductions(dtype), *_stored(dtype), *_moving(dtype)]
    if dtype in FLOATS:
        out += _images(dtype, few=dtype != "float32")
    if dtype in (*FLOATS, "int32", "int64"):
        out += _products(dtype, few=dtype != "float32")
    if dtype in ("int8", "uint8"):
        out.append(
            Anchor("MaxPool", "MaxPool", dtype, (1, 8, 5, 5), _data(dtype, 1, 8, 6, 6), {"kernel_shape": [2, 2]})
        )
    return out


def _data(dtype: str, *shape: int, name: str = "data") -> dict[str, Array]:
    rng = np.random.default_rng([len(name), *shape])
    halves = rng.integers(-3, 4, shape)
    values = halves % 2 == 0 if dtype == "bool" else halves / 2 if dtype in FLOATS else np.abs(halves)
    return {"_".join([name, dtype, *map(str, shape)]): np.asarray(values).astype(dtype)}


def _images(dtype: str, few: bool) -> list[Anchor]:
    image = _data(dtype, 1, 8, 6, 6)

    def weights(*shape: int) -> dict[str, Array]:
        return image | _data(dtype, *shape, name="weight")

    pads, window = {"pads": [1, 1, 1, 1]}, {"kernel_shape": [2, 2]}
    found = [
        Anchor("Conv", "Conv", dtype, (1, 16, 6, 6), weights(16, 8, 3, 3), pads),
        Anchor("GlobalAveragePool", "GlobalAveragePool", dtype, (4, 3, 1, 1), _data(dtype, 4, 3, 4, 4, name="even")),
        Anchor("MaxPool", "MaxPool", dtype, (1, 8, 5, 5), image, window),
        Anchor("Conv.pointwise", "Conv", dtype, (1, 7, 6, 6), weights(7, 8, 1, 1)),
        Anchor("Conv.depthwise", "Conv", dtype, (1, 8, 6, 6), weights(8, 1, 3, 3), pads | {"group": 8}),
        Anchor("Conv.grouped", "Conv", dtype, (1, 4, 6, 6), weights(4, 4, 3, 3), pads | {"group": 2}),
        Anchor("ConvTranspose", "ConvTranspose", dtype, (1, 5, 12, 12), weights(8, 5, 2, 2), {"strides": [2, 2]}),
        Anchor("AveragePool", "AveragePool", dtype, (1, 8, 5, 5), image, window),
        Anchor("GlobalMaxPool", "GlobalMaxPool", dtype, (1, 8, 1, 1), image),
    ]
    return found[:3] if few else found


def _products(dtype: str, few: bool) -> list[Anchor]:
    rows, small = _data(dtype, 3, 17, name="rows"), _data(dtype, 2, 3, 4, 5, name="small")

    def right(*shape: int) -> dict[str, Array]:
        return _data(dtype, *shape, name="right")

    found = [
        Anchor("MatMul", "MatMul", dtype, (3, 33), rows | right(17, 33)),
        Anchor("MatMul.batched", "MatMul", dtype, (2, 3, 4, 7), small | right(2, 3, 5, 7)),
        Anchor("Gemm", "Gemm", dtype, (3, 15), rows | right(17, 15) | _data(dtype, 15, name="bias")),
        Anchor("Einsum", "Einsum", dtype, (3, 15), rows | right(17, 15), {"equation": "ik,kj->ij"}),
    ]
    return found[:1] if few else found


def _reductions(dtype: str) -> list[Anchor]:
    if dtype in ("int16", "uint16"):
        return []  # not in ONNX
    ops = ["ReduceMax", "ReduceMin"]
    if dtype in (*FLOATS, "int32", "int64", "uint32", "uint64"):
        ops += ["ReduceSum", "ReduceProd", "ReduceSumSquare", "ReduceL1"]
    if dtype in FLOATS:
        ops += ["ReduceMean", "ReduceL2", "ReduceLogSum"]
    last, first = {"last": np.array([2])}, {"first": np.array([0])}
    out: list[Anchor] = []
    for op in ops:
        for axis, shape, data in (
            (last, (5, 7, 1), _data(dtype, 5, 7, 4, name="rows")),
            (first, (1, 7, 4), _data(dtype, 4, 7, 4, name="columns")),
        ):
            (name,) = axis
            out.append(Anchor(f"{op}.{name}", op, dtype, shape, data | axis, {}, Joins.many, frozenset(axis)))
    return out


STORED = (1, 2, 4, 18)
"""The shape of all results that are stored: the kernels behind them are the same, and compiled once in a model."""


def _stored(dtype: str) -> list[Anchor]:
    """Normalisations and other operators that compute."""
    if dtype not in FLOATS:
        return []
    data = _data(dtype, *STORED)
    scale, bias = _data(dtype, 18, name="scale"), _data(dtype, 18, name="bias")
    by_channel = _data(dtype, 2, name="scale") | _data(dtype, 2, name="bias")
    resized = {"roi": np.zeros(0, np.float32), "scales": np.zeros(0, np.float32), "sizes": np.array(STORED)}
    small = _data(dtype, 1, 2, 2, 9, name="image") | resized
    # ONNX's function computes in float32 where nothing else is said; that of the others, and the reference, in the type
    wide = {"stash_type": int(onnx.TensorProto.DOUBLE)} if dtype == "float64" else {}
    found: list[tuple[str, str, dict[str, Array], dict[str, Any]]] = [
        ("Softmax", "", data, {}),
        ("LogSoftmax", "", data, {"axis": 1}),
        ("LayerNormalization", "", data | scale | bias, {}),
        ("InstanceNormalization", "", data | by_channel, {}),
        ("RMSNormalization", "", data | scale, {}),
        ("GroupNormalization", "", data | by_channel, {"num_groups": 2} | wide),
        ("LpNormalization", "", data, {}),
        ("Resize", ".nearest", small, {"mode": "nearest"}),
        ("Resize", ".linear", small, {"mode": "linear"}),
    ]
    if dtype == "float32":
        found.append(("LRN", "", data, {"size": 3}))
    constant = frozenset(resized)
    return [Anchor(op + part, op, dtype, STORED, i, a, Joins.none, constant & set(i)) for op, part, i, a in found]


def _moving(dtype: str) -> list[Anchor]:
    data, larger = _data(dtype, *STORED), _data(dtype, 1, 2, 6, 20, name="larger")
    half = _data(dtype, 1, 2, 2, 18, name="half")
    other = _data(dtype, 1, 2, 2, 18, name="other")
    i64 = np.int64
    cut = {"from": np.array([1, 1]), "to": np.array([5, 19]), "along": np.array([2, 3])}
    cut_rows = {"first": np.array([2]), "end": np.array([6]), "axis": np.array([2])}
    # all inputs but the first are initializers where they aren't of the type
    found: list[tuple[str, str, dict[str, Array], dict[str, Any]]] = [
        ("Concat", "", half | other, {"axis": 2}),
        ("Gather", "", data | {"picked": np.array([2, 0, 1, 2])}, {"axis": 2}),
        ("GatherElements", "", data | {"each": np.zeros(STORED, i64)}, {"axis": 3}),
        ("Slice", "", larger | cut, {}),
        ("Slice", ".rows", _data(dtype, 1, 2, 6, 18, name="rows") | cut_rows, {}),
        ("Pad", "", half | {"amounts": np.array([0, 0, 1, 0, 0, 0, 1, 0])}, {}),
        ("Transpose", "", _data(dtype, 4, 18, 1, 2, name="turned"), {"perm": [2, 3, 0, 1]}),
        ("Tile", "", half | {"repeats": np.array([1, 1, 2, 1])}, {}),
        ("Expand", "", _data(dtype, 2, 1, 18, name="narrow") | {"wide": np.array(STORED)}, {}),
        ("Reshape", "", _data(dtype, 8, 18, name="flat") | {"extents": np.array(STORED)}, {}),
    ]
    return [
        Anchor(op + part, op, dtype, STORED, i, a, Joins.none, frozenset(k for k in i if dtype not in k))
        for op, part, i, a in found
    ]
