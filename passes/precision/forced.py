"""Nodes that a user puts in 16 bits although rules would keep them in float32: nothing but the schema may object."""

from __future__ import annotations

from graphopt.errors import GraphOptError
from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType
from graphopt.ops.infer import infer_node
from graphopt.ops.registry import LOOP, has_trait
from graphopt.passes.precision.narrow_form import (
    NarrowForm,
    branch_form,
    has_tensors_only,
    is_float32,
    loop_form,
    narrow_form,
    results_allow,
)
from graphopt.passes.precision.narrow_format import NarrowFormat
from graphopt.passes.precision.sources import names_a_type, narrow_attributes


def forced_form(node: Node, form: NarrowFormat, max_opset: int | None) -> NarrowForm | str:
    """The node's form in 16 bits, or why it has none.

    Operators that rules keep may have results of types that don't follow from their operands, so inference is asked about a
    copy of the node.
    """
    limit = "" if max_opset is None else f" up to opset {max_opset}"
    missing = f"{node.qualified_op} has no form in {form}{limit} with these operands"
    if node.domain:
        return f"nothing is known of operators of domain {node.domain}"
    if node.op == "If":
        return branch_form(node)
    if has_trait(node, LOOP):
        return loop_form(node)
    if not has_tensors_only(node):
        return "the elements of sequences, optionals and maps stay in float32"
    found = narrow_form(node, form.dtype, max_opset)
    if found is None and not names_a_type(node):
        return missing
    operands = found.operands if found is not None else frozenset[int]()
    try:
        types = _result_types(node, form, operands)
    except GraphOptError as e:
        return f"{missing}: {e.message}"
    results = set()
    for i, (value, dtype) in enumerate(zip(node.outputs, types, strict=True)):
        if is_float32(value) and dtype is not DType.f32:
            if dtype is not form.dtype or not results_allow(node, form.dtype, max_opset, i):
                return missing
            results.add(i)
    return NarrowForm(operands, frozenset(results)) if operands or results else missing


def _result_types(node: Node, form: NarrowFormat, operands: frozenset[int]) -> list[DType | None]:
    """Element types of the results of a copy of the node, some operands of which are in 16 bits."""
    assert node.graph is not None
    root = node.graph.root
    trial = Graph(
        "trial", opset=root.opset, symbols=dict(root.symbols), symbol_counts=dict(root.symbol_counts),
        domains=dict(root.domains),
    )  # fmt: skip
    copies: dict[tuple[Value, bool], Value] = {}
    for i, value in enumerate(node.inputs):
        if value is not None:
            narrow = i in operands
            copies.setdefault((value, narrow), _copy(value, form, narrow=narrow))
    inputs = [None if v is None else copies[v, i in operands] for i, v in enumerate(node.inputs)]
    outputs = [None if v is None else Value(v.name) for v in node.outputs]
    changed = narrow_attributes(node, form) if any(is_float32(v) for v in node.outputs) else {}
    Editor(trial, infer_node).node(node.op, inputs, {**node.attrs, **changed}, outputs=outputs, name=node.name)
    return [v.type.dtype if v is not None and isinstance(v.type, TensorType) else None for v in outputs]


def _copy(value: Value, form: NarrowFormat, *, narrow: bool) -> Value:
    copy = Value(value.name, value.type, data=value.data, content=value.content)
    if narrow:
        assert isinstance(value.type, TensorType)
        copy.type = TensorType(form.dtype, value.type.shape)
        copy.data = None if value.data is None else form.narrow(value.data)
    return copy
