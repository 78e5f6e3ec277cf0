"""Operands for which ONNX doesn't say what an operator gives: graphs that meet them prove nothing and are not drawn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto, helper

from tests.random_graphs.evaluate import Array

_ORDERING = {"ArgMax", "ArgMin", "TopK", "Unique", "Hardmax", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin"}
"""ONNX Runtime finds or passes over NaN by where it stands; here it always wins, as in PyTorch and numpy, which
tests/backends/cpu/test_pooling.py holds."""


def undefined(node: NodeProto, values: Mapping[str, Array]) -> str | None:
    """Why the results are undefined (or end the process in ONNX Runtime, as an integer division by zero), or None."""
    arrays = [values[name] for name in node.input if name and name in values]
    if not arrays:
        return None
    first = arrays[0]
    if node.op_type == "Cast" and first.dtype.kind == "f":
        to = np.dtype(helper.tensor_dtype_to_np_dtype(next(a.i for a in node.attribute if a.name == "to")))
        if to.kind in "iu" and not _fits(first, to):
            return "a float beyond the integer's range"
    if node.op_type in ("Div", "Mod") and first.dtype.kind in "iu":
        if np.any(arrays[1] == 0):
            return "an integer divided by zero"
        if first.dtype.kind == "i" and np.any(arrays[1] == -1) and np.any(first == np.iinfo(first.dtype).min):
            return "the least integer divided by -1"
    if node.op_type == "Pow" and first.dtype.kind in "iu":
        if arrays[1].dtype.kind == "f":
            with np.errstate(all="ignore"):
                if not _fits(np.power(first.astype(np.float64), arrays[1].astype(np.float64)), first.dtype):
                    return "an integer's power beyond its range"
        elif np.any(arrays[1] < 0) or np.any(np.abs(arrays[1].astype(np.float64)) > 8):
            return "an integer's power that is a fraction or too large"
    if node.op_type == "Einsum" and not all(array.size for array in arrays):
        return "a product of nothing, which ends the process in ONNX Runtime"
    if node.op_type == "MeanVarianceNormalization" and first.size:
        axes = next((tuple(a.ints) for a in node.attribute if a.name == "axes"), (0, 2, 3))
        if np.any(np.ptp(first, axis=axes) == 0):
            return "a deviation of 0, to which ONNX adds 1e-9 and ONNX Runtime nothing"
    if node.op_type == "BitShift" and np.any(arrays[1] >= 8 * first.dtype.itemsize):
        return "a shift by all bits"
    if node.op_type in _ORDERING and first.dtype.kind == "f" and np.isnan(first).any():
        return "the order of NaN"
    if node.op_type in ("MaxPool", "GlobalMaxPool") and first.dtype.kind == "f" and np.isneginf(first).any():
        return "a largest value of -infinity, for which ONNX Runtime gives the least finite number"
    weighted = node.op_type == "Resize" and any(a.name == "mode" and a.s != b"nearest" for a in node.attribute)
    if weighted and first.dtype.kind == "f" and not np.isfinite(first).all():
        return "infinity or NaN beside a weight of 0"
    if node.op_type.startswith(("Quantize", "DynamicQuantize")) and not np.isfinite(first.astype(np.float64)).all():
        return "NaN or infinity quantized"
    return None


def _fits(array: Array, to: np.dtype[np.generic]) -> bool:
    wide, limits = array.astype(np.float64), np.iinfo(to)  # type: ignore[type-var]
    if not np.isfinite(wide).all():
        return False
    whole = np.trunc(wide)
    return bool(
        np.all(whole >= float(limits.min)) and np.all(whole < float(limits.max) + (limits.bits > 52) * -1.0 + 1)
    )
