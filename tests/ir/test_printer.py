"""Golden text of the IR. ``GRAPHOPT_UPDATE_GOLDEN=1 pytest tests/ir/test_printer.py`` rewrites the files."""

from __future__ import annotations

import os
from pathlib import Path

import onnx.parser
import pytest

from graphopt.driver.importing import import_onnx
from graphopt.ir.printer import format_graph

GOLDEN = Path(__file__).parent.parent / "golden" / "ir"

MODELS = {
    "conv_block": """
        <ir_version: 8, opset_import: ["": 13]>
        block (float[N, 3, H, W] image) => (float[N, C, H2, W2] y)
        <float[4, 3, 3, 3] w = {WEIGHT}, float[4] b = {0.5, -1, 2, 3}>
        {
            c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (image, w, b)
            r = Relu(c)
            y = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (r)
        }""".replace("WEIGHT", ", ".join(str(i % 7) for i in range(108))),
    "shape_arithmetic": """
        <ir_version: 8, opset_import: ["": 13]>
        flat (float[batch, 3, len] x) => (float[a, b] y)
        <int64[1] first = {0}, int64[1] rest = {-1}>
        {
            s = Shape(x)
            n = Gather(s, first)
            target = Concat <axis = 0> (n, rest)
            y = Reshape(x, target)
        }""",
    "legacy": """
        <ir_version: 7, opset_import: ["": 10]>
        old (float[2, 3, 4, 5] x) => (float[2, 3, 4, 5] y, float[2, 12] z)
        {
            c = Clip <min = 0.0, max = 6.0> (x)
            y = Softmax <axis = 1> (c)
            m = ReduceMax <axes = [3], keepdims = 0> (x)
            z = Flatten(m)
        }""",
    "run_time_if": """
        <ir_version: 8, opset_import: ["": 18]>
        choice (float[N, 4] x, bool c) => (float[N, M] y)
        {
            y = If (c) <
                then_branch = small () => (float[N, 4] a) { a = Relu(x) },
                else_branch = large () => (float[N, 8] b) { b = Concat <axis = 1> (x, x) }
            >
        }""",
    "squeeze_or_not": """
        <ir_version: 8, opset_import: ["": 18]>
        squeeze (float[N, T] x) => (float[N] y)
        <int64[1] last = {-1}, int64[1] one = {1}>
        {
            s = Shape(x)
            d = Gather(s, last)
            c = Equal(d, one)
            m = If (c) <
                then_branch = yes () => (float[N] a) { a = Squeeze(x, last) },
                else_branch = no () => (float[N, T] b) { b = Identity(x) }
            >
            y = Relu(m)
        }""",
}


@pytest.mark.parametrize("name", MODELS)
def test_golden(name: str) -> None:
    text = format_graph(import_onnx(onnx.parser.parse_model(MODELS[name]))) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GRAPHOPT_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()
