"""ONNX's own checker, run on a copy of the model without its weights."""

from __future__ import annotations

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from graphopt.errors import ModelError
from graphopt.ir.deviations import Deviation
from graphopt.ir.onnx_repair import complete_types

SMALL = 1024
"""Initializers of at most this many bytes are checked with their data."""


def check(proto: ModelProto, source: str, *, strict: bool = False) -> list[Deviation]:
    """Run ``onnx.checker`` on the structure of a model; what it would refuse but can be inferred, unless ``strict``.

    The checker serialises what it is given, which takes seconds and fails beyond 2 GiB, so large tensors are replaced
    by empty ones; whether their data fits their shape shows when they are decoded, and external data is checked where
    it is mapped.

    Raises:
        ModelError: the model breaks a rule of the ONNX specification.
    """
    stub = ModelProto()
    for field, value in proto.ListFields():
        if field.name != "graph":
            _copy_field(stub, field.name, value)
    _copy_graph(proto.graph, stub.graph)
    _replace_deprecated(stub.graph)
    deviations = [] if strict else complete_types(stub.graph)
    try:
        onnx.checker.check_model(stub)
    except onnx.checker.ValidationError as e:
        lines = [line for line in str(e).splitlines() if line.strip()]
        raise ModelError(
            f"{source} is not a valid ONNX model: {lines[0] if lines else 'no reason given'}",
            code="checker-failed",
            notes=lines[1:6],
            hint="export the model again; onnx.checker.check_model gives the same message",
        ) from e
    except (RuntimeError, ValueError) as e:
        raise ModelError(f"{source} can't be checked: {e}", code="checker-failed", hint="export the model again") from e
    return deviations


def _copy_field(target: ModelProto | GraphProto | NodeProto, name: str, value: object) -> None:
    field = getattr(target, name)
    if hasattr(field, "extend"):
        field.extend(value)
    elif hasattr(field, "CopyFrom"):
        field.CopyFrom(value)
    else:
        setattr(target, name, value)


def _copy_graph(graph: GraphProto, stub: GraphProto) -> None:
    for field, value in graph.ListFields():
        if field.name == "initializer":
            for tensor in graph.initializer:
                _copy_tensor(tensor, stub.initializer.add())
        elif field.name == "node":
            for node in graph.node:
                _copy_node(node, stub.node.add())
        else:
            _copy_field(stub, field.name, value)


def _copy_node(node: NodeProto, stub: NodeProto) -> None:
    for field, value in node.ListFields():
        if field.name != "attribute":
            _copy_field(stub, field.name, value)
    for attr in node.attribute:
        copy = stub.attribute.add()
        if attr.type == AttributeProto.GRAPH:
            copy.name, copy.type = attr.name, attr.type
            _copy_graph(attr.g, copy.g)
        elif attr.type == AttributeProto.TENSOR:
            copy.name, copy.type = attr.name, attr.type
            _copy_tensor(attr.t, copy.t)
        else:
            copy.CopyFrom(attr)


def _copy_tensor(tensor: TensorProto, stub: TensorProto) -> None:
    external = tensor.data_location == TensorProto.EXTERNAL
    if (
        not external
        and len(tensor.raw_data) <= SMALL
        and not any(
            len(data) > SMALL for data in (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data)
        )
    ):
        stub.CopyFrom(tensor)
        return
    stub.name, stub.data_type = tensor.name, tensor.data_type
    stub.dims[:] = [0]
    stub.raw_data = b""


def _replace_deprecated(graph: GraphProto) -> None:
    """GroupNormalization of opset 18 is well defined (and upgraded on import) but refused by the checker as
    deprecated."""
    for node in graph.node:
        if node.op_type == "GroupNormalization" and node.domain in ("", "ai.onnx"):
            node.op_type = "InstanceNormalization"
            kept = [a for a in node.attribute if a.name == "epsilon"]
            del node.attribute[:]
            node.attribute.extend(kept)
        for attr in node.attribute:
            if attr.type == AttributeProto.GRAPH:
                _replace_deprecated(attr.g)
