"""Whole models in small types on a simulated GPU, tensor cores included.

In float32 they are in ``tests/differential/test_cuda.py``. That each product is exact is a matter of ``test_product_sweep.py``;
here layouts, fusions, planned memory and the order of launches are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.models.zoo import digits_test

pytest.importorskip("ziglang")

from tests.support.by_hand import BY_HAND
from tests.support.cuda_on_cpu.gpu import run_on_simulated_gpu
from tests.support.zoo_models import reference, zoo_model

heavy = BY_HAND
CONVERTED = (
    ("digits", "fp16", 0.01),
    ("digits", "bf16", 0.05),
    pytest.param("ppocr_cls", "fp16", 0.01, marks=pytest.mark.slow),
    pytest.param("opennsfw", "fp16", 0.02, marks=heavy),
    pytest.param("opennsfw", "bf16", 0.1, marks=heavy),
    pytest.param("ppocr_rec", "fp16", 0.02, marks=heavy),
    pytest.param("ppocr_rec", None, 0.005, marks=heavy),
    pytest.param("mobilenet_v2", "fp16", 0.02, marks=heavy),
    pytest.param("vit_tiny", "fp16", 0.02, marks=heavy),
    pytest.param("bert_tiny", "fp16", 0.02, marks=heavy),
)
"""Model, type (None: float32, multiplied in tf32), and how far outputs may be from float32, relative to their length."""


@pytest.mark.parametrize(("name", "precision", "limit"), CONVERTED)
def test_a_converted_model(name: str, precision: str | None, limit: float) -> None:
    model = zoo_model(name)
    feed = model.inputs(1)
    source: Any = model.path()
    shapes = {"shapes": model.shapes or None}
    if precision:
        source, _ = graphopt.convert(source, precision, **shapes)
        shapes = {}
    small = name == "digits"
    found = run_on_simulated_gpu(source, feed, schedules=(0, 1, 2) if small else (0,), checked=small, **shapes)
    for output, want in reference(model, feed).items():
        error = np.linalg.norm(found[output].astype(np.float64) - want) / np.linalg.norm(want)
        print(f"{name} in {precision or 'tf32'}: {output} is off by {error:.2g}")
        assert error < limit


@pytest.mark.slow
def test_a_quantized_model() -> None:
    """Products of bytes on tensor cores give the CPU's results to the bit, up to the mean: that adds floats up in another order."""
    images = digits_test()[0]
    graph, _ = graphopt.quantize(zoo_model("digits").path(), {"image": images[:64]})
    proto = onnx.shape_inference.infer_shapes(graphopt.export_onnx(graph))
    nodes = [node for node in proto.graph.node if node.op_type in ("QuantizeLinear", "GlobalAveragePool")]
    before = nodes[: [node.op_type for node in nodes].index("GlobalAveragePool")]
    typed = {value.name: value for value in proto.graph.value_info}
    proto.graph.output.extend(typed[node.output[0]] for node in before)
    feed = {"image": images[64:69]}
    expected = graphopt.compile(proto, "x86").run(feed)
    found = run_on_simulated_gpu(proto, feed, exact=True)
    assert len(before) >= 7
    for node in before:
        np.testing.assert_array_equal(found[node.output[0]], expected[node.output[0]])
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=0.05)
