"""Compiles small models and compares every output with ONNX's reference evaluator."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.driver.compiling import compile

Array = npt.NDArray[Any]


def node(op: str, inputs: str, outputs: str, **attrs: Any) -> onnx.NodeProto:
    """A node; names are separated by spaces, ``_`` stands for a missing one."""
    return helper.make_node(op, *(["" if n == "_" else n for n in text.split()] for text in (inputs, outputs)), **attrs)


def model_with(
    nodes: Sequence[onnx.NodeProto],
    feed: Mapping[str, Array],
    consts: Mapping[str, Array] | None = None,
    *,
    opset: int = 23,
    symbolic: bool = False,
    like: Mapping[str, Array] | None = None,
) -> onnx.ModelProto:
    """A model with every node's outputs as graph outputs.

    Args:
        nodes: in order; what they read comes from ``feed``, ``consts`` or nodes before.
        feed: example inputs, for types and shapes.
        symbolic: every input dimension but the second (channels) becomes a symbol, equal extents the same one.
        like: example outputs, for the types of those that ONNX's shape inference can't tell.
    """

    def info(name: str, array: Array) -> onnx.ValueInfoProto:
        shape = [f"d{d}" if symbolic and a != 1 else d for a, d in enumerate(array.shape)]
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)

    outs = [helper.make_empty_tensor_value_info(o) for n in nodes for o in n.output if o]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in (consts or {}).items()]
    graph = helper.make_graph(list(nodes), "g", [info(k, v) for k, v in feed.items()], outs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    found = {v.name: v for v in inferred.graph.output}
    del model.graph.output[:]
    for o in outs:
        known = found[o.name].type.tensor_type
        untyped = not known.elem_type or not known.HasField("shape")
        model.graph.output.append(info(o.name, like[o.name]) if untyped and like and o.name in like else found[o.name])
    return model


def run(model: onnx.ModelProto, feed: Mapping[str, Array], **options: Any) -> dict[str, Array]:
    """Outputs of the compiled model by name."""
    got = compile(model, "x86", threads=2, **options).run(dict(feed))
    return {name: np.asarray(value) for name, value in got.items()}


def reference(model: onnx.ModelProto, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of ONNX's reference evaluator."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = ReferenceEvaluator(model).run(None, dict(feed))
    return {o.name: np.asarray(v) for o, v in zip(model.graph.output, values)}


def same(name: str, got: Array, want: Array, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Fail unless dtype and shape agree and elements do: integers exactly, float16 within two units in the last place."""
    assert got.dtype == want.dtype, f"{name}: {got.dtype} instead of {want.dtype}"
    assert got.shape == want.shape, f"{name}: {got.shape} instead of {want.shape}"
    if got.dtype.kind == "f":
        if got.dtype == np.float16:
            rtol, atol = max(rtol, 2e-3), max(atol, 1e-3)
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol, atol, err_msg=name)
    else:
        np.testing.assert_array_equal(got, want, err_msg=name)


def check(
    nodes: Sequence[onnx.NodeProto],
    feed: Mapping[str, Array],
    consts: Mapping[str, Array] | None = None,
    want: Mapping[str, Array] | None = None,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    **options: Any,
) -> None:
    """Compile the nodes as one model, unfused, and compare with ``want``, else with the reference evaluator."""
    model = model_with(nodes, feed, consts, like=want, **options)
    expected = dict(reference(model, feed) if want is None else want)
    got = run(model, feed, level=0)
    for name, array in expected.items():
        same(name, got[name], array, rtol, atol)
