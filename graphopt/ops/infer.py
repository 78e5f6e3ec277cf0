"""Type inference of nodes and graphs: own rules with symbolic dimensions first, the ONNX schema's rule otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import onnx
import onnx.shape_inference

from graphopt.errors import GraphOptError, ModelError, UnsupportedOpError, did_you_mean
from graphopt.ir.atoms import SymbolKind
from graphopt.ir.dims import Dim, SymExpr, as_symbol, kind_of
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import MAX_ELEMENTS, OpaqueType, TensorType, Type
from graphopt.ops.content import evaluate
from graphopt.ops.context import InferContext, known_array
from graphopt.ops.control_flow import infer_subgraphs
from graphopt.ops.operands import check_operands
from graphopt.ops.settle import settle_content, settled_type
from graphopt.ops.table import lookup

Result = TypeVar("Result")


def infer_node(node: Node, *, subgraphs_ready: bool = False) -> None:
    """Set types and contents of the node's outputs (and of values in its subgraphs).

    Raises:
        ModelError: the node contradicts the ONNX specification.
        UnsupportedOpError: no rule can tell the types.
    """
    assert node.graph is not None
    if node.subgraphs and not subgraphs_ready:
        infer_subgraphs(node, infer_graph)
    context = InferContext(node, node.graph)
    before = len(node.graph.root.symbols)
    types = _blaming(node, _output_types, context)
    for value, type_ in zip(node.outputs, types):
        if value is not None:
            kept = _keep_symbols(value.type, type_, node.graph.root.symbols, before)
            value.type = settled_type(kept, node.graph.bounds)
    for value in node.outputs:
        if value is not None and value.type is None:
            raise UnsupportedOpError(
                f"nothing is known about the types of {node.qualified_op}",
                code="unknown-op",
                node=node.label,
                hint="only ai.onnx operators are compiled; define it as a model-local function or export without it",
            )
    if not node.domain:
        _blaming(node, evaluate, context)
        for value in node.outputs:
            if value is not None:
                settle_content(value, node.graph.bounds)


def _blaming(node: Node, rule: Callable[[InferContext], Result], c: InferContext) -> Result:
    """What ``rule`` says of the node; whatever a malformed node makes it trip over is the node's fault.

    Raises:
        ModelError: the rule failed in a way that it didn't foresee.
    """
    try:
        return rule(c)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as e:
        given = ", ".join(str(v.type) if v is not None else "nothing" for v in node.inputs)
        raise ModelError(
            f"{node.op} can't be applied to ({given}) with these attributes: {type(e).__name__}: {e}",
            code="invalid-node", node=node.label, hint="the model is inconsistent; check its export",
        ) from e  # fmt: skip


def _output_types(c: InferContext) -> list[Type]:
    """The types that the operator's rule gives, or else its schema."""
    node = c.node
    info = None if node.domain else lookup(node.op)
    check_operands(c)
    types = _infer_by_schema(c) if info is None or info.infer is None else info.infer(c)
    for value, type_ in zip(node.outputs, types):
        if value is not None:
            check_extents(c, value, type_)
    return types


def check_extents(c: InferContext, value: Value, type_: Type) -> None:
    """Refuse a result that no memory holds.

    Raises:
        ModelError: a negative extent, or more elements than can be addressed.
    """
    if not isinstance(type_, TensorType) or type_.shape is None:
        return
    known = [d for d in type_.shape if isinstance(d, int)]
    if min(known, default=0) < 0:
        raise c.invalid(f"the result %{value.name} would be {type_}, with a negative extent")
    if math.prod(max(d, 1) for d in known) > MAX_ELEMENTS:
        raise c.invalid(f"the result %{value.name} would be {type_}, more elements than can be addressed")


def _keep_symbols(old: Type | None, new: Type, fresh: Mapping[str, int], before: int) -> Type:
    """Inferring a node again must not rename the unknowns that it introduced the first time."""
    if not (isinstance(old, TensorType) and isinstance(new, TensorType)) or old.shape is None or new.shape is None:
        return new
    if old.dtype is not new.dtype or len(old.shape) != len(new.shape):
        return new
    dims = [o if kind_of(n) is SymbolKind.measured and fresh.get(as_symbol(n) or "", 0) >= before else n
            for o, n in zip(old.shape, new.shape)]  # fmt: skip
    return TensorType(new.dtype, tuple(dims))


def infer_graph(graph: Graph) -> None:
    """Infer every node in order."""
    for node in graph.nodes:
        infer_node(node)


