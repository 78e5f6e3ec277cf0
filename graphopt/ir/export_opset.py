"""Which ai.onnx opset a graph has to be exported with: the oldest that has the form of every node."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import onnx
from onnx.defs import OpSchema

from graphopt.errors import ModelError
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType

EXPORT_OPSET_FLOOR = 18
"""Nodes are kept in the form they have since opset 18 (axes as inputs), so exports need at least that."""

MEANING_SINCE = {"GroupNormalization": 21, "GridSample": 20, "DFT": 20}
"""Operators whose newest meaning differs from that of opset 18 in ways that a schema does not show."""


def export_opset(graph: Graph) -> int:
    """The oldest opset, at least 18 and the model's own, that accepts every node's attributes, operands and dtypes.

    Raises:
        ModelError: the graph holds an operator that ONNX has no schema for.
    """
    version = max(graph.opset, EXPORT_OPSET_FLOOR)
    for node in graph.walk():
        if not node.domain:
            version = max(version, _form_version(node))
    return version


def _form_version(node: Node) -> int:
    history = _history().get(node.op)
    if history is None:
        raise ModelError(
            f"no ONNX operator is called {node.op}",
            code="not-exportable",
            node=node.label,
            hint="export before the pass that makes this operator",
        )
    least = max(MEANING_SINCE.get(node.op, 0), EXPORT_OPSET_FLOOR)
    for i, schema in enumerate(history):
        newest = i + 1 == len(history)
        if newest or (history[i + 1].since_version > least and _accepts(schema, node)):
            return max(int(schema.since_version), least)
    return least


@functools.cache
def _history() -> dict[str, list[OpSchema]]:
    found: dict[str, list[OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain and not schema.deprecated:
            found.setdefault(schema.name, []).append(schema)
    for versions in found.values():
        versions.sort(key=lambda s: int(s.since_version))
    return found


def _accepts(schema: OpSchema, node: Node) -> bool:
    if not set(node.attrs) <= set(schema.attributes):
        return False
    if len(node.inputs) > schema.max_input or len(node.outputs) > schema.max_output:
        return False
    return _typed(schema.inputs, node.inputs) and _typed(schema.outputs, node.outputs)


def _typed(formals: Sequence[OpSchema.FormalParameter], values: Sequence[Value | None]) -> bool:
    for i, value in enumerate(values):
        if value is None or not isinstance(value.type, TensorType) or value.type.dtype is DType.other:
            continue
        formal = formals[min(i, len(formals) - 1)]
        if f"tensor({onnx.TensorProto.DataType.Name(value.type.dtype.onnx).lower()})" not in formal.types:
            return False
    return True
