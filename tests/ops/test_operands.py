"""Operands, attributes and results that an operator can't have end in an error that names the node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.driver.importing import import_onnx
from graphopt.errors import ModelError, UnsupportedOpError

F, I32, I64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
Operand = Any
"""Extents of a float input, (type, extents), the array of a constant, or None."""


def node(
    op: str, operands: Sequence[Operand], domain: str = "", version: int = 18, outputs: int = 1, **attrs: Any
) -> Any:
    """A model of one node called "it"; the checker is content with its outputs."""
    infos, constants, names = [], [], []
    for i, operand in enumerate(operands):
        names.append("" if operand is None else f"x{i}")
        if isinstance(operand, np.ndarray):
            constants.append(numpy_helper.from_array(operand, names[-1]))
        elif operand is not None:
            type_, dims = operand if operand and isinstance(operand[-1], tuple) else (F, operand)
            infos.append(helper.make_tensor_value_info(names[-1], type_, dims))
    outs = [onnx.ValueInfoProto(name=f"y{i}") for i in range(outputs)]
    proto = helper.make_node(op, names, [o.name for o in outs], name="it", domain=domain, **attrs)
    opsets = [helper.make_opsetid("", version if not domain else 18)]
    opsets += [helper.make_opsetid(domain, version)] if domain else []
    return helper.make_model(
        helper.make_graph([proto], "g", infos, outs, constants), opset_imports=opsets, ir_version=8
    )


def longs(*values: int) -> Any:
    return np.array(values, np.int64)


X, W = (1, 1, 4, 4), (1, 1, 3, 3)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(op: str, x: Any = (3, 2, 2), w: Any = None, r: Any = None, *more: Operand, hidden: int = 5) -> Any:
    g = GATES[op]
    return node(op, [x, w or (1, g * 5, 2), r or (1, g * 5, 5), *more], hidden_size=hidden)


WRONG = {
    **{f"{op}-{i}": node(op, operands) for op in ("Conv", "ConvTranspose") for i, operands in enumerate([
        [(3,), (3,)], [(2, 3), (2, 3)], [(), ()], [X, (1, 1)], [X, (1, 1, 3)], [X, (1, 1, 3, 3, 3)], [(1, 3, 4, 4), (1, 2, 3, 3)],
        [X, (1, 1, 0, 0)], [X, W, (1, 1)], [X, W, (7,)],
    ])},
    **{f"{op}-{attrs}": node(op, [X, W], **attrs) for op in ("Conv", "ConvTranspose") for attrs in (
        {"strides": [0, 0]}, {"strides": [1]}, {"strides": [-1, 1]}, {"strides": [1 << 62, 1]}, {"dilations": [0, 1]},
        {"dilations": [1, 1, 1]}, {"dilations": [1 << 40, 1]}, {"pads": [1]}, {"pads": [1 << 62] * 4}, {"group": 0}, {"group": -1},
        {"group": 1 << 40}, {"kernel_shape": [5, 5]}, {"auto_pad": "FOO"},
    )},
    "Conv-negative-result": node("Conv", [X, W], pads=[-9] * 4),
    "ConvTranspose-output-padding": node("ConvTranspose", [X, W], output_padding=[7]),
    "ConvTranspose-output-padding-negative": node("ConvTranspose", [X, W], output_padding=[-9, 0]),
    "ConvTranspose-output-shape": node("ConvTranspose", [X, W], output_shape=[1]),
    "ConvTranspose-output-shape-negative": node("ConvTranspose", [X, W], output_shape=[-5, 3]),
    "ScatterND-updates": node("ScatterND", [(2, 3), (I64, (2,)), (5,)]),
    "ScatterND-scalar": node("ScatterND", [(2, 3), (I64, ()), (5,)]),
    "ScatterND-deep": node("ScatterND", [(2, 3), (I64, (1, 5)), (1,)]),
    "GatherND-deep": node("GatherND", [(2, 3), (I64, (1, 5))]),
    "GatherND-batch": node("GatherND", [(2, 3), (I64, (2, 1))], batch_dims=2),
    "GatherElements": node("GatherElements", [(2, 3), (I64, (2,))]),
    "ConstantOfShape": node("ConstantOfShape", [(I64, (2, 2))]),
    "EyeLike": node("EyeLike", [(2, 3, 4)]),
    **{f"{op}-{i}": model for op in GATES for i, model in enumerate([
        recurrent(op, (3, 2)), recurrent(op, ()), recurrent(op, w=(10, 2)), recurrent(op, w=(1, 7, 9)), recurrent(op, r=(1, 3, 3)),
        recurrent(op, (3, 2, 2), None, None, (3,)), recurrent(op, (3, 2, 2), None, None, (1, 9)),
        recurrent(op, (3, 2, 2), None, None, None, (I32, (2, 2))), recurrent(op, (3, 2, 2), None, None, None, (I32, (9,))),
        recurrent(op, (3, 2, 2), None, None, None, None, (5,)), recurrent(op, (3, 2, 2), None, None, None, None, (1, 9, 5)),
        recurrent(op, hidden=-5),
    ])},
    "Expand-too-large": node("Expand", [np.ones(1, np.float32), longs(1 << 62)]),
    "Expand-negative": node("Expand", [np.ones(1, np.float32), longs(-5)]),
    "Tile-negative": node("Tile", [np.ones(1, np.float32), longs(-5)]),
    "Tile-lowest": node("Tile", [np.ones(1, np.float32), longs(-(1 << 63))]),
    "ConstantOfShape-negative": node("ConstantOfShape", [longs(-5)]),
    "ConstantOfShape-too-large": node("ConstantOfShape", [longs(1 << 40, 1 << 40)]),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_refused_by_name(what: str) -> None:
    with pytest.raises(ModelError) as caught:
        import_onnx(WRONG[what])
    assert caught.value.node is not None
    assert caught.value.node.startswith("it (")
    assert caught.value.hint


@pytest.mark.parametrize("op", GATES)
def test_the_right_operands_are_taken(op: str) -> None:
    g = GATES[op]
    import_onnx(recurrent(op, (3, 2, 2), None, None, (1, 2 * g * 5), (I32, (2,)), (1, 2, 5)))


@pytest.mark.parametrize("version", [1, 3])
def test_old_operators_of_other_domains(version: int) -> None:
    """TreeEnsembleClassifier is deprecated in the newest version of its domain."""
    model = node(
        "TreeEnsembleClassifier", [(2, 3)], "ai.onnx.ml", version, outputs=2, class_ids=[1], classlabels_int64s=[0]
    )
    from graphopt.driver.compiling import compile

    with pytest.raises(UnsupportedOpError, match="TreeEnsembleClassifier"):
        compile(model, level=0)


@pytest.mark.parametrize(
    ("op", "operands"),
    [
        ("Softmax", [(I64, (2, 3))]), ("Add", [(2, 3), (I64, (2, 3))]), ("Conv", [(I64, (1, 1, 4, 4)), (I64, (1, 1, 3, 3))]),
        ("Gather", [(2, 3), (F, (1,))]), ("And", [(2,), (2,)]), ("Concat", [(2, 3), (I32, (2, 3))]),
        ("Where", [(F, (2,)), (2,), (2,)]), ("Not", [(2,)]), ("Reshape", [(2, 3), (I32, (1,))]),
    ],
)  # fmt: skip
def test_element_types_that_the_operator_has_not_got(op: str, operands: list[Any]) -> None:
    attrs = {"axis": 0} if op == "Concat" else {}
    with pytest.raises(ModelError, match=r"not defined for|of one type") as caught:
        import_onnx(node(op, operands, **attrs))
    assert caught.value.node == f"it ({op})"


def test_the_condition_of_if_has_one_element() -> None:
    branches = {}
    for name in ("then_branch", "else_branch"):
        out = helper.make_tensor_value_info(name, F, [2])
        branches[name] = helper.make_graph(
            [helper.make_node("Constant", [], [name], value_floats=[1.0, 2.0])], name, [], [out]
        )
    with pytest.raises(ModelError, match="one element"):
        import_onnx(node("If", [(TensorProto.BOOL, (4,))], **branches))


@pytest.mark.parametrize(
    ("op", "flag", "value"),
    [("ArgMin", "keepdims", 1 << 31), ("CumSum", "reverse", 2), ("Gemm", "transB", -1), ("Trilu", "upper", 3)],
)
def test_a_flag_that_is_neither_yes_nor_no(op: str, flag: str, value: int) -> None:
    """ONNX Runtime takes 1 alone for a yes of ``keepdims``, and anything but 0 for one of ``transB``."""
    operands: list[Operand] = {"CumSum": [(2, 3), longs(0)], "Gemm": [(2, 3), (3, 4)]}.get(op, [(2, 3)])
    with pytest.raises(ModelError, match=f"{flag} is {value}") as caught:
        import_onnx(node(op, operands, **{flag: value}))
    assert caught.value.node is not None
    assert "it" in caught.value.node
