"""Mutated ONNX files: edits of bytes, and edits of the message that leave it well-formed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from tests.fuzz.seeds import seed_models

Draw = Callable[[st.SearchStrategy[Any]], Any]

INTEGERS = st.one_of(
    st.integers(-3, 9),
    st.sampled_from(
        [16, 1000, 65536, 1 << 31, -(1 << 31), (1 << 31) - 1, 1 << 34, 1 << 40, 1 << 61, (1 << 63) - 1, -(1 << 63)]
    ),
)
REALS = st.sampled_from([0.0, -1.0, 0.5, 1e-30, 3e38, float("inf"), float("-inf"), float("nan")])
TEXTS = st.one_of(
    st.sampled_from(["", "y", "x", "NOTSET", "SAME_UPPER", "reflect", "linear", "é", "a\0b", "../x", "bi"]),
    st.text(max_size=4),
)
TYPES = st.one_of(st.integers(0, 30), st.sampled_from([1, 7, 6, 9, 11, 8, 65536, -1]))
_OPERATORS = """
    Add Abs Cast Conv ConvTranspose Concat Expand Gather GatherND Gemm If LSTM Loop MatMul MaxPool Mul Neg NonZero OneHot Pad Range
    Relu ReduceMean Reshape Resize Scan ScatterND Shape Slice Softmax Split Squeeze Tile TopK Transpose Unsqueeze Where Foo
