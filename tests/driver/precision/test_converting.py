"""graphopt.convert: what comes back, and that failures leave nothing behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.errors import UserError
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Graph
from graphopt.ir.printer import format_graph
from graphopt.models import zoo
from tests.support.onnx_graphs import graph_of, rand
from tests.support.ort import run_ort
from tests.support.precision import run, sqnr_db

BODY = (
    "c = Conv<pads=[1,1,1,1]>(x, w)\nb = BatchNormalization(c, s, o, m, v)\nr = Relu(b)\nf = Flatten(r)\ny = Softmax(f)"
)


def net() -> Graph:
    """A convolution with batch normalisation, and a softmax."""
    return graph_of(
        {"x": "float[N,2,4,4]"}, BODY, w=rand(3, 2, 3, 3), s=rand(3, positive=True), o=rand(3), m=rand(3),
        v=rand(3, positive=True),
    )  # fmt: skip


def assert_right(graph: Graph, original: Any, feeds: Mapping[str, Any], least_db: float, *, reference: bool) -> None:
    model = graphopt.export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    for got, want in zip(run(model, feeds, reference=reference), run_ort(original, feeds)):
        assert sqnr_db(got, want) >= least_db


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_converts_and_reports(precision: str) -> None:
    graph = net()
    before = format_graph(graph)
    narrow, report = graphopt.convert(graph, precision)
    assert format_graph(graph) == before
    dtype = {"fp16": "float16", "bf16": "bfloat16"}[precision]
    assert [(row.op, row.precision, row.why) for row in report.nodes] == [
        ("Conv", dtype, ""), ("Relu", dtype, ""), ("Flatten", dtype, ""), ("Softmax", "float32", "rule"),
    ]  # fmt: skip
    assert report.casts == 2
    assert report.bytes_after == 2 * (3 * 2 * 9 + 3)
    assert report.bytes_before == 4 * (3 * 2 * 9 + 12)
    facts = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (facts["converted"], facts["kept"], facts["precision"]) == (3, 1, precision)
    assert facts["nodes"][3]["reason"] == "a softmax divides by a sum of exponentials"
    assert "Softmax): float32 (rule: a softmax" in str(report)
    model = graphopt.export_onnx(graph)
    least = {"fp16": 55.0, "bf16": 35.0}[precision]
    assert_right(narrow, model, {"x": rand(2, 2, 4, 4)}, least, reference=precision == "bf16")


def test_as_it_is_at_level_0() -> None:
    """The normalisation stays, and what moves its results to the softmax is not cast forth and back."""
    narrow, report = graphopt.convert(net(), "fp16", level=0)
    assert [(row.op, row.precision) for row in report.nodes] == [
        ("Conv", "float16"), ("BatchNormalization", "float32"), ("Relu", "float32"), ("Flatten", "float32"),
        ("Softmax", "float32"),
    ]  # fmt: skip
    assert [n.op for n in narrow.nodes] == ["Cast", "Conv", "Cast", "BatchNormalization", "Relu", "Flatten", "Softmax"]


def test_nodes_are_kept_by_the_names_of_what_they_were_made_from() -> None:
    _, report = graphopt.convert(net(), "fp16", keep=["b"])
    assert [row.op for row in report.nodes if row.why == "asked"] == ["Conv"], "the normalisation went into it"


def test_io() -> None:
    narrow, report = graphopt.convert(net(), "bf16", io="cast")
    assert [v.dtype for v in (*narrow.inputs, *narrow.outputs)] == [DType.bf16] * 2
    assert report.io == "cast"


def test_what_is_in_16_bits_stays() -> None:
    narrow, _ = graphopt.convert(net(), "fp16")
    again, report = graphopt.convert(narrow, "fp16")
    assert report.casts == 0
    assert report.bytes_before == report.bytes_after
    assert not report.converted
    assert format_graph(again) == format_graph(narrow)


@pytest.mark.parametrize(
    ("options", "code", "hint"),
    [
        ({"precision": "fp61"}, "unknown-precision", "did you mean 'fp16'?"),
        ({"precision": "float16"}, "unknown-precision", "did you mean 'fp16'?"),
        ({"precision": "bfloat16"}, "unknown-precision", "did you mean 'bf16'?"),
        ({"precision": "fp32"}, "unknown-precision", "stay in float32 when no precision"),
        ({"precision": "int8"}, "unknown-precision", "fp16, bf16"),
        ({"precision": "fp16", "io": "kep"}, "bad-option", "did you mean 'keep'?"),
        ({"precision": "fp16", "keep": ["Sofmax"]}, "unknown-node", "did you mean 'Softmax'?"),
    ],
)
def test_errors(options: dict[str, Any], code: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        graphopt.convert(net(), **options)
    assert caught.value.code == code
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(("precision", "least"), [("fp16", 55.0), ("bf16", 30.0)])
def test_digits(precision: str, least: float) -> None:
    """Every picture of the test set: SQNR against float32, and what is recognised."""
    pictures, labels = zoo.digits_test()
    model = zoo.get("digits").proto()
    name = model.graph.input[0].name
    narrow, _ = graphopt.convert(model, precision)
    got = run(graphopt.export_onnx(narrow), {name: pictures}, reference=precision == "bf16")[0]
    want = run_ort(model, {name: pictures})[0]
    assert sqnr_db(got, want) >= least
    right = [int((a.argmax(1) == labels).sum()) for a in (np.asarray(got), want)]
    assert abs(right[0] - right[1]) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["squeezenet", "bert_tiny", "vit_tiny", "silero_vad_op18_ifless", "ppocr_cls", "shufflenet"]
)
def test_zoo(name: str) -> None:
    """Models load in ONNX Runtime and are within 40 dB of float32 on real inputs."""
    model = zoo.get(name)
    feeds = model.inputs(1)
    for level in (0, 2):
        narrow, _ = graphopt.convert(model.proto(), "fp16", level=level)
        assert_right(narrow, model.proto(), feeds, 40.0, reference=False)
