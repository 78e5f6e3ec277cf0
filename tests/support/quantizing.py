"""Quantization in tests: ranges from values that ONNX Runtime computes, and results of what was written, in ONNX Runtime too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

import graphopt
from graphopt.driver.optimizing import export_onnx
from graphopt.driver.quantize.report import QuantizationReport
from graphopt.ir.graph import Graph, Node
from graphopt.ir.outputs import with_outputs
from graphopt.passes.quant.placement import place
from graphopt.passes.quant.plan import calibrated_values
from graphopt.passes.quant.ranges import Range
from tests.support.ort import run_ort
from tests.support.precision import sqnr_db

Arrays = Mapping[str, np.ndarray[Any, Any]]


def exact_ranges(graph: Graph, feeds: Arrays, **asked: Any) -> dict[str, Range]:
    """The range of every value that quantization may ask for."""
    names = [v.name for v in calibrated_values(place(graph))]
    inner = [name for name in names if name not in feeds]
    arrays = dict(feeds)
    if inner:
        arrays.update(zip(inner, run_ort(export_onnx(with_outputs(graph, inner)), feeds)))
    return {name: Range(float(arrays[name].min()), float(arrays[name].max())) for name in names}


def quantized(graph: Graph, feeds: Arrays, **options: Any) -> tuple[Graph, QuantizationReport]:
    """The graph in integers, without compiling anything, and checked as ONNX."""
    table = graphopt.RangeTable(exact_ranges(graph, feeds))
    result, report = graphopt.quantize(graph, table=table, level=0, **options)
    model = export_onnx(result)
    onnx.checker.check_model(model, full_check=True)
    return result, report


def decibels(graph: Graph, result: Graph, feeds: Arrays) -> float:
    """Signal to noise of the first output in ONNX Runtime without optimisation."""
    return sqnr_db(run_ort(export_onnx(result), feeds)[0], run_ort(export_onnx(graph), feeds)[0])


def node_named(graph: Graph, name: str) -> Node:
    """The node of a name."""
    return next(node for node in graph.nodes if node.name == name)


def source_of(node: Node, index: int) -> Node | None:
    """The node that an operand comes from."""
    value = node.inputs[index]
    return None if value is None else value.producer


def stored(node: Node, index: int) -> Node:
    """The DequantizeLinear before an operand, which must be there."""
    maker = source_of(node, index)
    assert maker is not None
    assert maker.op == "DequantizeLinear", f"operand {index} of {node.label} comes from {maker.label}"
    return maker
