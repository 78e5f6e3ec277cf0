"""Operators that ONNX defines by a function of simpler ones: their bodies, and replacing a node by its body."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto

from graphopt.errors import UnsupportedOpError
from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import OpaqueType, TensorType
from graphopt.ops.canonicalize import canonicalize_nodes
from graphopt.ops.infer import node_proto, schema_of, type_proto

ATTRIBUTE_KINDS = {
    AttributeProto.FLOAT,
    AttributeProto.INT,
    AttributeProto.STRING,
    AttributeProto.FLOATS,
    AttributeProto.INTS,
    AttributeProto.STRINGS,
    AttributeProto.TENSOR,
}


def function_body(node: Node) -> FunctionProto | None:
    """The body of the node's operator for its input types, None when ONNX defines none.

    Of several bodies the newest is taken, because the node has the newest form.
    """
    if node.subgraphs:
        return None
    schema: Any  # the stubs of onnx lack the function interface
    try:
        schema = schema_of(node)
    except UnsupportedOpError:
        return None
    if schema.has_context_dependent_function:
        types = []
        for value in node.inputs:
            if value is None:
                types.append(onnx.TypeProto().SerializeToString())
            elif isinstance(value.type, TensorType) and value.type.dtype is not DType.other:
                types.append(type_proto(value.type).SerializeToString())
            else:
                return None
        names = [v.name if v is not None else "" for v in node.inputs]
        proto = node_proto(node, names, [v.name if v is not None else "" for v in node.outputs])
        versions = schema.context_dependent_function_opset_versions
        if not versions:
            return None
        found = schema.get_context_dependent_function_with_opset_version(
            max(versions), proto.SerializeToString(), types
        )
    elif schema.has_function:
        found = schema.get_function_with_opset_version(max(schema.function_opset_versions))
    else:
        return None
    if not found:
        return None
    body = FunctionProto()
    body.ParseFromString(found if isinstance(found, bytes) else found.SerializeToString())
    return body if body.node else None


def expand(node: Node, editor: Editor) -> list[Node]:
    """Replace a node by the nodes of its function body, upgraded to canonical form and typed.

    Args:
        node: its operator has a ``function_body``.
        editor: edits the graph of ``node``.

    Returns:
        The nodes in its place, in order; ones that are functions themselves are not expanded further.

    Raises:
        UnsupportedOpError: the operator has no function body, or the body can't be typed.
    """
    body = function_body(node)
    if body is None:
        raise UnsupportedOpError(
            f"ONNX defines no function body for {node.qualified_op}",
            node=node.label,
            hint="it needs a kernel of its own",
        )
    opset = max((o.version for o in body.opset_import if o.domain in ("", "ai.onnx")), default=editor.graph.opset)
    plain = Editor(editor.graph)
    before = {id(n) for n in editor.graph.nodes}
    scope: dict[str, Value | None] = {name: node.input(i) for i, name in enumerate(body.input)}
    scope[""] = None
    made = _Body(node, _attributes(node, body)).emit(body.node, plain, scope, node)
    for old, name in zip(node.outputs, body.output):
        if old is None:
            continue
        result = scope.get(name)
        if result is None:
            raise _incomplete(node, name)
        if old.type is not None and result.type is None:
            result.type = old.type
        if not plain.can_take_name(old, result):
            wrap = plain.node("Identity", [result], before=node, like=[node])
            made.append(wrap)
            result = wrap.out
        plain.replace(old, result)
    plain.erase(node)
    canonicalize_nodes(made, editor, opset)
    return [n for n in editor.graph.nodes if id(n) not in before]


def _incomplete(node: Node, name: str) -> UnsupportedOpError:
    """ONNX stops in the middle of a body when an attribute has a value that the operator doesn't know."""
    return UnsupportedOpError(
        f"the function body that ONNX gives for this {node.qualified_op} never computes {name!r}",
        node=node.label,
        hint="check the values of its attributes against the operator's specification",
    )


def _attributes(node: Node, body: FunctionProto) -> dict[str, Any]:
    """Attribute values that references in the body stand for: the node's own, else the defaults."""
    attrs: dict[str, Any] = {a.name: _plain(a) for a in body.attribute_proto}
    for name, spec in schema_of(node).attributes.items():
        if spec.default_value.type in ATTRIBUTE_KINDS:
            attrs.setdefault(name, _plain(spec.default_value))
    attrs.update(node.attrs)
    return attrs


class _Body:
    """Builds the nodes of one function body."""

    def __init__(self, node: Node, attrs: dict[str, Any]) -> None:
        self.node = node
        self.attrs = attrs

    def emit(
        self, protos: Iterable[NodeProto], editor: Editor, scope: dict[str, Value | None], before: Node | None
    ) -> list[Node]:
        """Nodes for ``protos`` in the graph of ``editor``; their results are added to ``scope``."""
        made: list[Node] = []
        for proto in protos:
            if proto.op_type == "Constant" and proto.domain in ("", "ai.onnx"):
                scope[proto.output[0]] = self._constant(proto, editor)
                continue
            attrs = {
                a.name: found for a in proto.attribute if (found := self._attr(a, editor.graph, scope)) is not None
            }
            if (unknown := next((name for name in proto.input if name not in scope), None)) is not None:
                raise _incomplete(self.node, unknown)
            outputs = [editor.value(f"{self.node.name}_{name}") if name else None for name in proto.output]
            new = editor.node(
                proto.op_type,
                [scope[name] for name in proto.input],
                attrs,
                outputs=outputs,
                domain="" if proto.domain == "ai.onnx" else proto.domain,
                name=f"{self.node.name}/{proto.op_type}",
                before=before,
            )
            new.origins = self.node.origins or (self.node.name,)
            scope.update(zip(proto.output, outputs))
            made.append(new)
        return made

    def _attr(self, attr: AttributeProto, graph: Graph, scope: dict[str, Value | None]) -> Any:
        if attr.ref_attr_name:
            return self.attrs.get(attr.ref_attr_name)
        return self._subgraph(attr.g, graph, scope) if attr.type == AttributeProto.GRAPH else _plain(attr)

    def _subgraph(self, proto: GraphProto, parent: Graph, outer: dict[str, Value | None]) -> Graph:
        graph = Graph(proto.name or "body", opset=parent.opset, source=parent.source, parent=parent)
        editor = Editor(graph)
        scope = dict(outer)
        for info in proto.input:
            scope[info.name] = editor.add_input(f"{self.node.name}_{info.name}", OpaqueType("untyped"))
        self.emit(proto.node, editor, scope, None)
        for i, info in enumerate(proto.output):
            value = scope[info.name]
            assert value is not None
            editor.set_output(graph, i, value)
        return graph

    def _constant(self, proto: NodeProto, editor: Editor) -> Value:
        dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        for attr in proto.attribute:
            found = self._attr(attr, editor.graph, {})
            if found is not None:
                kind = dtype.get(attr.name, object if attr.name.startswith("value_string") else None)
                return editor.constant(np.asarray(found, kind), f"{self.node.name}_{proto.output[0]}")
        raise UnsupportedOpError(
            f"the body of {self.node.op} has a constant without a value",
            node=self.node.label,
            hint="set the attributes that the operator's definition asks for",
        )


def _plain(attr: AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attr)
    if attr.type == AttributeProto.TENSOR:
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode()
    if attr.type == AttributeProto.STRINGS:
        return [v.decode() for v in value]
    return list(value) if attr.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value
