"""What compiled programs check before they allocate, at entry, in branches, and how it is reported."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.driver.compiling import compile
from graphopt.errors import InputError, ModelError
from graphopt.runtime.refusals import memory_limit
from tests.hostile.cases import FLOAT, INT64, model, node


def test_products_that_overflow_in_bytes_are_refused_with_the_values() -> None:
    made = model([node("ConstantOfShape", "s", "y")], {"s": (INT64, (2,))}, {"y": (FLOAT, 2)})
    compiled = compile(made, "x86", threads=2)
    with pytest.raises(InputError, match=r"s\[0\] = 2305843009213693952") as caught:
        compiled.run({"s": np.array([2**61, 8], np.int64)})
    assert caught.value.code == "too-large"
    assert caught.value.node == "y (ConstantOfShape)"
    assert compiled.run({"s": np.array([2, 3], np.int64)})["y"].shape == (2, 3)


def test_more_than_this_machine_holds_is_refused() -> None:
    made = model([node("ConstantOfShape", "s", "y")], {"s": (INT64, (1,))}, {"y": (FLOAT, 1)})
    with pytest.raises(InputError, match="GiB is all there is"):
        compile(made, "x86", threads=2).run({"s": np.array([memory_limit() // 4 + 1], np.int64)})


def test_differences_of_the_largest_numbers_are_exact() -> None:
    made = model([node("Range", "a b d", "y")], dict.fromkeys("abd", (INT64, ())), {"y": (INT64, 1)})
    compiled = compile(made, "x86", threads=2)
    for start in (2**63 - 5, -(2**63)):
        feed = {k: np.array(v, np.int64) for k, v in zip("abd", (start, start + 4, 1))}
        assert compiled.run(feed)["y"].tolist() == list(range(start, start + 4))


def test_results_too_large_for_the_machine_at_entry() -> None:
    """An outer product of inputs that are themselves small: nothing but the shapes of inputs decides."""
    made = model([node("Mul", "a b", "y")], {"a": (FLOAT, ("n", 1)), "b": (FLOAT, (1, "m"))}, {"y": (FLOAT, 2)})
    compiled = compile(made, "x86", threads=2)
    long = np.zeros(int(memory_limit() ** 0.5), np.float32)
    with pytest.raises(InputError, match="is asked for"):
        compiled.run({"a": long[:, None], "b": long[None, :]})


def test_static_sizes_that_no_machine_holds_are_refused_when_compiling() -> None:
    made = model(
        [node("Expand", "x s", "y")], {"x": (FLOAT, (1, 1))}, {"y": (FLOAT, 2)}, {"s": np.array([2**30, 2**30])}
    )
    with pytest.raises(ModelError, match=r"TiB|addressed"):
        compile(made, "x86", threads=2)


def _branches() -> onnx.ModelProto:
    def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph(
            list(nodes), name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None])]
        )

    then = branch("t", helper.make_node("TopK", ["x", "k"], ["t", "i"]))
    other = branch("o", helper.make_node("Identity", ["x"], ["o"]))
    chosen = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    inputs: dict[str, tuple[int, Any]] = {"c": (TensorProto.BOOL, ()), "x": (FLOAT, ("n",)), "k": (INT64, (1,))}
    return model([chosen], inputs, {"y": (FLOAT, 1)})


def test_a_branch_checks_what_it_needs_when_it_is_taken() -> None:
    compiled = compile(_branches(), "x86", threads=2)
    x = np.arange(3, dtype=np.float32)
    feed = {"x": x, "k": np.array([5], np.int64), "c": np.array(False)}
    np.testing.assert_array_equal(compiled.run(feed)["y"], x)
    with pytest.raises(InputError, match="TopK"):
        compiled.run({**feed, "c": np.array(True)})
    assert compiled.run({**feed, "k": np.array([2], np.int64), "c": np.array(True)})["y"].tolist() == [2, 1]
