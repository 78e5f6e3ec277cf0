"""Element types that operands may have, out of the ONNX schemas: checked once, when a node is imported."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import onnx

from graphopt.errors import ModelError
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Node
from graphopt.ir.types import TensorType


@dataclass(frozen=True)
class _Formal:
    """What the schema says of an operand: the types allowed, and the variable that makes several alike (or "")."""

    allowed: frozenset[str]
    variable: str


def check_types(node: Node) -> None:
    """Refuse operands of element types that the operator, in its newest form, isn't defined for, or that differ where it wants one.

    Raises:
        ModelError: it names the operand and its type.
    """
    if node.domain:
        return
    seen: dict[str, tuple[str, DType]] = {}
    formals = _formals(node.op)
    for index, value in enumerate(node.inputs):
        formal = formals[min(index, len(formals) - 1)] if formals else None
        if value is None or formal is None or not isinstance(value.type, TensorType) or value.type.dtype is DType.other:
            continue
        dtype = value.type.dtype
        if 0 < dtype.bits < 8:
            continue  # the schemas are slow to follow such types, and no kernel computes in them
        if _name(dtype) not in formal.allowed:
            raise _refused(
                node, f"input {index} (%{value.name}) is {value.type}; {node.op} is not defined for {dtype} there"
            )
        name, first = seen.setdefault(formal.variable, (value.name, dtype)) if formal.variable else (value.name, dtype)
        if first is not dtype:
            raise _refused(
                node, f"%{name} is of {first}, %{value.name} of {dtype}; {node.op} takes operands of one type"
            )


def _refused(node: Node, why: str) -> ModelError:
    return ModelError(
        why, code="invalid-node", node=node.label, hint="the model is inconsistent; put a Cast before the node"
    )


@functools.cache
def _formals(op: str) -> tuple[_Formal, ...]:
    """Operands in order, the last one for all that follow; empty where the schema says nothing that helps."""
    try:
        schema = onnx.defs.get_schema(op)
    except onnx.defs.SchemaError:
        return ()
    variables = {constraint.type_param_str for constraint in schema.type_constraints}
    return tuple(
        _Formal(
            frozenset(formal.types).union(*_once_allowed(op, index, formal.name)),
            formal.type_str if formal.type_str in variables and formal.is_homogeneous else "",
        )
        for index, formal in enumerate(schema.inputs)
    )


def _once_allowed(op: str, index: int, name: str) -> list[set[str]]:
    """Types of an operand in earlier forms of an operator: models of their opset are valid, and ONNX narrows what it
    allows at times, as for logarithms of sums of integers in opset 28."""
    return [
        schema.inputs[index].types
        for schema in _history().get(op, ())
        if index < len(schema.inputs) and schema.inputs[index].name == name
    ]


@functools.cache
def _history() -> dict[str, list[onnx.defs.OpSchema]]:
    """Forms of all operators since opset 7, the oldest that runtimes take; before it, even counts could be floats."""
    found: dict[str, list[onnx.defs.OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain and schema.since_version >= 7:
            found.setdefault(schema.name, []).append(schema)
    return found


@functools.cache
def _name(dtype: DType) -> str:
    return f"tensor({onnx.TensorProto.DataType.Name(dtype.onnx).lower()})"
