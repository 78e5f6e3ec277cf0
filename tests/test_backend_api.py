"""graphopt behind ONNX's backend interface."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt import backend
from graphopt.errors import InputError, TargetError, UnsupportedOpError


def add_model() -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in ("a", "b")]
    out = helper.make_tensor_value_info("c", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "add", infos, [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


A = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_prepare_runs_sequences_and_names() -> None:
    rep = backend.prepare(add_model())
    np.testing.assert_array_equal(rep.run([A, A])[0], A + A)
    np.testing.assert_array_equal(rep.run({"b": A, "a": A + 1})[0], A + A + 1)


def test_run_model() -> None:
    np.testing.assert_array_equal(backend.run_model(add_model(), [A, A])[0], A + A)


def test_run_node_infers_outputs() -> None:
    (out,) = backend.run_node(helper.make_node("Relu", ["x"], ["y"]), [A - 3])
    np.testing.assert_array_equal(out, np.maximum(A - 3, 0))


def test_run_node_with_declared_outputs_and_opset() -> None:
    node = helper.make_node("Add", ["x", "x"], ["y"])
    (out,) = backend.run_node(node, {"x": A}, outputs_info=[(np.float32, (2, 3))], opset_version=13)
    np.testing.assert_array_equal(out, A + A)


def test_wrong_number_of_inputs() -> None:
    with pytest.raises(InputError, match="1 arrays for 2 inputs"):
        backend.prepare(add_model()).run([A])


def test_only_processors() -> None:
    assert backend.supports_device("CPU")
    assert not backend.supports_device("CUDA")
    with pytest.raises(TargetError, match="CUDA"):
        backend.prepare(add_model(), "CUDA")


def test_sequences_are_unsupported_from_prepare() -> None:
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
    out = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("SequenceConstruct", ["x"], ["s"])], "sequence", [info], [out])
    with pytest.raises(UnsupportedOpError, match="SequenceConstruct"):
        backend.prepare(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