"""
OPERATORS = st.sampled_from(_OPERATORS.split())


@st.composite
def mutated_models(draw: Draw) -> bytes:
    """A file that may or may not be a model still."""
    blob: bytes = draw(st.sampled_from(seed_models()))
    if draw(st.integers(0, 3)) == 0:
        return edited_bytes(draw, blob)
    proto = ModelProto.FromString(blob)
    for _ in range(draw(st.integers(1, 3))):
        graphs = list(_graphs(proto.graph))
        graph = graphs[draw(st.integers(0, len(graphs) - 1))]
        draw(st.sampled_from(MUTATIONS))(draw, proto, graph)
    return proto.SerializeToString()


def edited_bytes(draw: Draw, blob: bytes) -> bytes:
    """Bytes changed, inserted, removed or repeated."""
    data = bytearray(blob)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == 1:
            data[at:at] = draw(st.binary(min_size=1, max_size=4))
        elif kind == 2:
            del data[at : at + draw(st.integers(1, 8))]
        elif kind == 3:
            data[at:at] = data[at : at + draw(st.integers(1, 32))]
        else:
            del data[at:]
    return bytes(data)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attr in node.attribute:
            if attr.type == AttributeProto.GRAPH:
                yield from _graphs(attr.g)


def _one(draw: Draw, items: Any) -> Any:
    """One of a repeated field, None if it is empty."""
    return items[draw(st.integers(0, len(items) - 1))] if len(items) else None


def _names(graph: GraphProto) -> list[str]:
    found = [v.name for v in (*graph.input, *graph.output)] + [t.name for t in graph.initializer]
    return ["", "nowhere", *dict.fromkeys(found + [o for n in graph.node for o in n.output])]


# -- mutations: each changes one thing, or nothing where there is none of it ------------------------------------------
def attribute(draw: Draw, proto: ModelProto, graph: GraphProto) -> None:
    """Another value, another length, another type, or gone."""
    node: NodeProto | None = _one(draw, graph.node)
    attr: AttributeProto | None = _one(draw, node.attribute) if node is not None else None
    if node is None or attr is None:
        return
    kind = draw(st.integers(0, 9))
    if kind == 0:
        node.attribute.remove(attr)
    elif kind == 1:
        attr.type = draw(st.sampled_from(AttributeProto.AttributeType.values()))
    elif kind == 2:
        attr.name = draw(TEXTS)
    elif attr.type == AttributeProto.INT:
        attr.i = draw(INTEGERS)
    elif attr.type == AttributeProto.FLOAT:
        attr.f = draw(REALS)
    elif attr.type == AttributeProto.STRING:
        attr.s = draw(TEXTS).encode()
    elif attr.type == AttributeProto.INTS:
        _list(draw, attr.ints, INTEGERS)
    elif attr.type == AttributeProto.FLOATS:
        _list(draw, attr.floats, REALS)
    elif attr.type == AttributeProto.STRINGS:
        _list(draw, attr.strings, TEXTS.map(str.encode))
    elif attr.type == AttributeProto.TENSOR:
        tensor(draw, attr.t)


def _list(draw: Draw, items: Any, values: st.SearchStrategy[Any]) -> None:
    if len(items) and draw(st.booleans()):
        items[draw(st.integers(0, len(items) - 1))] = draw(values)
    elif len(items) and draw(st.booleans()):
        items.pop()
    else:
        items.append(draw(values))


def tensor(draw: Draw, t: TensorProto) -> None:
    """Dimensions, type, data or place of a constant."""
    kind = draw(st.integers(0, 6))
    if kind == 0:
        _list(draw, t.dims, INTEGERS)
    elif kind == 1:
        t.data_type = draw(TYPES)
    elif kind == 2:
        t.raw_data = t.raw_data[: draw(st.integers(0, 8))]
    elif kind == 3:
        t.data_location = TensorProto.EXTERNAL
        t.external_data.add(key="location", value=draw(TEXTS))
    elif kind == 4:
        t.float_data.append(draw(REALS))
    elif t.data_type in (TensorProto.INT64, TensorProto.INT32) and t.raw_data:
        width = 8 if t.data_type == TensorProto.INT64 else 4
        at = draw(st.integers(0, max(len(t.raw_data) // width - 1, 0))) * width
        value = draw(INTEGERS) % (1 << (8 * width))
        t.raw_data = t.raw_data[:at] + value.to_bytes(width, "little") + t.raw_data[at + width :]
    elif len(t.int64_data):
        t.int64_data[draw(st.integers(0, len(t.int64_data) - 1))] = draw(INTEGERS)


def initializer(draw: Draw, proto: ModelProto, graph: GraphProto) -> None:
    """Changed, repeated, removed, or made an input."""
    found: TensorProto | None = _one(draw, graph.initializer)
    if found is None:
        return
    kind = draw(st.integers(0, 6))
    if kind == 0:
        graph.initializer.append(found)
    elif kind == 1:
        graph.initializer.remove(found)
    elif kind == 2:
        info = graph.input.add(name=found.name)
        info.type.tensor_type.elem_type = found.data_type
        for d in found.dims:
            info.type.tensor_type.shape.dim.add(dim_value=d)
    else:
        tensor(draw, found)


def information(draw: Draw, proto: ModelProto, graph: GraphProto) -> None:
    """Type or shape of an input or output."""
    info: ValueInfoProto | None = _one(draw, [*graph.input, *graph.output])
    if info is None:
        return
    kind, type_ = draw(st.integers(0, 6)), info.type.tensor_type
    if kind == 0:
        info.ClearField("type")
    elif kind == 1:
        type_.elem_type = draw(TYPES)
    elif kind == 2:
        type_.ClearField("shape")
    elif kind == 3:
        type_.shape.dim.add(dim_value=draw(INTEGERS))
    elif kind == 4 and len(type_.shape.dim):
        type_.shape.dim.pop()
    elif len(type_.shape.dim):
        dim = type_.shape.dim[draw(st.integers(0, len(type_.shape.dim) - 1))]
        if draw(st.booleans()):
            dim.dim_value = draw(INTEGERS)
        else:
            dim.dim_param = draw(st.sampled_from(["N", "u0", "v0", "d0", "", "?", "N+1", "é"]))


def edge(draw: Draw, proto: ModelProto, graph: GraphProto) -> None:
    """An operand or result of another name, one more or one less."""
    node: NodeProto | None = _one(draw, graph.node)
    if node is None:
        return
    names = st.sampled_from(_names(graph))
    side = node.input if draw(st.integers(0, 3)) else node.output
    _list(draw, side, names)


def name(draw: Draw, proto: ModelProto, graph: GraphProto) -> None:
    """Another name of anything that has one."""
    things: list[Any] = [*graph.node, *graph.input, *graph.output, *graph.initializer, graph]
    _one(draw, things).name = draw(st.one_of(TEXTS, st.sampled_from(_names(graph))))


def operator(draw: Draw, proto: ModelProto, graph: GraphProto) -> None:
    """Another operator, or one of another domain."""
    node: NodeProto | None = _one(draw, graph.node)
    if node is None:
        return
    if draw(st.integers(0, 3)):
        node.op_type = draw(OPERATORS)
    else:
        node.domain = draw(st.sampled_from(["", "ai.onnx", "ai.onnx.ml", "com.example"]))


def nodes(draw: Draw, proto: ModelProto, graph: GraphProto) -> None:
    """Removed, repeated or in another order."""
    node: NodeProto | None = _one(draw, graph.node)
    kind = draw(st.integers(0, 2))
    if node is None:
        return
    copy = NodeProto()
    copy.CopyFrom(node)
    if kind < 2:
        graph.node.remove(node)
    if kind > 0:
        graph.node.append(copy)


def version(draw: Draw, proto: ModelProto, graph: GraphProto) -> None:
    """Another opset or IR version."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        proto.ir_version = draw(st.integers(-1, 20))
    elif kind == 1:
        proto.opset_import.add(
            domain=draw(st.sampled_from(["", "ai.onnx", "ai.onnx.ml"])), version=draw(st.integers(0, 30))
        )
    elif len(proto.opset_import):
        proto.opset_import[0].version = draw(st.one_of(st.integers(1, 30), INTEGERS))


MUTATIONS = (
    attribute,
    attribute,
    initializer,
    initializer,
    information,
    information,
    edge,
    edge,
    name,
    operator,
    nodes,
    version,
)
