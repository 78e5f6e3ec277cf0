"""Operators of types that ONNX doesn't allow: an error that names node, operand and remedy, whatever the level."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import TensorProto, helper

from graphopt.driver.compiling import compile
from graphopt.errors import ModelError

BOOL, FLOAT, INT = TensorProto.BOOL, TensorProto.FLOAT, TensorProto.INT64
CASES: list[tuple[str, list[int], dict[str, Any]]] = [
    ("Add", [BOOL, BOOL], {}), ("Max", [BOOL, BOOL], {}), ("Abs", [BOOL], {}), ("Sign", [BOOL], {}), ("Mod", [BOOL, BOOL], {}),
    ("ArgMax", [BOOL], {}), ("And", [FLOAT, FLOAT], {}), ("Not", [FLOAT], {}), ("Where", [FLOAT, FLOAT, FLOAT], {}),
    ("Softmax", [INT], {}), ("Sqrt", [INT], {}), ("Add", [FLOAT, INT], {}), ("CumSum", [BOOL], {}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "types", "attrs"), CASES, ids=[f"{c[0]}-{len(c[1])}-{c[1][-1]}" for c in CASES])
def test_types_that_no_runtime_takes(op: str, types: list[int], attrs: dict[str, Any]) -> None:
    inputs = [helper.make_tensor_value_info(f"i{k}", t, [2, 3]) for k, t in enumerate(types)]
    operands, constants = [i.name for i in inputs], []
    if op == "CumSum":
        operands.append("axis")
        constants.append(helper.make_tensor("axis", INT, [], [0]))
    node = helper.make_node(op, operands, ["y"], name="node_7", **attrs)
    graph = helper.make_graph([node], "g", inputs, [helper.make_empty_tensor_value_info("y")], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    for level in (0, 2):
        with pytest.raises(ModelError, match=r"node_7[\s\S]*[Cc]ast"):
            compile(model, "x86", level=level)
