"""What of a node may be in 16 bits, by the schema of its operator."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx.defs import OpSchema

from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType

_STAY_FLOAT32 = {"Resize": (1, 2, 3), "Dropout": (1,)}
"""Operands that say where or how much, of a type of their own: regions and scales of Resize, the ratio of Dropout."""


@dataclass(frozen=True)
class NarrowForm:
    """Which float32 operands and results of a node are in 16 bits once it is converted."""

    operands: frozenset[int]
    results: frozenset[int]


def is_float32(value: Value | None) -> bool:
    """Whether it is a tensor of float32."""
    return value is not None and isinstance(value.type, TensorType) and value.type.dtype is DType.f32


def touches_float32(node: Node) -> bool:
    """Whether the node reads or makes float32."""
    return any(is_float32(v) for v in (*node.inputs, *node.outputs))


def has_tensors_only(node: Node) -> bool:
    """Whether it neither reads nor makes sequences, optionals and maps."""
    return all(v is None or isinstance(v.type, TensorType) for v in (*node.inputs, *node.outputs))


def narrow_form(node: Node, dtype: DType, max_opset: int | None) -> NarrowForm | None:
    """The node's form in 16 bits; None where its operator has none in an opset up to ``max_opset``, and for what puts tensors
    into sequences or the like: those keep the type of their elements.

    Operands that share a type variable change together. Results follow the variables of operands.
    """
    schema = None if node.domain else _schema(node.op, max_opset)
    if schema is None or not has_tensors_only(node):
        return None
    name = f"tensor({onnx.TensorProto.DataType.Name(dtype.onnx).lower()})"
    stay = _STAY_FLOAT32.get(node.op, ())
    operands: dict[int, str] = {}
    for i, value in enumerate(node.inputs):
        formal = _formal(schema.inputs, i)
        if not is_float32(value) or formal is None or i in stay:
            continue
        if name in formal.types and formal.is_homogeneous:
            operands[i] = formal.type_str
    if not operands:
        return None
    variables = set(operands.values())
    if any(
        is_float32(value) and (formal := _formal(schema.inputs, i)) is not None and formal.type_str in variables
        for i, value in enumerate(node.inputs)
        if i not in operands
    ):
        return None
    results = set()
    for i, value in enumerate(node.outputs):
        formal = _formal(schema.outputs, i)
        if is_float32(value) and formal is not None and formal.type_str in variables:
            if name not in formal.types:
                return None
            results.add(i)
    return NarrowForm(frozenset(operands), frozenset(results))


def results_allow(node: Node, dtype: DType, max_opset: int | None, index: int = 0) -> bool:
    """Whether the schema lets a result of the node have the type, whatever its operands are."""
    schema = None if node.domain else _schema(node.op, max_opset)
    name = f"tensor({onnx.TensorProto.DataType.Name(dtype.onnx).lower()})"
    formal = None if schema is None else _formal(schema.outputs, index)
    return formal is not None and name in formal.types


def branch_form(node: Node) -> NarrowForm:
    """The form of an If: what its branches return, and they alone decide its type."""
    return NarrowForm(frozenset(), frozenset(i for i, v in enumerate(node.outputs) if is_float32(v)))


def loop_form(node: Node) -> NarrowForm:
    """The form of a Loop or Scan: all floats that it carries, reads in slices, and returns."""
    return NarrowForm(
        frozenset(i for i, v in enumerate(node.inputs) if is_float32(v)),
        frozenset(i for i, v in enumerate(node.outputs) if is_float32(v)),
    )


def holders(graph: Graph) -> dict[int, Node]:
    """By the id of each subgraph, the node that holds it."""
    return {id(sub): node for node in graph.walk() for sub in node.subgraphs}


def _formal(formals: Sequence[OpSchema.FormalParameter], index: int) -> OpSchema.FormalParameter | None:
    return formals[min(index, len(formals) - 1)] if formals else None


@functools.cache
def _schema(op: str, max_opset: int | None) -> OpSchema | None:
    try:
        return onnx.defs.get_schema(op) if max_opset is None else onnx.defs.get_schema(op, max_opset)
    except onnx.defs.SchemaError:
        return None
