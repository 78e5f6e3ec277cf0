"""Forms that only the rest of the model makes clear: Squeeze by its declared result, scales and zero points of one element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.driver.importing import import_onnx
from graphopt.errors import InputError, ModelError, UnsupportedOpError
from graphopt.rewrite.remarks import Remarks

F = TensorProto.FLOAT


def squeeze(shape: Sequence[Any], result: Sequence[Any]) -> Any:
    graph = helper.make_graph(
        [helper.make_node("Squeeze", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", F, shape)],
        [helper.make_tensor_value_info("y", F, result)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("shape", "result", "given", "wanted"),
    [
        (["N", 1, 3], ["M", 3], [2, 1, 3], [2, 3]),
        (["N", 1, 3], [None, None], [2, 1, 3], [2, 3]),
        (["N", 1, 3], [3], [1, 1, 3], [3]),
        (["N", 3, "H", "W"], ["N", 3], [2, 3, 1, 1], [2, 3]),
    ],
)
def test_the_declared_result_decides_what_squeeze_removes(
    shape: list[Any], result: list[Any], given: list[int], wanted: list[int]
) -> None:
    remarks = Remarks()
    compiled = graphopt.compile(squeeze(shape, result), level=0, remarks=remarks)
    assert [r.rule for r in remarks if r.pass_name == "import"] == ["squeeze-by-rank"]
    x = np.random.default_rng(0).standard_normal(given).astype(np.float32)
    np.testing.assert_array_equal(compiled.run({"x": x})["y"], x.reshape(wanted))


def test_a_dimension_taken_for_1_is_checked() -> None:
    compiled = graphopt.compile(squeeze(["N", 1, 3], [3]), level=0)
    with pytest.raises(InputError, match="squeezed dimension"):
        compiled.run({"x": np.zeros((2, 1, 3), np.float32)})


@pytest.mark.parametrize(("shape", "result"), [(["N", "M", 3], [None, 3]), (["N", 3], [2, 3, 1]), (["N", 1], [])])
def test_a_choice_is_no_answer(shape: list[Any], result: list[Any]) -> None:
    with pytest.raises(UnsupportedOpError, match="give the axes"):
        import_onnx(squeeze(shape, result))


def quantized(scale: Sequence[int], zero: Sequence[int], shape: Sequence[int] = (2, 3), **attrs: int) -> Any:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attrs),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attrs),
    ]
    constants = [
        numpy_helper.from_array(np.full(scale, 0.25, np.float32), "s"),
        numpy_helper.from_array(np.full(zero, 3, np.int8), "z"),
    ]
    io = [[helper.make_tensor_value_info(name, F, list(shape))] for name in "xy"]
    graph = helper.make_graph(nodes, "g", *io, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize(("scale", "zero"), [([1], []), ([], [1]), ([1, 1], [1, 1]), ([1], [1]), ([], [])])
def test_scale_and_zero_point_of_one_element_may_have_any_rank(scale: list[int], zero: list[int]) -> None:
    x = np.linspace(-2, 3, 6, dtype=np.float32).reshape(2, 3)
    got = graphopt.compile(quantized(scale, zero), level=0).run({"x": x})["y"]
    np.testing.assert_array_equal(got, np.rint(x / np.float32(0.25)) * np.float32(0.25))


@pytest.mark.parametrize(
    ("scale", "zero", "attrs"),
    [
        ([3], [], {}), ([3], [2], {}), ([2], [2], {}), ([2, 3], [2, 3], {}), ([3], [3], {"axis": 2}),
        ([5, 3], [5, 3], {"block_size": 2, "axis": 0}),
    ],
)  # fmt: skip
def test_scales_that_do_not_fit_are_refused(scale: list[int], zero: list[int], attrs: dict[str, int]) -> None:
    with pytest.raises(ModelError) as caught:
        import_onnx(quantized(scale, zero, **attrs))
    assert caught.value.node == "q (QuantizeLinear)"
