"""Weights that take two instructions to widen are widened once for many tiles: the copies hold what tiles read before."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from tests.support.run_node import node

Arrays = dict[str, np.ndarray[Any, Any]]


def _results(
    nodes: list[onnx.NodeProto], x: np.ndarray[Any, Any], constants: Arrays
) -> tuple[np.ndarray[Any, Any], str]:
    """What the model gives in float32, and the text of its kernels."""
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    compiled = graphopt.compile(onnx.shape_inference.infer_shapes(model), "x86-64-v3", threads=2)
    assert compiled.program is not None
    text = "\n".join(str(f.script()) for f in compiled.program.functions.values())
    return compiled.run({"x": x})["y"], text


def _close(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> None:
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    assert want.std() > 0.1


@pytest.mark.parametrize(
    ("rows", "depth", "columns", "copied"),
    [(64, 96, 80, 96), (97, 37, 13, 37), (500, 1500, 70, 250), (3, 96, 80, None)],
    ids=str,
)
def test_products(rows: int, depth: int, columns: int, copied: int | None) -> None:
    """``copied``: steps of K that lie in a copy at a time; few rows read B as it is stored."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(ml_dtypes.bfloat16) for s in ((rows, depth), (depth, columns)))
    nodes = [node("MatMul", "x w", "a"), node("Cast", "a", "y", to=TensorProto.FLOAT)]
    got, text = _results(nodes, x, {"w": w})
    _close(got, x.astype(np.float64) @ w.astype(np.float64))
    copies = {int(k) for k in re.findall(r"alloc_local\(\((\d+), \d+\)\)", text)}
    assert copies == (set() if copied is None else {copied})


@pytest.mark.parametrize("extent", [19, 5])
def test_convolutions(extent: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 16, extent, extent)).astype(ml_dtypes.bfloat16)
    first, w = (rng.standard_normal((o, 16, 1, 1)).astype(ml_dtypes.bfloat16) for o in (16, 40))
    nodes = [node("Conv", "x first", "a"), node("Conv", "a w", "b"), node("Cast", "b", "y", to=TensorProto.FLOAT)]
    got, _ = _results(nodes, x, {"first": first, "w": w})
    wide = [a.astype(np.float64) for a in (x, first, w)]
    inner = np.einsum("nchw,oc->nohw", wide[0], wide[1][..., 0, 0])
    _close(got, np.einsum("nchw,oc->nohw", inner, wide[2][..., 0, 0]))


def test_integers_with_a_scale() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((64, 96)).astype(np.float32), rng.integers(-128, 128, (96, 80)).astype(np.int8)
    nodes = [node("DequantizeLinear", "w s", "d"), node("MatMul", "x d", "y")]
    got, _ = _results(nodes, x, {"w": w, "s": np.float32(0.02)})
    _close(got, x.astype(np.float64) @ (w.astype(np.float64) * float(np.float32(0.02))))
