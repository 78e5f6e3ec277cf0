"""Old operator forms: the upgraded graph computes what ONNX Runtime computes for the original, and no change of form is
forgotten."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.driver.importing import import_onnx
from graphopt.errors import UnsupportedOpError
from graphopt.ir.onnx_io import graph_to_onnx
from graphopt.ir.types import TensorType
from graphopt.ops.legacy.rules import boundaries
from graphopt.ops.upgrade import REVIEWED_OPSET

RNG = np.random.default_rng(7)
X4 = RNG.standard_normal((2, 6, 4, 5)).astype(np.float32)


def f32(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


# (name, opset, op, inputs: array = graph input, ("const", array) = initializer, attributes, outputs)
CASES: list[tuple[str, int, str, list[Any], dict[str, Any], int]] = [
    ("squeeze", 11, "Squeeze", [f32(1, 3, 1, 2)], {"axes": [0, 2]}, 1),
    ("squeeze-negative", 11, "Squeeze", [f32(1, 3, 1, 2)], {"axes": [-2]}, 1),
    ("squeeze-all", 11, "Squeeze", [f32(1, 3, 1, 2)], {}, 1),
    ("unsqueeze", 9, "Unsqueeze", [f32(3, 2)], {"axes": [0, 3]}, 1),
    ("unsqueeze-negative", 12, "Unsqueeze", [f32(3, 2)], {"axes": [-1, 0]}, 1),
    ("reduce-mean", 11, "ReduceMean", [X4], {"axes": [2, 3], "keepdims": 0}, 1),
    ("reduce-sum", 9, "ReduceSum", [X4], {"axes": [1]}, 1),
    ("reduce-max-all", 12, "ReduceMax", [X4], {"keepdims": 0}, 1),
    ("reduce-l2", 17, "ReduceL2", [X4], {"axes": [-1]}, 1),
    ("reduce-logsumexp", 13, "ReduceLogSumExp", [X4], {"axes": [0, -1]}, 1),
    ("pad", 10, "Pad", [X4], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 1.5}, 1),
    ("pad-reflect", 9, "Pad", [X4], {"pads": [0, 0, 1, 2, 0, 0, 1, 0], "mode": "reflect"}, 1),
    ("slice", 9, "Slice", [X4], {"starts": [1, -3], "ends": [5, 2147483647], "axes": [1, 3]}, 1),
    ("slice-no-axes", 9, "Slice", [X4], {"starts": [0, 1], "ends": [1, -1]}, 1),
    ("split", 11, "Split", [X4], {"axis": 1, "split": [1, 3, 2]}, 3),
    ("split-even", 12, "Split", [X4], {"axis": 1}, 3),
    ("split-even-13", 13, "Split", [X4], {"axis": -3}, 2),
    ("topk-1", 9, "TopK", [X4], {"k": 3, "axis": 1}, 2),
    ("topk-10", 10, "TopK", [X4, ("const", np.array([2], np.int64))], {}, 2),
    ("clip", 10, "Clip", [X4], {"min": -0.5, "max": 0.25}, 1),
    ("clip-max-only", 10, "Clip", [X4], {"max": 0.25}, 1),
    ("clip-none", 7, "Clip", [X4], {}, 1),
    ("dropout-7", 7, "Dropout", [X4], {"ratio": 0.3}, 1),
    ("dropout-10", 11, "Dropout", [X4], {}, 1),
    ("softmax-axis-1", 11, "Softmax", [X4], {}, 1),
    ("softmax-last", 11, "Softmax", [X4], {"axis": 3}, 1),
    ("softmax-matrix", 7, "Softmax", [f32(3, 7)], {}, 1),
    ("softmax-axis-0", 9, "Softmax", [f32(3, 7)], {"axis": 0}, 1),
    ("softmax-pooled", 9, "Softmax", [f32(2, 7, 1, 1)], {}, 1),
    ("logsoftmax-axis-2", 12, "LogSoftmax", [X4], {"axis": 2}, 1),
    ("hardmax-axis-1", 11, "Hardmax", [X4], {"axis": 1}, 1),
    ("batchnorm-7", 7, "BatchNormalization", [X4, *(("const", np.abs(f32(6)) + 0.1) for _ in range(4))], {}, 1),
    ("batchnorm-9", 9, "BatchNormalization", [X4, *(("const", np.abs(f32(6)) + 0.1) for _ in range(4))],
     {"epsilon": 1e-2, "momentum": 0.8}, 1),
    ("upsample-7", 7, "Upsample", [X4], {"scales": [1.0, 1.0, 2.0, 3.0]}, 1),
    ("upsample-9", 9, "Upsample", [X4, ("const", np.array([1, 1, 2.5, 1.6], np.float32))], {}, 1),
    ("upsample-9-linear", 9, "Upsample", [X4, ("const", np.array([1, 1, 2, 3], np.float32))], {"mode": "linear"}, 1),
    ("resize-10-up", 10, "Resize", [X4, ("const", np.array([1, 1, 2.5, 3.3], np.float32))], {}, 1),
    ("resize-10-down", 10, "Resize", [X4, ("const", np.array([1, 1, 0.6, 0.7], np.float32))], {}, 1),
    ("resize-10-mixed", 10, "Resize", [X4, ("const", np.array([1, 1, 0.6, 1.7], np.float32))], {}, 1),
    ("resize-10-same", 10, "Resize", [X4, ("const", np.array([1, 1, 1, 1], np.float32))], {}, 1),
    ("resize-10-linear", 10, "Resize", [X4, ("const", np.array([1, 1, 0.6, 1.7], np.float32))], {"mode": "linear"}, 1),
    ("resize-11-tf", 11, "Resize", [X4, ("const", np.zeros(0, np.float32)), ("const", np.zeros(0, np.float32)),
     ("const", np.array([2, 6, 7, 3], np.int64))],
     {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"}, 1),
    ("scatter", 9, "Scatter", [f32(3, 3), ("const", np.array([[1, 0, 2], [0, 2, 1]], np.int64)), f32(2, 3)], {}, 1),
    ("gemm-7", 7, "Gemm", [f32(3, 4), f32(4, 5), f32(5)], {"alpha": 0.5}, 1),
    ("prelu-7", 7, "PRelu", [X4, ("const", f32(6, 1, 1))], {}, 1),
    ("roialign-10", 10, "RoiAlign",
     [X4, ("const", np.array([[0, 0, 3, 3], [1, 1, 4, 3]], np.float32)), ("const", np.array([0, 1], np.int64))],
     {"output_height": 2, "output_width": 3, "sampling_ratio": 2}, 1),
    ("gridsample-16", 16, "GridSample", [X4, np.clip(f32(2, 3, 3, 2), -1, 1)], {"mode": "bicubic"}, 1),
    ("gridsample-16-default", 16, "GridSample", [X4, np.clip(f32(2, 3, 3, 2), -1, 1)], {}, 1),
    ("dft-17", 17, "DFT", [f32(2, 8, 3, 1)], {}, 1),
    ("dft-17-axis", 17, "DFT", [f32(2, 8, 3, 2)], {"axis": 2}, 1),
    ("averagepool-7", 7, "AveragePool", [X4], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 1),
    ("maxpool-8", 8, "MaxPool", [X4], {"kernel_shape": [2, 2], "strides": [2, 2]}, 2),
    ("lstm-7", 7, "LSTM", [f32(3, 2, 4), ("const", f32(1, 20, 4)), ("const", f32(1, 20, 5))], {"hidden_size": 5}, 3),
]  # fmt: skip


def build(op: str, opset: int, inputs: Sequence[Any], attrs: dict[str, Any], count: int, dynamic: bool) -> Any:
    """A one-node model and its feeds; ``dynamic`` declares extents above 1 of graph inputs as symbols."""
    declared, constants, feeds, names = [], [], {}, []
    for i, entry in enumerate(inputs):
        name = f"x{i}"
        names.append(name)
        if isinstance(entry, tuple):
            constants.append(numpy_helper.from_array(entry[1], name))
            continue
        dims = [f"d{i}_{a}" if dynamic and d > 1 else d for a, d in enumerate(entry.shape)]
        declared.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(entry.dtype), dims))
        feeds[name] = entry
    outs = [f"y{i}" for i in range(count)]
    node = helper.make_node(op, names, outs, name="old", **attrs)
    results = [helper.make_empty_tensor_value_info(o) for o in outs]
    graph = helper.make_graph([node], "g", declared, results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model)
    for info in inferred.graph.output:
        if info.type.WhichOneof("value") is None:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
        info.type.tensor_type.shape.SetInParent()
    return inferred, feeds


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return list(ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, feeds))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("case", CASES, ids=[c[0] for c in CASES])
def test_same_results_as_the_original(case: Any, dynamic: bool) -> None:
    _, opset, op, inputs, attrs, count = case
    model, feeds = build(op, opset, inputs, attrs, count, dynamic)
    try:
        graph = import_onnx(model)
    except UnsupportedOpError:
        assert dynamic, "refused with static shapes"
        pytest.skip("refused with dynamic shapes")
    exported = graph_to_onnx(graph)
    onnx.checker.check_model(exported)
    assert exported.opset_import[0].version >= 18
    wanted, got = run(model, feeds), run(exported, feeds)
    for value, a, b in zip(graph.outputs, got, wanted):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert isinstance(value.type, TensorType)
        if value.type.is_static:
            assert value.type.static_shape == a.shape


def test_one_hot_9_keeps_negative_indices_off() -> None:
    index = np.array([0, -1, 2], np.int64)
    constants = [("const", np.array([3], np.int64)), ("const", np.array([0, 1], np.float32))]
    model, feeds = build("OneHot", 9, [index, *constants], {}, 1, False)
    (got,) = run(graph_to_onnx(import_onnx(model)), feeds)
    np.testing.assert_array_equal(got, [[1, 0, 0], [0, 0, 0], [0, 0, 1]])


def test_group_normalization_18_has_one_scale_per_group() -> None:
    x, scale, bias = f32(2, 6, 4), np.array([2, 3], np.float32), np.array([-1, 1], np.float32)
    for constant in (False, True):
        operands = [("const", a) if constant else a for a in (scale, bias)]
        model, feeds = build("GroupNormalization", 18, [x, *operands], {"num_groups": 2}, 1, False)
        (got,) = run(graph_to_onnx(import_onnx(model)), feeds)
        groups = x.reshape(2, 2, 12).astype(np.float64)
        centred = groups - groups.mean(-1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        wanted = (unit * scale[:, None] + bias[:, None]).reshape(x.shape)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


REFUSED: list[tuple[str, int, str, list[Any], dict[str, Any], int]] = [
    ("spatial-0", 7, "BatchNormalization", [X4, *(f32(6, 4, 5) for _ in range(4))], {"spatial": 0}, 1),
    ("training", 9, "BatchNormalization", [X4, *(f32(6) for _ in range(4))], {}, 5),
    ("resize-10-dynamic", 10, "Resize", [X4, np.array([1, 1, 0.6, 0.7], np.float32)], {}, 1),
    ("resize-11-tf-ceil", 11, "Resize", [X4, ("const", np.zeros(0, np.float32)),
     ("const", np.array([1, 1, 2, 2], np.float32))],
     {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "ceil"}, 1),
    ("dropout-mask", 7, "Dropout", [X4], {}, 2),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=[c[0] for c in REFUSED])
def test_forms_without_an_equivalent_are_refused(case: Any) -> None:
    _, opset, op, inputs, attrs, count = case
    model, _ = build(op, opset, inputs, attrs, count, False)
    with pytest.raises(UnsupportedOpError) as caught:
        import_onnx(model)
    assert caught.value.node == f"old ({op})"
    assert caught.value.hint


# Changes that need no rule: a new optional attribute or operand whose default is the old behaviour.
HARMLESS = [
    *[("Attention", 24), ("Attention", 25), ("ArgMax", 12), ("ArgMin", 12), ("AveragePool", 10), ("AveragePool", 19)],
    *[("Cast", 19), ("Cast", 24), ("CastLike", 19), ("CastLike", 24), ("DepthToSpace", 11), ("GatherND", 12)],
    *[("DequantizeLinear", 13), ("DequantizeLinear", 21), ("DequantizeLinear", 23), ("GRU", 14), ("Gemm", 11)],
    *[("LSTM", 14), ("LpPool", 18), ("MaxPool", 8), ("MaxPool", 10), ("OptionalHasElement", 18), ("Pad", 18)],
    *[("QuantizeLinear", 13), ("QuantizeLinear", 19), ("QuantizeLinear", 21), ("QuantizeLinear", 23), ("RNN", 14)],
    *[("Range", 27), ("Reshape", 14), ("Resize", 18), ("ScatterElements", 16), ("ScatterND", 16), ("Shape", 15)],
    *[("SpaceToDepth", 28), ("TopK", 11)],
    *[("Constant", 11), ("Constant", 12)],  # constants are values, not nodes
]


def signature(schema: onnx.defs.OpSchema) -> Any:
    attrs = {
        name: None if a.default_value.type == 0 else repr(helper.get_attribute_value(a.default_value))
        for name, a in schema.attributes.items()
    }
    return attrs, [str(i.option) for i in schema.inputs], [str(o.option) for o in schema.outputs], schema.deprecated


def test_every_change_of_form_has_a_rule_or_a_reason() -> None:
    history: dict[str, list[Any]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain and schema.since_version <= REVIEWED_OPSET:
            history.setdefault(schema.name, []).append(schema)
    missing = []
    for op, versions in history.items():
        versions.sort(key=lambda s: s.since_version)
        for old, new in itertools.pairwise(versions):
            version = new.since_version
            if version > 7 and signature(old) != signature(new) and version not in boundaries(op):
                missing.append((op, version))
    assert sorted(missing) == sorted(HARMLESS)


def test_softmax_of_a_symbolic_shape_needs_no_static_extent() -> None:
    model, feeds = build("Softmax", 11, [X4], {"axis": 2}, 1, True)
    graph = import_onnx(model)
    assert [n.op for n in graph.nodes] == ["Flatten", "Softmax", "Shape", "Reshape"]
    assert graph.outputs[0].shape == graph.inputs[0].shape
    np.testing.assert_allclose(run(graph_to_onnx(graph), feeds)[0], run(model, feeds)[0], rtol=1e-5, atol=1e-7)
