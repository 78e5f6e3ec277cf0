"""Chains of transcendental functions behind anchors that have templates: as one expression TVM's passes never ended on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.driver.compiling import to_program

EPILOGUE = ("Tanh", "Sigmoid", "Softplus", "Mish", "Tanh")
SCALE_AFTER = 2


def model(templates: str) -> onnx.ModelProto:
    """A branch for each template, or for three of them, all on one image or matrix."""
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "dense": rng.standard_normal((16, 16, 3, 3)) / 12,
        "point": rng.standard_normal((16, 16, 1, 1)) / 4,
        "odd": rng.standard_normal((5, 16, 3, 3)) / 12,
        "depth": rng.standard_normal((16, 1, 3, 3)) / 3,
        "grouped": rng.standard_normal((16, 4, 3, 3)) / 6,
        "turned": rng.standard_normal((16, 16, 2, 2)) / 8,
        "matrix": rng.standard_normal((16, 24)) / 4,
        "image scale": rng.standard_normal((1, 9, 9)),
        "row scale": rng.standard_normal(24),
        "one scale": np.array(0.5),
    }
    anchors: list[tuple[str, list[str], dict[str, Any], str]] = [
        ("Conv", ["x", "dense"], {"pads": [1] * 4}, "image scale"),
        ("Conv", ["x", "point"], {}, "image scale"),
        ("Conv", ["x", "odd"], {"pads": [1] * 4}, "image scale"),
        ("Conv", ["x", "depth"], {"pads": [1] * 4, "group": 16}, "image scale"),
        ("Conv", ["x", "grouped"], {"pads": [1] * 4, "group": 4}, "image scale"),
        ("ConvTranspose", ["x", "turned"], {"strides": [2, 2]}, "one scale"),
        ("MaxPool", ["x"], {"kernel_shape": [3, 3], "pads": [1] * 4}, "image scale"),
        ("GlobalAveragePool", ["x"], {}, "one scale"),
        ("MatMul", ["a", "matrix"], {}, "row scale"),
        ("MatMul", ["a", "b"], {}, "row scale"),
    ]
    if templates == "some":
        anchors = [anchors[1], anchors[6], anchors[8]]
    nodes, outputs = [], []
    for i, (op, inputs, attributes, scale) in enumerate(anchors):
        value = f"anchor{i}"
        nodes.append(helper.make_node(op, inputs, [value], **attributes))
        for j, name in enumerate(EPILOGUE):
            nodes.append(helper.make_node(name, [value], [f"v{i}.{j}"]))
            value = f"v{i}.{j}"
            if j == SCALE_AFTER:
                nodes.append(helper.make_node("Mul", [value, scale], [f"m{i}"]))
                value = f"m{i}"
        outputs.append(value)
    shapes = {"x": (1, 16, 9, 9), "a": (7, 16), "b": (16, 24)}
    graph = helper.make_graph(
        nodes,
        "long",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(("templates", "count"), [("some", 3), pytest.param("all", 6, marks=pytest.mark.slow)])
def test_long_chains_behind_every_template_compile_and_are_right(templates: str, count: int) -> None:
    source = model(templates)
    kernels = to_program(source, "x86-64-v3", threads=2)[2].kernels
    found = {k.template for k in kernels if k.label.endswith("+ 6")}
    assert len(found - {"generic"}) >= count, found
    rng = np.random.default_rng(1)
    feed = {
        i.name: rng.standard_normal([d.dim_value for d in i.type.tensor_type.shape.dim]).astype(np.float32)
        for i in source.graph.input
    }
    got = graphopt.compile(source, "x86-64-v3", cache=False).run(feed)
    for name, want in zip(got, onnx.reference.ReferenceEvaluator(source).run(None, feed), strict=True):
        np.testing.assert_allclose(got[name], want, rtol=2e-5, atol=2e-6, err_msg=name)
