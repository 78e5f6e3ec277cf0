"""One node on given values: by ONNX Runtime as it stands, by ONNX's reference evaluator, or with float64 for all floats."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = npt.NDArray[Any]
OPSET = 23
IR_VERSION = 10
WIDENED = (np.float32, np.float16)
_WIDENED_CODES = (TensorProto.FLOAT, TensorProto.FLOAT16)


def reads(node: NodeProto) -> list[str]:
    """Names that a node takes, those that its branches capture included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            inner = attribute.g
            own = {o for n in inner.node for o in n.output} | {t.name for t in inner.initializer}
            names += [name for n in inner.node for name in reads(n) if name not in own]
    return list(dict.fromkeys(names))


def declared(name: str, array: Array, shape: Sequence[int | str] | None = None) -> onnx.ValueInfoProto:
    """The declaration of a value like ``array``."""
    code = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, code, array.shape if shape is None else shape)


def model_of_nodes(
    nodes: Iterable[NodeProto],
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[onnx.ValueInfoProto],
    constants: Mapping[str, Array],
) -> onnx.ModelProto:
    """A model of the opset that all random graphs have."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "random", list(inputs), list(outputs), tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def one_node(node: NodeProto, values: Mapping[str, Array], constants: Iterable[str]) -> onnx.ModelProto:
    """A model that is one node; those of its operands that are ``constants`` stay constants."""
    names, fixed = reads(node), set(constants)
    inputs = [declared(name, values[name]) for name in names if name not in fixed]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    return model_of_nodes([node], inputs, outputs, {name: values[name] for name in names if name in fixed})


def session_of(model: onnx.ModelProto) -> ort.InferenceSession:
    """ONNX Runtime without graph optimisation, in one thread."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def by_ort(node: NodeProto, values: Mapping[str, Array], constants: Iterable[str]) -> list[Array]:
    """A node's outputs as ONNX Runtime computes them. Raises what ONNX Runtime raises."""
    session = session_of(one_node(node, values, constants))
    feed = {item.name: values[item.name] for item in session.get_inputs()}
    return [np.asarray(array) for array in session.run(None, feed)]


def by_reference(node: NodeProto, values: Mapping[str, Array]) -> list[Array]:
    """A node's outputs as ONNX's reference evaluator computes them. Raises what it raises."""
    model = one_node(node, values, ())
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = ReferenceEvaluator(model).run(None, {name: values[name] for name in reads(node)})
    return [np.asarray(array) for array in found]


def wide_values(values: Mapping[str, Array]) -> dict[str, Array]:
    """The same with float64 for the narrower floats."""
    return {name: a.astype(np.float64) if a.dtype in WIDENED else a for name, a in values.items()}


def wide(node: NodeProto) -> NodeProto:
    """The same node with float64 for the narrower floats that its attributes name or hold."""
    copy = NodeProto()
    copy.CopyFrom(node)
    _widen(copy)
    return copy


def _widen(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype", "output_dtype") and attribute.i in _WIDENED_CODES:
            attribute.i = TensorProto.DOUBLE
        if attribute.type == AttributeProto.TENSOR and attribute.t.data_type in _WIDENED_CODES:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float64)))
        if attribute.type == AttributeProto.GRAPH:
            for inner in attribute.g.node:
                _widen(inner)
            for output in attribute.g.output:
                if output.type.tensor_type.elem_type in _WIDENED_CODES:
                    output.type.tensor_type.elem_type = TensorProto.DOUBLE
