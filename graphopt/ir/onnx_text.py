"""Names and element types of an ONNX message, checked before anybody else reads them.

protobuf doesn't check that strings of this format are UTF-8 when it parses them, and takes any number for an element type; what
comes after would fail on them one by one, in its own words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
)

from graphopt.errors import ModelError

_TYPES = frozenset(TensorProto.DataType.values())
_HINT = "the file is damaged or was not written by an ONNX exporter; export the model again"


def check_text(proto: ModelProto, source: str) -> None:
    """Refuse a message with names that are no text, or element types that ONNX doesn't define.

    Raises:
        ModelError: it says where.
    """
    check = _Check(source)
    try:
        check.model(proto)
    except UnicodeDecodeError as error:
        raise check.no_text() from error


class _Check:
    def __init__(self, source: str) -> None:
        self.source = source
        self.place = "the model"

    def no_text(self) -> ModelError:
        """The error for a string that isn't UTF-8."""
        return ModelError(
            f"{self.source} holds a name or text that isn't UTF-8, in {self.place}", code="not-text", hint=_HINT
        )

    def texts(self, *found: object) -> None:
        if not all(isinstance(text, str) for text in found):  # protobuf hands broken text out as bytes
            raise self.no_text()

    def element_type(self, code: int, what: str) -> None:
        if code not in _TYPES:
            raise ModelError(
                f"{self.source}: {what} has the element type {code}, which ONNX doesn't define",
                code="unknown-type", hint=_HINT,
            )  # fmt: skip

    def model(self, proto: ModelProto) -> None:
        self.texts(proto.producer_name, proto.producer_version, proto.domain, proto.doc_string)
        for opset in proto.opset_import:
            self.texts(opset.domain)
        for entry in proto.metadata_props:
            self.texts(entry.key, entry.value)
        self.graph(proto.graph)
        for function in proto.functions:
            self.function(function)

    def function(self, function: FunctionProto) -> None:
        self.place = "a model-local function"
        self.texts(function.name, function.domain, function.doc_string)
        self.texts(*function.input, *function.output, *function.attribute)
        for opset in function.opset_import:
            self.texts(opset.domain)
        self.nodes(function.node)

    def graph(self, graph: GraphProto) -> None:
        self.place = "the graph"
        self.texts(graph.name, graph.doc_string)
        for info in (*graph.input, *graph.output, *graph.value_info):
            self.value(info)
        for tensor in graph.initializer:
            self.tensor(tensor)
        self.nodes(graph.node)

    def value(self, info: ValueInfoProto) -> None:
        self.place = "the description of a value"
        self.texts(info.name, info.doc_string)
        for type_ in _tensor_types(info.type):
            self.element_type(type_.elem_type, f"value {info.name!r}")
            for dim in type_.shape.dim:
                self.texts(dim.dim_param, dim.denotation)

    def tensor(self, tensor: TensorProto) -> None:
        self.place = "a tensor"
        self.texts(tensor.name, tensor.doc_string)
        for entry in tensor.external_data:
            self.texts(entry.key, entry.value)
        self.element_type(tensor.data_type, f"tensor {tensor.name!r}")

    def nodes(self, nodes: Iterable[NodeProto]) -> None:
        for node in nodes:
            self.place = "a node"
            self.texts(node.name, node.op_type, node.domain, node.doc_string)
            self.place = f"node {node.name!r} ({node.op_type})"
            self.texts(*node.input, *node.output)
            for attr in node.attribute:
                self.attribute(attr)

    def attribute(self, attr: AttributeProto) -> None:
        place = self.place
        self.texts(attr.name, attr.doc_string, attr.ref_attr_name)
        if attr.type == AttributeProto.STRING:
            attr.s.decode()
        elif attr.type == AttributeProto.STRINGS:
            for text in attr.strings:
                text.decode()
        elif attr.type == AttributeProto.TENSOR:
            self.tensor(attr.t)
        elif attr.type == AttributeProto.GRAPH:
            self.graph(attr.g)
        elif attr.type == AttributeProto.TYPE_PROTO:
            self.value(ValueInfoProto(name=attr.name, type=attr.tp))
        self.place = place


def _tensor_types(type_: TypeProto) -> Iterator[TypeProto.Tensor]:
    """The tensors in a type, also in sequences and optionals."""
    kind = type_.WhichOneof("value")
    if kind == "tensor_type":
        yield type_.tensor_type
    elif kind == "sequence_type":
        yield from _tensor_types(type_.sequence_type.elem_type)
    elif kind == "optional_type":
        yield from _tensor_types(type_.optional_type.elem_type)
