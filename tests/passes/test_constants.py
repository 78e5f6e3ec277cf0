"""Constant folding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphopt.driver.optimizing import optimize
from graphopt.rewrite.passes import PassContext
from tests.support.onnx_graphs import assert_fires, assert_refuses, graph_of, ops, rand, run_pass


def test_chains_of_constants_fold_in_one_run():
    g = graph_of(
        {"x": "float[4]"},
        "a = Exp(k)\nb = MatMul(a, a)\nc = ReduceSum(b, i)\ny = Add(x, c)",
        k=rand(4, 4),
        i=np.array([0, 1]),
    )
    assert_fires(g, "fold-constants", ["Add"])


def test_shape_arithmetic_folds_without_constants():
    body = "s = Shape(x)\nd = Gather(s, i)\nu = Unsqueeze(d, z)\nt = Concat<axis=0>(m, u)\ny = Reshape(x, t)"
    g = graph_of({"x": "float[2,3,4]"}, body,
                 i=np.array(1), z=np.array([0]), m=np.array([-1]))  # fmt: skip
    assert_fires(g, "fold-constants", ["Reshape"])


def test_partly_dynamic_shapes_fold_where_they_are_known():
    g = graph_of(
        {"x": "float[N,3,4]"}, "s = Shape(x)\nd = Gather(s, i)\nf = Cast<to=1>(d)\ny = Mul(x, f)", i=np.array([1])
    )
    assert_fires(g, "fold-constants", ["Mul"])
    g = graph_of(
        {"x": "float[N,3,4]"}, "s = Shape(x)\nd = Gather(s, i)\nf = Cast<to=1>(d)\ny = Mul(x, f)", i=np.array([0])
    )
    after, _ = run_pass(g, "fold-constants")
    assert ops(after) == ["Shape", "Gather", "Cast", "Mul"]


def test_size_cap():
    g = graph_of({"x": "float[1]"}, "a = ConstantOfShape(k)\nb = ReduceSum(a)\ny = Add(x, b)", k=np.array([100, 100]))
    assert_refuses(g, "fold-constants{max-elements=1000}", "more than its operands")
    assert_fires(g, "fold-constants", ["Add"])


def test_work_cap():
    g = graph_of({"x": "float[1]"}, "a = MatMul(k, k)\ny = Add(x, a)", k=rand(64, 64))
    ctx = PassContext(max_fold_work=1000)
    assert ops(optimize(g, passes=["fold-constants"], ctx=ctx)) == ["MatMul", "Add"]
    assert any("multiply-adds" in r.text for r in ctx.remarks)


def test_random_and_quantized_weights_stay():
    g = graph_of({"x": "float[3]"}, "a = RandomNormal<shape=[3]>()\nb = Mul(a, z)\ny = Add(x, b)", z=np.float32(0))
    after, _ = run_pass(g, "fold-constants")
    assert "RandomNormal" in ops(after)
    q, s = np.array([[1, 2], [3, 4], [5, 6]], np.int8), np.float32(0.1)
    g = graph_of({"x": "float[1,3]"}, "w = DequantizeLinear(q, s)\ny = MatMul(x, w)", q=q, s=s)
    after, _ = run_pass(g, "fold-constants")
    assert "DequantizeLinear" in ops(after)
    body = "w = DequantizeLinear(q, s)\nt = Transpose(w)\ny = MatMul(x, t)"
    after, _ = run_pass(graph_of({"x": "float[1,2]"}, body, q=q, s=s), "fold-constants")
    assert "DequantizeLinear" in ops(after)


def test_quantized_summands_are_folded():
    q, s = np.array([1, 2, 3], np.int8), np.float32(0.1)
    after, _ = run_pass(
        graph_of({"x": "float[3]"}, "w = DequantizeLinear(q, s)\ny = Add(x, w)", q=q, s=s), "fold-constants"
    )
    assert ops(after) == ["Add"]


def test_graph_outputs_keep_their_node():
    assert_refuses(graph_of({"x": "float[3]"}, "y = Exp(k)", k=rand(3)), "fold-constants", "graph output")


def test_folding_reaches_shapes_computed_through_floats():
    body = "s = Shape(x)\nf = Cast<to=1>(s)\nh = Mul(f, k)\ni = Cast<to=7>(h)\ny = Expand(one, i)"
    g = graph_of({"x": "float[2,3]"}, body, k=np.float32(2), one=np.float32(1))
    after, _ = run_pass(g, ["fold-constants"])
    assert after.outputs[0].tensor.static_shape == (4, 6)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = ReduceSum<keepdims=0>(k, i)", lambda k: k.sum(0)),
        ("a = ReduceMean<keepdims=0>(k, i)", lambda k: k.mean(0)),
        ("a = CumSum(k, i0)", lambda k: k.cumsum(0)),
        ("a = ReduceLogSumExp<keepdims=0>(k, i)", lambda k: np.log(np.exp(k).sum(0))),
        ("a = MatMul(t, k)\nt = Transpose(k)", lambda k: k.T @ k),
        ("a = LpNormalization<axis=0>(k)", lambda k: k / np.sqrt((k * k).sum(0))),
        ("a = Tanh(k)", np.tanh),
        ("a = Greater(k, k)", lambda k: k > k),
    ],
    ids=lambda part: part.partition("<")[0].partition("(")[0] if isinstance(part, str) else "",
)
def test_constants_of_16_bits_are_rounded_once(body: str, expected: Callable[[np.ndarray], np.ndarray], dtype: Any):
    """A sum of thousands of ones ends at 256 in bfloat16, at 2048 in float16, where every step is rounded."""
    k = np.tile(np.array([1, 0.75], dtype), (5000, 1)) / dtype(8)
    lines = "\n".join(reversed(body.split("\n")))
    g = graph_of({"x": "float[1]"}, f"{lines}\nb = Cast<to=1>(a)\ny = Add(x, b)",
                 k=k, i=np.array([0]), i0=np.array(0))  # fmt: skip
    after = optimize(g, passes=["fold-constants"])
    assert ops(after) == ["Add"]
    folded = after.nodes[0].inputs[1]
    assert folded is not None
    with np.errstate(over="ignore"):
        want = expected(k.astype(np.float64)).astype(dtype)
    np.testing.assert_allclose(
        folded.data, want.astype(np.float32), rtol=float(ml_dtypes.finfo(dtype).eps), err_msg=body
    )
