"""Large weights taken past protobuf: the same model comes out, and bytes that look unusual are left to protobuf."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from graphopt.driver.importing import import_onnx
from graphopt.errors import ModelError
from graphopt.ir import onnx_load, onnx_payload
from graphopt.ir.onnx_load import load_model
from graphopt.ir.onnx_payload import take_payloads


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_payload, "LARGE", 100)
    monkeypatch.setattr(onnx_load, "LARGE", 100)


def model_of(*tensors: TensorProto) -> ModelProto:
    """A graph that returns its initializers, each through an Identity."""
    nodes = [helper.make_node("Identity", [t.name], [f"{t.name}_out"]) for t in tensors]
    outputs = [helper.make_tensor_value_info(f"{t.name}_out", t.data_type, t.dims) for t in tensors]
    graph = helper.make_graph(nodes, "g", [], outputs, list(tensors), doc_string="docs")
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], producer_name="tests")


def some(dtype: type, *shape: int) -> np.ndarray:
    return np.arange(int(np.prod(shape)) or 1).astype(dtype).reshape(shape)


ARRAYS = {
    "f32": some(np.float32, 7, 9),
    "f64": some(np.float64, 30),
    "i8": some(np.int8, 101),
    "i64": some(np.int64, 5, 5, 1),
    "f16": some(np.float16, 60),
    "bf16": some(ml_dtypes.bfloat16, 64),
    "bool": some(np.bool_, 200),
    "small": some(np.float32, 3),
}


def test_data_and_rest_are_what_they_were() -> None:
    proto = model_of(*(numpy_helper.from_array(a, name) for name, a in ARRAYS.items()))
    rest, arrays = take_payloads(proto.SerializeToString())
    assert sorted(arrays) == sorted(set(ARRAYS) - {"small"})
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype
        assert array.ctypes.data % 64 == 0
        np.testing.assert_array_equal(array, ARRAYS[name])
    again = ModelProto.FromString(rest)
    for tensor in proto.graph.initializer:
        if tensor.name in arrays:
            tensor.ClearField("raw_data")
    assert again == proto


@pytest.mark.parametrize("as_bytes", [True, False])
def test_imported_as_without_it(as_bytes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = model_of(*(numpy_helper.from_array(a, name) for name, a in ARRAYS.items()))
    onnx.save_model(proto, tmp_path / "m.onnx")
    graph = import_onnx(proto.SerializeToString() if as_bytes else tmp_path / "m.onnx")
    assert load_model(tmp_path / "m.onnx").external.keys() == ARRAYS.keys() - {"small"}
    found = {v.name: v.data for v in graph.constants()}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def left_alone(proto: ModelProto) -> None:
    blob = proto.SerializeToString()
    rest, arrays = take_payloads(blob)
    assert rest == blob
    assert arrays == {}


def test_typed_data_and_small_elements_are_left() -> None:
    left_alone(model_of(helper.make_tensor("t", TensorProto.FLOAT, [100], list(range(100)))))
    nibbles = TensorProto(name="t", data_type=TensorProto.INT4, dims=[400], raw_data=bytes(200))
    left_alone(model_of(nibbles))


def test_data_that_does_not_fit_its_shape_is_left() -> None:
    for dims in ([63], [65], [-1], [0], []):
        left_alone(model_of(TensorProto(name="t", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(256))))
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[65], raw_data=bytes(256))
    with pytest.raises(ModelError, match="raw_data size"):
        import_onnx(model_of(tensor).SerializeToString())


def test_a_name_twice_is_left() -> None:
    tensor = numpy_helper.from_array(ARRAYS["f32"], "t")
    proto = model_of(tensor)
    proto.graph.initializer.append(tensor)
    left_alone(proto)


def test_two_pieces_of_a_graph_are_left() -> None:
    """protobuf merges a message field that occurs twice."""
    proto = model_of(numpy_helper.from_array(ARRAYS["f32"], "t"))
    extra = ModelProto(graph=GraphProto(doc_string="more"))
    blob = proto.SerializeToString() + extra.SerializeToString()
    assert take_payloads(blob) == (blob, {})


def test_a_subgraph_with_the_same_name_keeps_its_own() -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["t"], ["y_in"])], "inner", [],
        [helper.make_tensor_value_info("y_in", TensorProto.FLOAT, [40])],
        [numpy_helper.from_array(np.full(40, 5, np.float32), "t")],
    )  # fmt: skip
    proto = model_of(numpy_helper.from_array(np.zeros(40, np.float32), "t"))
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    proto.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner))
    proto.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [40]))
    loaded, payloads = onnx_load._parse_large(proto.SerializeToString(), "m")
    assert payloads == {}
    assert loaded == proto


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_are_refused_as_before(seed: int) -> None:
    """Whatever is wrong, protobuf says so or reads the same: no exception of another kind, no other model."""
    proto = model_of(numpy_helper.from_array(ARRAYS["f32"], "t"), numpy_helper.from_array(ARRAYS["i64"], "u"))
    blob = bytearray(proto.SerializeToString())
    random = np.random.default_rng(seed)
    if seed % 2:
        blob = blob[: int(random.integers(len(blob)))]
    else:
        for at in random.integers(0, len(blob), 3):
            blob[at] = random.integers(256)
    try:
        expected: ModelProto | None = ModelProto.FromString(bytes(blob))
    except Exception:
        expected = None
    rest, arrays = take_payloads(bytes(blob))
    try:
        got: ModelProto | None = ModelProto.FromString(rest)
    except Exception:
        got = None
    assert (got is None) == (expected is None)
    if got is not None and expected is not None:
        for tensor in got.graph.initializer:
            if tensor.name in arrays:
                tensor.raw_data = arrays[tensor.name].tobytes()
        assert got == expected
