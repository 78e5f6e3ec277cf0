"""Epilogues that change the element type run in their anchor's kernel, against ONNX's reference evaluator."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import graphopt
from tests.support.run_node import node

INPUTS = {"x": (1, 16, 13, 14), "image": (1, 3, 23, 23), "rows": (9, 40), "heads": (2, 3, 9, 8)}
WEIGHTS = {
    "w3": (24, 16, 3, 3),
    "w1": (24, 16, 1, 1),
    "whole": (32, 16, 1, 1),
    "first": (16, 3, 3, 3),
    "depth": (16, 1, 3, 3),
    "grouped": (32, 8, 1, 1),
    "up": (16, 6, 2, 2),
    "overlap": (16, 6, 3, 3),
    "m": (40, 33),
}
ANCHORS = {
    "conv": node("Conv", "x w3", "conv", pads=[1] * 4),
    "pointwise": node("Conv", "x w1", "pointwise"),
    "whole_panels": node("Conv", "x whole", "whole_panels"),
    "strided": node("Conv", "image first", "strided", strides=[2, 2]),
    "depthwise": node("Conv", "x depth", "depthwise", group=16, pads=[1] * 4),
    "in_groups": node("Conv", "x grouped", "in_groups", group=2),
    "patches": node("ConvTranspose", "x up", "patches", strides=[2, 2]),
    "transposed": node("ConvTranspose", "x overlap", "transposed", strides=[2, 2]),
    "product": node("MatMul", "rows m", "product"),
    "of_values": node("MatMul", "heads turned", "of_values"),
    "pool": node("MaxPool", "x", "pool", kernel_shape=[3, 3], pads=[1] * 4),
}
BEFORE = [node("Transpose", "heads", "turned", perm=[0, 1, 3, 2])]
ENDS = {
    "int8": (TensorProto.INT8, ["Mul:twenty", f"Cast:{TensorProto.INT8}"]),
    "quantized": (TensorProto.UINT8, ["QuantizeLinear"]),
    "long": (TensorProto.INT32, ["Gelu", "Mul:twenty", f"Cast:{TensorProto.INT32}"]),
    "bfloat16": (TensorProto.BFLOAT16, [f"Cast:{TensorProto.BFLOAT16}"]),
    "float64": (TensorProto.DOUBLE, ["Relu", f"Cast:{TensorProto.DOUBLE}"]),
}


def model(steps: list[str], to: int) -> onnx.ModelProto:
    """Every anchor with these steps behind it."""
    rng = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array((rng.standard_normal(s) / np.prod(s[1:]) ** 0.5).astype(np.float32), name)
        for name, s in WEIGHTS.items()
    ]
    constants += [
        numpy_helper.from_array(np.float32(20), "twenty"),
        numpy_helper.from_array(np.float32(0.02), "scale"),
        numpy_helper.from_array(np.uint8(120), "zero"),
    ]
    nodes, results = [*BEFORE], []
    for anchor in ANCHORS.values():
        nodes.append(anchor)
        value = anchor.output[0]
        for number, step in enumerate(steps):
            op, _, operand = step.partition(":")
            made = f"{anchor.output[0]}_{number}"
            if op == "Cast":
                nodes.append(node(op, value, made, to=int(operand)))
            elif op == "QuantizeLinear":
                nodes.append(node(op, f"{value} scale zero", made))
            else:
                nodes.append(node(op, f"{value} {operand}".strip(), made))
            value = made
        results.append(value)
    graph = helper.make_graph(
        nodes,
        "anchors",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in INPUTS.items()],
        [helper.make_tensor_value_info(name, to, None) for name in results],
        constants,
    )
    made_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made_model)


@pytest.mark.parametrize(
    "end", [pytest.param(end, marks=pytest.mark.slow if end in ("long", "bfloat16") else ()) for end in ENDS]
)
def test_the_result_of_a_template_may_have_another_type(end: str) -> None:
    to, steps = ENDS[end]
    made = model(steps, to)
    rng = np.random.default_rng(1)
    feed = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in INPUTS.items()}
    compiled = graphopt.compile(made, "x86-64-v3", threads=1)
    generic = {k.function for k in compiled.program.kernels if k.template == "generic"}
    assert all(name.startswith("transpose") for name in generic)
    got = compiled.run(feed)
    for name, want in zip(got, ReferenceEvaluator(made).run(None, feed)):
        actual, expected = got[name].astype(np.float64), np.asarray(want).astype(np.float64)
        if to in (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32):
            # sums in another order may fall on the other side of a step
            assert np.abs(actual - expected).max() <= 1, name
            assert (actual != expected).mean() < 0.01, name
        else:
            epsilon = {TensorProto.BFLOAT16: float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps)}.get(to, 1e-5)
            assert np.abs(actual - expected).max() <= epsilon * np.abs(expected).max(), name
