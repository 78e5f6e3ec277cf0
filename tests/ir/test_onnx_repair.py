"""What every runtime takes although the checker refuses it: imported with a remark, refused when ``strict``, and right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.driver.importing import import_onnx
from graphopt.errors import ModelError, UserError
from graphopt.rewrite.remarks import Remarks

F = TensorProto.FLOAT
SHAPE = [2, 3]
X = np.linspace(-2, 3, 6, dtype=np.float32).reshape(2, 3)


def info(name: str, shape: Sequence[Any] = SHAPE) -> Any:
    return helper.make_tensor_value_info(name, F, shape)


def model(*nodes: Any, constants: Sequence[Any] = (), opset: int = 17) -> ModelProto:
    """A model of one input x and one output y, of one shape."""
    graph = helper.make_graph(
        list(nodes or [helper.make_node("Relu", ["x"], ["y"])]), "g", [info("x")], [info("y")], list(constants)
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def weight() -> TensorProto:
    return numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w")


def add(**changes: Any) -> ModelProto:
    found = model(helper.make_node("Add", ["x", "w"], ["y"]), constants=[weight()])
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def untyped_output() -> ModelProto:
    found = add()
    found.graph.output[0].ClearField("type")
    return found


def unshaped_output() -> ModelProto:
    found = add()
    found.graph.output[0].type.tensor_type.ClearField("shape")
    return found


def unnamed_graph() -> ModelProto:
    found = add()
    found.graph.ClearField("name")
    return found


def repeated_initializer() -> ModelProto:
    found = add()
    found.graph.initializer.append(weight())
    return found


def repeated_input() -> ModelProto:
    found = add()
    found.graph.input.extend([info("w"), info("w")])
    return found


def unsorted_nodes() -> ModelProto:
    return model(helper.make_node("Relu", ["a"], ["y"], name="late"), helper.make_node("Neg", ["x"], ["a"]))


def node_of_the_long_domain() -> ModelProto:
    found = model()
    found.graph.node[0].domain = "ai.onnx"
    return found


def empty_operand() -> ModelProto:
    return model(helper.make_node("Relu", ["x", ""], ["y", ""]))


def untyped_attribute() -> ModelProto:
    node = helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.25)
    node.attribute[0].ClearField("type")
    return model(node)


def repeated_data() -> ModelProto:
    found = add()
    found.graph.initializer[0].float_data[:] = range(6)
    return found


def empty_raw_data() -> ModelProto:
    found = repeated_data()
    found.graph.initializer[0].raw_data = b""
    return found


def repeated_metadata() -> ModelProto:
    found = add()
    for value in ("first", "last"):
        found.metadata_props.add(key="author", value=value)
    return found


ACCEPTED: dict[str, Callable[[], ModelProto]] = {
    "untyped-output": untyped_output,
    "unshaped-output": unshaped_output,
    "unnamed-graph": unnamed_graph,
    "repeated-initializer": repeated_initializer,
    "repeated-input": repeated_input,
    "unsorted-nodes": unsorted_nodes,
    "empty-operand": empty_operand,
    "untyped-attribute": untyped_attribute,
    "repeated-data": repeated_data,
    "repeated-metadata": repeated_metadata,
    "older-ir": lambda: add(ir_version=3),
    "newer-ir": lambda: add(ir_version=onnx.IR_VERSION + 1),
}


def expected(src: ModelProto) -> Any:
    """By hand: the reference evaluator refuses some of these models itself."""
    node = src.graph.node[0]
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    table = {"Add": X + w, "LeakyRelu": np.where(X < 0, np.float32(0.25) * X, X), "Relu": np.maximum(X, 0)}
    return np.maximum(-X, 0) if node.name == "late" else table[node.op_type]


@pytest.mark.parametrize("rule", ACCEPTED)
def test_accepted_with_a_remark_and_refused_when_strict(rule: str) -> None:
    src = ACCEPTED[rule]()
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(src)
    with pytest.raises(UserError):
        import_onnx(src, strict=True)
    remarks = Remarks()
    compiled = graphopt.compile(src, level=0, remarks=remarks)
    assert rule in [r.rule for r in remarks if r.pass_name == "import"]
    np.testing.assert_array_equal(compiled.run({"x": X})["y"], expected(src))


def test_a_valid_model_gets_no_remark() -> None:
    remarks = Remarks()
    import_onnx(add(), remarks=remarks)
    assert not list(remarks)


@pytest.mark.parametrize("make", [empty_raw_data, node_of_the_long_domain])
def test_accepted_in_other_forms(make: Callable[[], ModelProto]) -> None:
    src = make()
    np.testing.assert_array_equal(graphopt.compile(src, level=0).run({"x": X})["y"], expected(src))


def test_an_input_without_a_shape_needs_one() -> None:
    src = model()
    src.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(graphopt.UnsupportedOpError, match="--shape"):
        import_onnx(src)
    assert import_onnx(src, shapes={"x": (2, 3)}).outputs[0].type == import_onnx(model()).outputs[0].type


def different_initializers() -> ModelProto:
    found = add()
    found.graph.initializer.append(numpy_helper.from_array(np.zeros((2, 3), np.float32), "w"))
    return found


def different_data() -> ModelProto:
    found = add()
    found.graph.initializer[0].float_data[:] = [9] * 6
    return found


def different_opsets() -> ModelProto:
    found = model(helper.make_node("Softmax", ["x"], ["y"]), opset=11)
    found.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    return found


def opset_of_more_than_32_bits() -> ModelProto:
    found = model()
    found.opset_import.append(helper.make_opsetid("", 1 << 31))
    return found


def fields_of_the_future() -> ModelProto:
    found = add(ir_version=onnx.IR_VERSION + 1)
    found.MergeFromString(b"\xfa\x3f\x01x")  # field 1023, a string
    return found


@pytest.mark.parametrize(
    "make", [different_initializers, different_data, different_opsets, opset_of_more_than_32_bits, fields_of_the_future]
)
def test_two_meanings_are_refused(make: Callable[[], ModelProto]) -> None:
    with pytest.raises(ModelError):
        import_onnx(make())


def test_opsets_that_say_the_same_are_one() -> None:
    src = add()
    src.opset_import.append(helper.make_opsetid("ai.onnx", 14))
    remarks = Remarks()
    assert import_onnx(src, remarks=remarks).opset == 17
    assert [r.rule for r in remarks] == ["repeated-opset"]


def test_information_on_values_may_be_stale_or_repeated() -> None:
    src = model(helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["y"]))
    src.graph.value_info.extend([info("a", [7, 3]), info("a", [7, 3])])
    src.graph.input.append(info("unused"))
    got = graphopt.compile(src, level=0).run({"x": X, "unused": X})["y"]
    np.testing.assert_array_equal(got, np.maximum(-X, 0))


def test_half_precision_in_integers_is_read() -> None:
    half = TensorProto(name="h", data_type=TensorProto.FLOAT16, dims=[2, 3])
    half.int32_data[:] = [int(v) for v in np.arange(6, dtype=np.float16).view(np.uint16)]
    src = model(
        helper.make_node("Cast", ["h"], ["w"], to=F), helper.make_node("Add", ["x", "w"], ["y"]), constants=[half]
    )
    np.testing.assert_array_equal(
        graphopt.compile(src, level=0).run({"x": X})["y"], ReferenceEvaluator(src).run(None, {"x": X})[0]
    )
