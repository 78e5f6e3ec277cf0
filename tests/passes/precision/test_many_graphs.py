"""cast-fp16 and cast-bf16 on random graphs and on every node test of ONNX: converted graphs are valid, and stay as they are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import export_onnx, optimize
from graphopt.driver.precision.converting import convert
from graphopt.errors import GraphOptError, UserError
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Graph
from graphopt.ir.precision_choices import PrecisionChoices
from graphopt.ir.types import TensorType
from tests.conformance.cases import all_cases
from tests.random_graphs.case import draw
from tests.support.ort import run_ort
from tests.support.precision import assert_no_redundant_casts, sqnr_db

SPECS = ("cast-fp16", "cast-bf16", "cast-fp16{io=cast}", "cast-bf16{io=cast}")


def passes_the_checker(graph: Graph) -> bool:
    """Whether ONNX finds nothing wrong in a graph: its own shape inference can't follow some."""
    try:
        onnx.checker.check_model(export_onnx(graph), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def assert_sound(graph: Graph, spec: str, what: str, checked: bool) -> Graph:
    """The converted graph; it is verified, ``checked`` by ONNX if the original passes, and the same after a second run."""
    after = optimize(graph, passes=[spec], verify_each=True)
    assert optimize(after, passes=[spec]).version == after.version, what
    if not any(n.op == "Cast" and n.inputs[0] is not None and n.inputs[0].dtype is n.out.dtype for n in graph.walk()):
        assert_no_redundant_casts(after)
    for before, value in zip(graph.outputs, after.outputs, strict=True):
        if isinstance(value.type, TensorType) and before.dtype is DType.f32:
            narrow = {"cast-fp16": DType.f16, "cast-bf16": DType.bf16}[spec[:9]]
            assert value.dtype is (narrow if "io=cast" in spec else DType.f32), what
    if checked:
        onnx.checker.check_model(export_onnx(after), full_check=True)
    return after


def check_random(seed: int) -> None:
    case = draw(seed)
    graph = import_onnx(case.model())
    checked = passes_the_checker(graph)
    for spec in SPECS:
        after = assert_sound(graph, spec, f"graph {seed}, {spec}", checked)
        if spec != "cast-fp16" or case.hostile:
            continue
        feed = case.feeds[0]
        for value, got in zip(after.outputs, run_ort(export_onnx(after), feed), strict=True):
            want = case.expected[0][value.name]
            if want.dtype == np.float32 and want.size and got.shape == want.shape:
                assert sqnr_db(got, want) > 15, f"graph {seed}, {value.name}"


@pytest.mark.parametrize("seed", range(8))
def test_random_graphs(seed: int) -> None:
    check_random(seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(8, 204, 49))
def test_many_random_graphs(start: int) -> None:
    for seed in range(start, start + 49):
        check_random(seed)


def float_cases() -> Iterator[tuple[str, Graph]]:
    """Graphs of ONNX's node tests that have float32 in them, with initializers for all inputs but the first as well."""
    for case in all_cases().values():
        for form in ("inputs", "constants"):
            if case.kind != "node" or not case.has_form(form):
                continue
            try:
                graph = import_onnx(case.in_form(form).model)
            except GraphOptError:
                continue  # what can't be imported is said elsewhere
            values = [v for n in graph.walk() for v in (*n.inputs, *n.outputs) if v is not None]
            if any(isinstance(v.type, TensorType) and v.type.dtype is DType.f32 for v in values):
                yield f"{case.name}, {form}", graph


@pytest.mark.slow
def test_node_tests_of_onnx() -> None:
    count = 0
    for name, graph in float_cases():
        checked = passes_the_checker(graph)
        for spec in ("cast-fp16", "cast-bf16{io=cast}"):
            assert_sound(graph, spec, f"{name}, {spec}", checked)
            count += 1
    assert count > 2500


def forced(graph: Graph) -> Graph:
    """The graph with everything in float16 that the schema has in it, against all rules."""
    nodes = {row.node: "float16" for row in convert(graph, "fp16", level=0)[1].nodes}
    refused: dict[str, str] = {}
    while True:
        try:
            narrow, report = convert(graph, plan=PrecisionChoices({**nodes, **refused}, "fp16", level=0))
        except UserError as error:
            if error.code != "plan-does-not-fit":
                raise
            refused[str(error.node).rsplit(" (", 1)[0]] = "float32"
        else:
            assert report.plan.nodes == {**nodes, **refused}
            return narrow


@pytest.mark.slow
def test_node_tests_of_onnx_with_every_node_forced() -> None:
    """Operators that rules keep have forms, too: types that inference and the checker agree with, or an error that says why not."""
    count = 0
    for name, graph in float_cases():
        narrow = forced(graph)
        if not passes_the_checker(graph):
            continue
        try:
            onnx.checker.check_model(export_onnx(narrow), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise AssertionError(name) from error
        count += 1
    assert count > 1000
