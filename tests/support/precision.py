"""What must hold of every graph converted to 16 bits, whatever the graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from graphopt.driver.optimizing import export_onnx, optimize
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Graph, Node
from graphopt.ir.printer import format_graph
from graphopt.rewrite.remarks import Remarks
from tests.support.evaluate import random_inputs
from tests.support.ort import run_ort

LEAST_DB = {"fp16": 40.0, "bf16": 20.0}


def converted(
    graph: Graph,
    spec: str,
    *,
    feeds: Mapping[str, np.ndarray[Any, Any]] | None = None,
    least_db: float | None = None,
    reference: bool = True,
) -> tuple[Graph, Remarks]:
    """The graph after the pass, once all that must hold has been checked.

    Args:
        spec: ``cast-fp16`` or ``cast-bf16``, with options.
        feeds: inputs in float32; random by default.
        least_db: of outputs against float32.
        reference: whether ONNX's evaluator or ONNX Runtime runs the result (it has no bfloat16 on CPUs).
    """
    before, remarks = format_graph(graph), Remarks()
    after = optimize(graph, passes=[spec], verify_each=True, remarks=remarks)
    assert format_graph(graph) == before, "the input graph was changed"
    assert [v.name for v in after.outputs] == [v.name for v in graph.outputs]
    assert [v.name for v in after.inputs] == [v.name for v in graph.inputs]
    model = export_onnx(after)
    onnx.checker.check_model(model, full_check=True)
    assert_no_redundant_casts(after)
    again = optimize(after, passes=[spec], verify_each=True)
    assert again.version == after.version, "a second run reports changes"
    assert format_graph(again) == format_graph(after), "a second run changes the graph again"
    feeds = random_inputs(graph) if feeds is None else feeds
    want = run_ort(export_onnx(graph), feeds)
    given = {v.name: feeds[v.name].astype(v.dtype.numpy) for v in after.inputs}
    precision = "bf16" if "bf16" in spec else "fp16"
    got = run(model, given, reference=reference and precision == "bf16")
    least = LEAST_DB[precision] if least_db is None else least_db
    for value, a, b in zip(after.outputs, got, want):
        assert np.asarray(a).dtype == value.dtype.numpy, f"%{value.name} is {np.asarray(a).dtype}"
        assert np.asarray(a).shape == b.shape
        assert sqnr_db(np.asarray(a), b) >= least, f"%{value.name}: {sqnr_db(np.asarray(a), b):.1f} dB"
    return after, remarks


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray[Any, Any]], *, reference: bool) -> list[Any]:
    """Outputs in ONNX's evaluator or in ONNX Runtime."""
    return list(ReferenceEvaluator(model).run(None, dict(feeds))) if reference else run_ort(model, feeds)


def sqnr_db(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> float:
    """Signal to noise in dB; infinite where nothing differs, minus infinite where NaN or infinity is in the wrong place."""
    a, b = np.asarray(got).astype(np.float64), np.asarray(want).astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return -math.inf
    noise, signal = float(((a[finite] - b[finite]) ** 2).sum()), float((b[finite] ** 2).sum())
    return math.inf if noise == 0.0 else 10.0 * math.log10(signal / noise) if signal else -math.inf


def assert_no_redundant_casts(graph: Graph) -> None:
    """No Cast undoes another, none does nothing, and a value is cast to a type once."""
    seen: set[tuple[int, int]] = set()
    for node in graph.walk():
        if node.op != "Cast":
            continue
        source = node.inputs[0]
        assert source is not None
        if not source.dtype.is_float:
            continue
        to = DType.from_onnx(int(node.attrs["to"]))
        assert node.out.dtype is to, f"{node.label} is {node.out.type} and casts to {to}"
        assert source.dtype is not to, f"{node.label} does nothing"
        assert (id(source), node.attrs["to"]) not in seen, f"%{source.name} is cast to {to} twice"
        seen.add((id(source), node.attrs["to"]))
        maker = source.producer
        if maker is not None and maker.op == "Cast" and maker.inputs[0] is not None:
            assert maker.inputs[0].dtype is not to, f"{node.label} undoes {maker.label}"


def computed_in(graph: Graph) -> dict[str, DType]:
    """By the node's name, the type of its first float result; Casts that the conversion put in are left out."""
    found = {}
    for node in graph.walk():
        floats = [v for v in node.outputs if v is not None and v.dtype.is_float]
        if floats and not (node.op == "Cast" and node.name.endswith("_cast")):
            found[node.name] = floats[0].dtype
    return found


def node_called(graph: Graph, name: str) -> Node:
    """The node of that name, in subgraphs too."""
    return next(n for n in graph.walk() if n.name == name)


def kept_because(remarks: Remarks) -> dict[str, str]:
    """By the node's name, why it stayed in float32."""
    return {r.node.split(" (")[0]: f"{r.rule}: {r.text}" for r in remarks.refusals()}