def schema_of(node: Node) -> onnx.defs.OpSchema:
    """The newest schema of the node's operator.

    Raises:
        UnsupportedOpError: unknown operator or domain.
    """
    try:
        version = node.graph.root.domains.get(node.domain) if node.domain and node.graph is not None else None
        if version is not None:  # operators of other domains stay in the form that they came in
            return onnx.defs.get_schema(node.op, version, node.domain)
        return onnx.defs.get_schema(node.op, node.domain)
    except onnx.defs.SchemaError as e:
        if node.domain:
            raise UnsupportedOpError(
                f"operator {node.op} of domain {node.domain!r} is unknown",
                code="unknown-op",
                node=node.label,
                hint="only ai.onnx operators are compiled; define it as a model-local function or export without it",
            ) from e
        known = {s.name for s in onnx.defs.get_all_schemas()}
        raise UnsupportedOpError(
            f"operator {node.op} does not exist in ai.onnx", code="unknown-op", node=node.label,
            hint=did_you_mean(node.op, known),
        ) from e  # fmt: skip


def _infer_by_schema(c: InferContext) -> list[Type]:
    node = c.node
    schema = schema_of(node)
    names = [v.name if v is not None else "" for v in node.inputs]
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for value in node.inputs:
        if value is None:
            continue
        if not isinstance(value.type, TensorType) or value.type.dtype is DType.other:
            return [OpaqueType("unknown") for _ in node.outputs]
        types[value.name] = type_proto(value.type)
        array = known_array(value)
        if array is not None and array.dtype != object and array.size <= 4096:
            data[value.name] = onnx.numpy_helper.from_array(
                np.ascontiguousarray(array).reshape(array.shape), value.name
            )
    if node.subgraphs:
        return [OpaqueType("unknown") for _ in node.outputs]
    proto = node_proto(node, names, [v.name if v is not None else "" for v in node.outputs])
    opset = onnx.helper.make_opsetid(node.domain, schema.since_version)
    try:
        found = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=[opset])
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError) as e:
        text = str(e).strip().splitlines()
        raise ModelError(
            f"shape inference rejects the node: {text[0] if text else e}", code="invalid-node", node=node.label,
            hint="the model is inconsistent; check its export",
        ) from e  # fmt: skip
    known = {_label(d): d for v in node.inputs if v is not None for d in _symbolic(v.type)}
    return [
        _from_proto(found.get(v.name), c.graph, known) if v is not None else OpaqueType("absent") for v in node.outputs
    ]


def type_proto(type_: TensorType) -> onnx.TypeProto:
    """ONNX form of a tensor type; names of dimensions tell apart what differs, and mean nothing else."""
    dims = None if type_.shape is None else [_label(d) if isinstance(d, SymExpr) else d for d in type_.shape]
    return onnx.helper.make_tensor_type_proto(type_.dtype.onnx, dims)


def _label(dim: SymExpr) -> str:
    return f"d{dim.digest.hex()}"


def _symbolic(type_: Type | None) -> list[SymExpr]:
    dims = type_.shape if isinstance(type_, TensorType) else None
    return [d for d in dims or () if isinstance(d, SymExpr)]


def node_proto(node: Node, inputs: list[str], outputs: list[str]) -> onnx.NodeProto:
    """ONNX form of a node without subgraphs."""
    proto = onnx.helper.make_node(node.op, inputs, outputs, name=node.name, domain=node.domain)
    for key, value in node.attrs.items():
        if isinstance(value, np.ndarray):
            value = onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), key)
        if not isinstance(value, Graph):
            proto.attribute.append(onnx.helper.make_attribute(key, value))
    return proto


def _from_proto(proto: onnx.TypeProto | None, graph: Graph, known: Mapping[str, SymExpr]) -> Type:
    if proto is None or proto.WhichOneof("value") != "tensor_type":
        return OpaqueType("unknown" if proto is None else str(proto.WhichOneof("value")))
    dtype = DType.from_onnx(proto.tensor_type.elem_type)
    if not proto.tensor_type.HasField("shape"):
        return TensorType(dtype, None)
    dims: list[Dim] = []
    for d in proto.tensor_type.shape.dim:
        if d.WhichOneof("value") == "dim_value":
            dims.append(int(d.dim_value))
        elif d.WhichOneof("value") == "dim_param" and d.dim_param in known:
            dims.append(known[d.dim_param])
        else:
            dims.append(graph.fresh_symbol("u", SymbolKind.measured))
    return TensorType(dtype, tuple(dims))


__all__ = ["GraphOptError", "infer_graph", "infer_node", "node_proto", "schema_of", "type_proto"]
