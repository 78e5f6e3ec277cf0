"""ONNX in and out through onnx-graphsurgeon, which only this file imports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_graphsurgeon.logger as gs_logger
from onnx import ModelProto, TypeProto, ValueInfoProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphopt.errors import ModelError, UnsupportedOpError
from graphopt.ir.atoms import TEXT_LIMIT, SymbolKind
from graphopt.ir.dims import Dim, SymExpr, as_symbol, symbol
from graphopt.ir.dtypes import DType
from graphopt.ir.export_opset import EXPORT_OPSET_FLOOR, export_opset
from graphopt.ir.graph import Array, Graph, Node, Use, Value
from graphopt.ir.onnx_load import LoadedModel, graphs_of, opset_of
from graphopt.ir.types import OpaqueType, TensorType, Type

gs_logger.G_LOGGER.severity = gs_logger.G_LOGGER.ERROR  # its warnings go to stdout; what matters is checked here


def graph_from_onnx(model: LoadedModel) -> Graph:
    """Build the IR graph of a checked model: constants become values, types are set on inputs only.

    Raises:
        ModelError: a tensor can't be decoded, or a name is used but never defined.
    """
    proto = model.proto
    return _Importer(model).graph(gs.import_onnx(proto), proto.graph, {}, None)


class _Importer:
    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.opset = opset_of(model.proto) or EXPORT_OPSET_FLOOR  # none: no node of ai.onnx either
        self.arrays: dict[int, Value] = {}
        self.root: Graph | None = None

    def graph(self, src: Any, proto: onnx.GraphProto, outer: Mapping[str, Value], parent: Graph | None) -> Graph:
        graph = Graph(
            proto.name or "main", opset=self.opset, parent=parent, source=self.model.source, doc=proto.doc_string
        )
        if parent is None:
            graph.metadata = {p.key: p.value for p in self.model.proto.metadata_props}
            graph.domains = {o.domain: o.version for o in self.model.proto.opset_import if o.domain}
            graph.deviations = list(self.model.deviations)
            for name in _dimension_names(proto):
                graph.reserve_symbol(name)
        declared = {v.name: v for v in (*proto.value_info, *proto.output)}
        self.root = self.root or graph
        scope: dict[str, Value] = dict(outer)
        constants = {t.name for t in proto.initializer}
        for info in proto.input:
            if info.name in constants:
                continue
            value = self._new(info.name, value_type(info, graph))
            graph.inputs.append(value)
            scope[info.name] = value
        protos = {id(n): p for n, p in zip(src.nodes, proto.node)}
        for node in src.nodes:
            self._node(node, protos[id(node)], graph, scope)
            _note_rank(graph, declared)
        for tensor in src.outputs:
            out = self._operand(tensor, scope, None)
            if out is None or tensor.name == "":
                raise ModelError(
                    f"{self.model.source}: graph output {tensor.name!r} is never computed", hint="check the export"
                )
            graph.outputs.append(out)
            out.escapes += 1
        return graph

    def _new(self, name: str, type_: Type | None = None) -> Value:
        assert self.root is not None
        return Value(self.root.fresh_name(name), type_)

    def _operand(self, tensor: Any, scope: dict[str, Value], node: str | None) -> Value | None:
        if tensor.name == "" and not isinstance(tensor, gs.Constant):
            return None
        if tensor.name in scope:
            return scope[tensor.name]
        if not isinstance(tensor, gs.Constant):
            raise ModelError(f"value {tensor.name!r} is used but never defined", node=node, hint="check the export")
        value = self._constant(tensor, node)
        scope[tensor.name] = value
        return value

    def _constant(self, tensor: Any, node: str | None) -> Value:
        cached = self.arrays.get(id(tensor))
        if cached is not None:
            return cached
        array = self._array(tensor, node)
        value = self._new(tensor.name or "const", TensorType(_dtype_of(array), tuple(int(d) for d in array.shape)))
        value.data = array
        self.arrays[id(tensor)] = value
        self._keep.append(tensor)
        return value

    @property
    def _keep(self) -> list[Any]:
        # ids are only unique while their objects live
        return self.__dict__.setdefault("_kept", [])  # type: ignore[no-any-return]

    def _array(self, tensor: Any, node: str | None) -> Array:
        if tensor.name in self.model.external:
            return self.model.external[tensor.name]
        try:
            return np.asarray(tensor.values)
        except (ValueError, TypeError, KeyError, RuntimeError) as e:
            raise ModelError(
                f"{self.model.source}: tensor {tensor.name!r} can't be decoded: {e}",
                node=node,
                hint="its declared shape and its data disagree; export the model again",
            ) from e

    def _node(self, src: Any, proto: onnx.NodeProto, graph: Graph, scope: dict[str, Value]) -> None:
        assert self.root is not None
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        fallback = next((o for o in proto.output if o), "node")
        label = f"{proto.name or fallback} ({proto.op_type})"
        if proto.op_type == "Constant" and not domain:
            scope[proto.output[0]] = self._constant_node(src, proto, label)
            return
        node = Node(proto.op_type, [], [], {}, domain=domain, graph=graph)
        node.name = self.root.fresh_node_name(proto.name or fallback)
        node.origins = (proto.name or fallback,)
        for i, tensor in enumerate(src.inputs):
            value = self._operand(tensor, scope, label)
            node.inputs.append(value)
            if value is not None:
                value.uses[Use(node, i)] = None
        while node.inputs and node.inputs[-1] is None:
            node.inputs.pop()
        attr_protos = {a.name: a for a in proto.attribute}
        for key, attr in src.attrs.items():
            if isinstance(attr, gs.Graph):
                attr = self.graph(attr, attr_protos[key].g, scope, graph)
            elif isinstance(attr, gs.Constant):
                attr = self._array(attr, label)
            node.attrs[key] = attr
        for name in proto.output:
            if not name:
                node.outputs.append(None)
                continue
            value = self._new(name)
            value.producer = node
            node.outputs.append(value)
            scope[name] = value
        while node.outputs and node.outputs[-1] is None:
            node.outputs.pop()
        node.at = len(graph.nodes)
        graph.nodes.append(node)

    def _constant_node(self, src: Any, proto: onnx.NodeProto, label: str) -> Value:
        key, attr = next(iter(src.attrs.items()), ("", None))
        if isinstance(attr, gs.Constant):
            array = self._array(attr, label)
        elif key in ("value_float", "value_floats"):
            array = np.asarray(attr, np.float32)
        elif key in ("value_int", "value_ints"):
            array = np.asarray(attr, np.int64)
        elif key in ("value_string", "value_strings"):
            array = np.asarray(attr, object)
        else:
            raise UnsupportedOpError(f"Constant without a usable value ({key or 'no attribute'})", node=label)
        value = self._new(proto.output[0], TensorType(_dtype_of(array), tuple(int(d) for d in array.shape)))
        value.data = array
        return value


def _note_rank(graph: Graph, declared: Mapping[str, ValueInfoProto]) -> None:
    """Keep the dimensions declared for the result of a Squeeze that names no axes: they may be all that tells them."""
    node = graph.nodes[-1] if graph.nodes else None
    if node is None or node.op != "Squeeze" or node.domain or len(node.inputs) > 1 or "axes" in node.attrs:
        return
    for value in node.outputs:
        info = declared.get(value.name) if value is not None else None
        if value is not None and info is not None and info.type.tensor_type.HasField("shape"):
            dims = info.type.tensor_type.shape.dim
            graph.root.declared[value] = tuple(
                d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims
            )


def _dtype_of(array: Array) -> DType:
    return DType.from_numpy(array.dtype)


_UNNAMED = ("", "?", "None", "unk")
"""What exporters write for a dimension without a name."""


def _dimension_names(proto: onnx.GraphProto) -> list[str]:
    """The model's names of its inputs' dimensions, in subgraphs too: no symbol made later may be called so."""
    types = [v.type.tensor_type for g in graphs_of(proto) for v in g.input]
    return [d.dim_param for t in types for d in t.shape.dim if d.dim_param not in _UNNAMED]


def value_type(info: ValueInfoProto, graph: Graph) -> Type:
    """The type declared for a graph input; unnamed dimensions get fresh symbols."""
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        return OpaqueType(kind or "untyped")
    tensor: TypeProto.Tensor = info.type.tensor_type
    dtype = DType.from_onnx(tensor.elem_type)
    if not tensor.HasField("shape"):
        return TensorType(dtype, None)
    dims: list[Dim] = []
    for d in tensor.shape.dim:
        which = d.WhichOneof("value")
        if which == "dim_value" and d.dim_value >= 0:
            dims.append(int(d.dim_value))
        elif which == "dim_param" and d.dim_param not in _UNNAMED:
            dims.append(symbol(d.dim_param))
        else:
            dims.append(graph.fresh_symbol("d", SymbolKind.unnamed))
    return TensorType(dtype, tuple(dims))


# -- export -----------------------------------------------------------------------------------------------------
def graph_to_onnx(graph: Graph) -> ModelProto:
    """Plain ONNX of the graph, in the oldest opset that has every node's form (at least 18 and the model's own).

    Raises:
        ModelError: the graph holds an operator that ONNX has no schema for.
    """
    exported = _Exporter(graph).graph(graph)
    domains = {n.domain for n in graph.walk()}
    opsets = [onnx.helper.make_opsetid("", export_opset(graph))]
    opsets += [onnx.helper.make_opsetid(d, graph.domains.get(d, 1)) for d in sorted(domains - {""})]
    model = gs.export_onnx(exported, do_type_check=False, opset_imports=opsets)
    model.ir_version = min(onnx.IR_VERSION, onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True))
    model.producer_name = "graphopt"
    model.producer_version = ""
    for key, value in graph.metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    exported_model: ModelProto = model
    return exported_model


class _Exporter:
    def __init__(self, root: Graph) -> None:
        self.tensors: dict[Value, Any] = {}
        self.names, self.node_names, self.symbols = root.names.copy(), root.node_names.copy(), root.symbols

    def graph(self, graph: Graph) -> Any:
        nodes = [self.node(n) for n in graph.nodes]
        inputs = [self.tensor(v) for v in graph.inputs]
        outputs = [self.tensor(v) for v in graph.outputs]
        for i, value in enumerate(graph.outputs):
            if value.is_const or value.producer is None or value.producer.graph is not graph:
                # ONNX wants an output to be made by a node of its own graph
                # every output's name is its own: a value that leaves twice was renamed where it left first
                own = value.producer or value in graph.inputs
                out = gs.Variable(self.names.fresh(f"{value.name}__out{i}") if own else value.name)
                source = self.tensor(value)
                if value.data is not None:
                    source = _constant(self.names.fresh(f"{value.name}__const"), value.data)
                out.dtype, out.shape = self.type(value.type)
                name = self.node_names.fresh(f"{value.name}__identity")
                nodes.append(gs.Node("Identity", name=name, inputs=[source], outputs=[out]))
                outputs[i] = out
        return gs.Graph(nodes=nodes, inputs=inputs, outputs=outputs, name=graph.name, doc_string=graph.doc)

    def node(self, node: Node) -> Any:
        attrs: dict[str, Any] = {}
        for key, attr in node.attrs.items():
            if isinstance(attr, Graph):
                attr = self.graph(attr)
            elif isinstance(attr, np.ndarray):
                attr = _constant(f"{node.name}_{key}", attr)
            attrs[key] = attr
        empty = gs.Variable("")
        return gs.Node(
            node.op,
            name=node.name,
            attrs=attrs,
            inputs=[empty if v is None else self.tensor(v) for v in node.inputs],
            outputs=[gs.Variable("") if v is None else self.tensor(v) for v in node.outputs],
            domain=node.domain or None,
        )

    def tensor(self, value: Value) -> Any:
        if value not in self.tensors:
            if value.data is not None:
                self.tensors[value] = _constant(value.name, value.data)
            else:
                dtype, shape = self.type(value.type)
                self.tensors[value] = gs.Variable(value.name, dtype, shape)
        return self.tensors[value]

    def type(self, type_: Type | None) -> tuple[Any, Any]:
        """Element type and shape as graphsurgeon takes them."""
        if not isinstance(type_, TensorType) or type_.dtype is DType.other:
            return None, None
        shape = None if type_.shape is None else [d if isinstance(d, int) else self.extent(d) for d in type_.shape]
        return type_.dtype.onnx, shape  # the code, because graphsurgeon takes float8_e4m3fnuz for float8_e4m3fn

    def extent(self, dim: SymExpr) -> str:
        """The name of a dimension: equal names mean equal extents, so an expression may not be called as a symbol is."""
        name = as_symbol(dim)
        if name is not None:
            return name
        text = str(dim)
        return text if dim.size <= TEXT_LIMIT and text not in self.symbols else ""


class _Encoded(LazyValues):  # type: ignore[misc]
    """A tensor that graphsurgeon hands through as it is; its own encoder fails below 8 bits and mixes up fp8 types."""

    def __init__(self, tensor: onnx.TensorProto) -> None:
        self.tensor = tensor
        self.shape = tuple(tensor.dims)
        self.dtype = tensor.data_type
        self.nbytes = len(tensor.raw_data)


def _constant(name: str, array: Array) -> Any:
    plain = np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray makes scalars 1-D
    return gs.Constant(name, _Encoded(onnx.numpy_helper.from_array(plain, name)))
