"""Subnormal weights become zero where they are multiplied, and nowhere else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import optimize
from graphopt.ir.onnx_io import graph_to_onnx
from graphopt.passes.fold.subnormals import _has_subnormals
from graphopt.rewrite.remarks import Remarks

TINY = float(np.finfo(np.float32).tiny)


def model() -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32)
    weight[0, 0], weight[1, 1], weight[2, 2], weight[3] = TINY / 2, -TINY / 1000, TINY, 0
    x, y = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 2, 2]), ("y", [1, 4, 2, 2]))
    )
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [4, 3, 1, 1])
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv"), helper.make_node("Add", ["w", "one"], ["z"], "add")]
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.zeros(1, np.float32), "one")]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y, z], constants))


def test_products_lose_their_subnormals_and_say_so() -> None:
    remarks = Remarks()
    graph = optimize(import_onnx(model()), passes=["flush-subnormals"], remarks=remarks, for_export=True)
    conv, add = (next(n for n in graph.nodes if n.op == op) for op in ("Conv", "Add"))
    weight, other = conv.inputs[1], add.inputs[0]
    assert weight is not None
    assert weight.data is not None
    assert other is not None
    assert other.data is not None
    magnitudes = np.abs(weight.data)
    assert magnitudes[0, 0] == magnitudes[1, 1] == 0
    assert magnitudes[2, 2] == np.float32(TINY)
    assert other.data[0, 0] == np.float32(TINY / 2)
    assert ["2 elements of %w" in str(r) for r in remarks] == [True]


def test_results_stay() -> None:
    feed = {"x": np.random.default_rng(1).standard_normal((1, 3, 2, 2)).astype(np.float32)}
    want = ReferenceEvaluator(model()).run(None, feed)
    graph = optimize(import_onnx(model()), level=2, for_export=True)
    for w, g in zip(want, ReferenceEvaluator(graph_to_onnx(graph)).run(None, feed)):
        np.testing.assert_allclose(g, w, rtol=1e-6, atol=4 * TINY)


def test_nothing_to_do() -> None:
    found = model()
    found.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w"))
    remarks = Remarks()
    optimize(import_onnx(found), passes=["flush-subnormals"], remarks=remarks, for_export=True)
    assert len(remarks) == 0


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bits", [0, 1, 2, 0x7FFFFE, 0x7FFFFF, 0x800000, 0x800001, 0x3F800000, 0x7F800000, 0x7FC00000])
def test_the_look_at_the_bits(bits: int, sign: int) -> None:
    """At the end of the second block, against numpy's own opinion."""
    array = np.ones(2 * (1 << 16), np.float32)
    array.view(np.uint32)[-1] = bits | (0x80000000 if sign < 0 else 0)
    expected = bool((np.abs(array[-1]) < np.finfo(np.float32).tiny) & (array[-1] != 0))
    assert _has_subnormals(array) == expected
    assert _has_subnormals(array.reshape(2, -1).T) == expected
