"""Models that break a rule of the specification in a way that leaves no doubt about their meaning.

Runtimes load such models, so exporters get away with writing them. Each rule here covers one kind, changes the message to
what the specification asks for, and says so; where two readings are possible nothing is changed, and the checker refuses.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped, unused-ignore]
from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped, unused-ignore]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from graphopt.ir.deviations import Deviation

_INITIALIZERS_ALONE = 4
"""The first IR version in which an initializer need not be an input too."""
_TYPED_DATA = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_ATTRIBUTE_FIELDS = {
    "f": AttributeProto.FLOAT, "i": AttributeProto.INT, "s": AttributeProto.STRING, "t": AttributeProto.TENSOR,
    "g": AttributeProto.GRAPH, "floats": AttributeProto.FLOATS, "ints": AttributeProto.INTS,
    "strings": AttributeProto.STRINGS, "tp": AttributeProto.TYPE_PROTO,
}  # fmt: skip


def repair(proto: ModelProto) -> list[Deviation]:
    """Change the model, in place, to what the specification asks for where that is plain. What was changed, in order."""
    return [*_opset_imports(proto), *_ir_version(proto), *_metadata(proto), *_graph(proto.graph, proto)]


def complete_types(graph: GraphProto) -> list[Deviation]:
    """Give inputs and outputs without a type or shape one that satisfies the checker; for a copy that is only checked.

    An output's type follows from the graph. An input without a shape can be anything until ``--shape`` says more.
    """
    made = {o for node in graph.node for o in node.output}
    found = []
    for info in graph.output:
        tensor = info.type.tensor_type
        if info.type.WhichOneof("value") is None:
            if info.name not in made:
                continue  # nothing would tell it
            tensor.elem_type = TensorProto.FLOAT
            found.append(Deviation("untyped-output", f"output {info.name!r}", "no type is declared; it is inferred"))
        elif _lacks_shape(info):
            found.append(Deviation("unshaped-output", f"output {info.name!r}", "no shape is declared; it is inferred"))
        else:
            continue
        tensor.shape.SetInParent()
    for info in graph.input:
        if _lacks_shape(info):
            info.type.tensor_type.shape.SetInParent()
            found.append(
                Deviation("unshaped-input", f"input {info.name!r}", "no shape is declared, so no rank is known")
            )
    return found


def _lacks_shape(info: ValueInfoProto) -> bool:
    return info.type.WhichOneof("value") == "tensor_type" and not info.type.tensor_type.HasField("shape")


# -- the model ------------------------------------------------------------------------------------------------------
def _opset_imports(proto: ModelProto) -> Iterator[Deviation]:
    """ai.onnx under both of its names, or imported more than once."""
    versions = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    if len(versions) < 2 and all(o.domain != "ai.onnx" for o in proto.opset_import):
        return
    if len(set(versions)) > 1 and not _mean_the_same(proto.graph, set(versions)):
        return
    rest = [(o.domain, o.version) for o in proto.opset_import if o.domain not in ("", "ai.onnx")]
    del proto.opset_import[:]
    proto.opset_import.extend(onnx.helper.make_opsetid(d, v) for d, v in [("", max(versions)), *rest])
    if len(versions) > 1:
        shown = ", ".join(map(str, versions))
        yield Deviation(
            "repeated-opset", "ai.onnx", f"imported {len(versions)} times (opset {shown}); taken for {max(versions)}"
        )


def _mean_the_same(graph: GraphProto, versions: set[int]) -> bool:
    """Whether every operator of the graph has one form in all these opsets."""
    try:
        return all(
            len({onnx.defs.get_schema(node.op_type, v).since_version for v in versions}) == 1
            for g in _graphs(graph)
            for node in g.node
            if node.domain in ("", "ai.onnx")
        )
    except (onnx.defs.SchemaError, TypeError):  # no such opset; a number that no opset can have
        return False


def _ir_version(proto: ModelProto) -> Iterator[Deviation]:
    given = proto.ir_version
    if given > onnx.IR_VERSION:
        if _has_unknown_fields(proto):
            return  # something that this release of onnx can't read would be lost
        proto.ir_version = onnx.IR_VERSION
        yield Deviation(
            "newer-ir",
            f"IR version {given}",
            f"newer than the onnx package knows; nothing in it is unknown to {onnx.IR_VERSION}",
        )
        return
    inputs = {v.name for v in proto.graph.input}
    alone = [t.name for t in proto.graph.initializer if t.name not in inputs]
    if 0 < given < _INITIALIZERS_ALONE and (alone or (given < 3 and proto.opset_import)):
        proto.ir_version = _INITIALIZERS_ALONE
        what = f"{len(alone)} initializers are no inputs ({alone[0]!r})" if alone else "it imports operator sets"
        yield Deviation("older-ir", f"IR version {given}", f"{what}, as in IR version {_INITIALIZERS_ALONE}")


def _has_unknown_fields(message: Message) -> bool:
    if len(UnknownFieldSet(message)):
        return True
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            items = [value] if isinstance(value, Message) else value
            if any(_has_unknown_fields(item) for item in items):
                return True
    return False


def _metadata(proto: ModelProto) -> Iterator[Deviation]:
    entries = {p.key: p.value for p in proto.metadata_props}
    if len(entries) < len(proto.metadata_props):
        repeated = [key for key, n in Counter(p.key for p in proto.metadata_props).items() if n > 1]
        del proto.metadata_props[:]
        for key, value in entries.items():
            proto.metadata_props.add(key=key, value=value)
        yield Deviation("repeated-metadata", ", ".join(repeated), "given more than once; the last one is kept")


# -- graphs ---------------------------------------------------------------------------------------------------------
def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attr in node.attribute:
            if attr.HasField("g"):
                yield from _graphs(attr.g)


def _graph(graph: GraphProto, proto: ModelProto) -> Iterator[Deviation]:
    for g in _graphs(graph):
        if not g.name:
            g.name = "main"
            yield Deviation("unnamed-graph", "graph", "it has no name")
        yield from _repeated_initializers(g)
        yield from _repeated_inputs(g)
        for tensor in g.initializer:
            yield from _tensor(tensor)
        for node in g.node:
            yield from _node(node, proto)
    for function in proto.functions:
        for node in function.node:
            yield from _node(node, proto)


def _repeated_initializers(graph: GraphProto) -> Iterator[Deviation]:
    """The same tensor twice under one name; two different ones are left to the checker."""
    counts = Counter(t.name for t in graph.initializer)
    if len(counts) == len(graph.initializer):
        return
    kept: dict[str, TensorProto] = {}
    drop = []
    for i, tensor in enumerate(graph.initializer):
        if counts[tensor.name] == 1:
            continue
        first = kept.setdefault(tensor.name, tensor)
        if first is not tensor and first.SerializeToString(deterministic=True) == tensor.SerializeToString(
            deterministic=True
        ):
            drop.append(i)
    for i in reversed(drop):
        name = graph.initializer[i].name
        del graph.initializer[i]
        yield Deviation(
            "repeated-initializer", f"initializer {name!r}", "given twice with the same data; one is dropped"
        )


def _repeated_inputs(graph: GraphProto) -> Iterator[Deviation]:
    """An initializer listed more than once among the inputs."""
    constants = {t.name for t in graph.initializer}
    counts = Counter(v.name for v in graph.input if v.name in constants)
    seen: set[str] = set()
    for i in range(len(graph.input) - 1, -1, -1):
        name = graph.input[i].name
        if counts[name] > 1 and name in seen:
            del graph.input[i]
            yield Deviation("repeated-input", f"initializer {name!r}", "listed more than once among the inputs")
        seen.add(name)


def _tensor(tensor: TensorProto) -> Iterator[Deviation]:
    """Data both raw and typed, where they agree; empty raw data beside typed data."""
    if not tensor.HasField("raw_data") or tensor.data_location == TensorProto.EXTERNAL:
        return
    typed = [name for name in _TYPED_DATA if len(getattr(tensor, name))]
    if not typed:
        return
    where = f"tensor {tensor.name!r}"
    if not tensor.raw_data and math.prod(tensor.dims):
        tensor.ClearField("raw_data")
        yield Deviation("empty-raw-data", where, f"its data are in {typed[0]}, beside empty raw data")
        return
    other = TensorProto()
    other.CopyFrom(tensor)
    other.ClearField("raw_data")
    raw = TensorProto()
    raw.CopyFrom(tensor)
    for name in _TYPED_DATA:
        raw.ClearField(name)
    try:
        same = np.array_equal(onnx.numpy_helper.to_array(other), onnx.numpy_helper.to_array(raw))
    except (ValueError, TypeError, KeyError, OverflowError):
        return
    if same:
        tensor.CopyFrom(raw)
        yield Deviation("repeated-data", where, f"its data are given twice, raw and in {typed[0]}, and agree")


def _node(node: NodeProto, proto: ModelProto) -> Iterator[Deviation]:
    where = f"{node.name or next(iter(node.output), '')} ({node.op_type})"
    if node.domain == "ai.onnx":
        node.domain = ""
    for attr in node.attribute:
        if attr.type == AttributeProto.UNDEFINED and not attr.ref_attr_name:
            held = [name for descriptor, _ in attr.ListFields() if (name := descriptor.name) in _ATTRIBUTE_FIELDS]
            if len(held) == 1:
                attr.type = _ATTRIBUTE_FIELDS[held[0]]
                yield Deviation("untyped-attribute", where, f"attribute {attr.name!r} has no type, but only one value")
        if attr.HasField("t"):
            yield from _tensor(attr.t)
    yield from _domain(node, where, proto)
    yield from _trailing(node, where, proto)


_OF_ONNX_RUNTIME = {"LayerNormalization": 17, "SimplifiedLayerNormalization": 1 << 30}
"""Operators that ONNX Runtime defines in ai.onnx, and the opset that has them by itself."""
_MICROSOFT = "com.microsoft"


def _domain(node: NodeProto, where: str, proto: ModelProto) -> Iterator[Deviation]:
    """What ONNX Runtime's optimiser writes under ai.onnx though that opset hasn't got it."""
    version = next((o.version for o in proto.opset_import if not o.domain), 0)
    if node.domain or version >= _OF_ONNX_RUNTIME.get(node.op_type, 0):
        return
    node.domain = _MICROSOFT
    if all(o.domain != _MICROSOFT for o in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid(_MICROSOFT, 1))
    yield Deviation("runtime-operator", where, f"ai.onnx {version} has no {node.op_type}; taken for ONNX Runtime's")


def _trailing(node: NodeProto, where: str, proto: ModelProto) -> Iterator[Deviation]:
    """Operands left out that the operator hasn't got."""
    if node.domain or not ((node.input and not node.input[-1]) or (node.output and not node.output[-1])):
        return
    version = next((o.version for o in proto.opset_import if not o.domain), 0)
    try:
        schema = onnx.defs.get_schema(node.op_type, version)
    except (onnx.defs.SchemaError, TypeError):
        return
    for names, most, what in ((node.input, schema.max_input, "inputs"), (node.output, schema.max_output, "outputs")):
        before = len(names)
        while len(names) > most and not names[-1]:
            names.pop()
        if len(names) < before:
            yield Deviation("empty-operand", where, f"{before} {what} of which the last are left out; it has {most}")
