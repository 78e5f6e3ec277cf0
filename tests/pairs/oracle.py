"""What ONNX defines of one operator on given operands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.pairs.operators import INTEGERS, OPSET, Form, onnx_type

Array = npt.NDArray[Any]
BRAIN = np.dtype(ml_dtypes.bfloat16)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array],
    outputs: Mapping[str, tuple[str, tuple[int, ...] | None]],
    constants: Mapping[str, Array] | None = None,
) -> onnx.ModelProto:
    """A model of the nodes."""
    ins = [helper.make_tensor_value_info(k, onnx_type(str(v.dtype)), v.shape) for k, v in inputs.items()]
    outs = [helper.make_tensor_value_info(k, onnx_type(dtype), shape) for k, (dtype, shape) in outputs.items()]
    initializers = [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    model = helper.make_model(
        helper.make_graph(nodes, "pairs", ins, outs, initializers), opset_imports=[helper.make_opsetid("", OPSET)]
    )
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    return model


def expected(form: Form, node: onnx.NodeProto, operands: Sequence[Array]) -> tuple[Array, Array]:
    """What ONNX defines, and which elements it defines (conversions to integers have a range)."""
    if BRAIN in (*(o.dtype for o in operands), np.dtype(form.result)):
        return _expected_in_single(form, node, operands)
    counts: Array = np.array(True)
    value = operands[form.before]
    if form.op in ("Cast", "CastLike") and value.dtype.kind == "f" and np.dtype(form.result).kind in "iu":
        info = np.iinfo(form.result)
        wide = value.astype(np.float64)
        counts = np.isfinite(wide) & (wide > float(info.min) - 1) & (wide < float(info.max))
    if form.op == "QuantizeLinear":
        # saturating, as ONNX says: the reference converts to an integer first, which large numbers don't fit
        _, scale, zero = operands
        info = np.iinfo(form.result)
        whole = np.rint(value.astype(scale.dtype) / scale).astype(np.float64) + zero
        return np.clip(whole, info.min, info.max).astype(form.result), ~np.isnan(whole)
    if form.op == "Shrink" and form.source in INTEGERS:
        counts = np.abs(value.astype(np.float64)) < 2**24  # ONNX's function computes in float32
    if form.op == "PRelu":
        # by its definition x where x >= 0; the reference multiplies 0 by the slope, which may be infinite or NaN
        slope = operands[1]
        return np.where(value < 0, value * slope, value).astype(value.dtype), counts
    if form.op == "LRN":
        # the reference fills as many channels as there are images
        square = np.square(operands[0].astype(np.float64))
        near = square + np.pad(square, [(0, 0), (1, 1), (0, 0), (0, 0)])[:, :-2]
        near += np.pad(square, [(0, 0), (1, 1), (0, 0), (0, 0)])[:, 2:]
        return (operands[0] / (1 + 1e-4 / 3 * near) ** 0.75).astype(value.dtype), counts
    if form.op == "Mean" and form.source == "float16":
        # the reference rounds the sum, and it overflows where the mean doesn't
        return np.mean(np.broadcast_arrays(*operands), 0, np.float64).astype(value.dtype), counts
    if form.op == "HardSwish":
        wide = value.astype(np.float64)  # the reference rounds 1/6 to float32 in every type
        return (wide * np.clip(wide / 6 + 0.5, 0, 1)).astype(value.dtype), counts
    if form.op in ("Erf", "Gelu") and form.source == "float64":  # the reference computes them in float32
        if form.op == "Gelu" and form.attributes["approximate"] == "tanh":
            return 0.5 * value * (1 + np.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3))), counts
        erf = np.vectorize(math.erf, otypes=[np.float64])
        return erf(value) if form.op == "Erf" else 0.5 * value * (1 + erf(value * math.sqrt(0.5))), counts
    if form.op == "Div" and form.source in ("int8", "int16", "int32", "int64"):
        a, b = operands
        quotient = (
            np.abs(a.astype(object)) // np.abs(b.astype(object)) * np.sign(a.astype(object)) * np.sign(b.astype(object))
        )
        return quotient.astype(a.dtype), counts
    if form.op == "MaxPool" and form.source in INTEGERS:
        # the reference fills with NaN, also where there is nothing to fill
        return np.lib.stride_tricks.sliding_window_view(value, (2, 2), (2, 3)).max((4, 5)), counts
    inputs = dict(zip(node.input, operands))
    result = ReferenceEvaluator(model_of([node], inputs, {node.output[0]: (form.result, None)})).run(None, inputs)[0]
    if form.op.startswith("Reduce"):
        result = np.asarray(result).astype(value.dtype)  # the reference gives numpy's sums of int32, which are int64
    return np.asarray(result), counts


def _expected_in_single(form: Form, node: onnx.NodeProto, operands: Sequence[Array]) -> tuple[Array, Array]:
    """The same with float32 in place of bfloat16, which the reference knows little of, rounded once at the end."""
    if form.op == "BitCast":
        bits: Array = operands[0].view(form.result)
        return bits, np.array(True)
    source, result = ("float32" if t == str(BRAIN) else t for t in (form.source, form.result))
    wide = replace(form, source=source, result=result)
    told = onnx.NodeProto()
    told.CopyFrom(node)
    for attribute in told.attribute:
        if attribute.name == "to":
            attribute.i = onnx_type(wide.result)
    want, counts = expected(wide, told, [o.astype(np.float32) if o.dtype == BRAIN else o for o in operands])
    return want.astype(form.result), counts
