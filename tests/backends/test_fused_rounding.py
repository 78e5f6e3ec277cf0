"""Asked to be exact, nodes on narrow floats give in one kernel, bit for bit, what each of them gives in a kernel of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from tests.support.run_node import node

Arrays = dict[str, np.ndarray[Any, Any]]

TYPES = {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}

# Each chain ends in something sensitive to what a step before it rounds away, or to its overflow. A sum right behind a product
# would become part of the product, by a pass.
CHAINS: dict[str, tuple[tuple[int, ...], Sequence[onnx.NodeProto]]] = {
    "elementwise": (
        (3, 37),
        [
            node("Mul", "x big", "a"),
            node("Add", "a big", "b"),
            node("HardSwish", "b", "c"),
            node("Relu", "c", "d"),
            node("Sqrt", "d", "e"),
            node("Cos", "e", "f"),
            node("Cast", "f", "y", to=TensorProto.FLOAT),
        ],
    ),
    "compared": ((3, 37), [node("Exp", "x", "a"), node("Floor", "a", "b"), node("Less", "b a", "y")]),
    "moved": (
        (37, 3),
        [node("Exp", "x", "a"), node("Slice", "a from to", "b"), node("Abs", "b", "c"), node("Tan", "c", "y")],
    ),
    "read twice": (
        (3, 37),
        [node("Exp", "x", "a"), node("Sin", "a", "b"), node("Mul", "a b", "c"), node("Tan", "c", "y")],
    ),
    "behind a convolution": (
        (1, 16, 9, 9),
        [
            node("Conv", "x w", "a", pads=[1, 1, 1, 1]),
            node("Relu", "a", "b"),
            node("Add", "b x", "c"),
            node("Tan", "c", "y"),
        ],
    ),
    "behind a matrix product": (
        (5, 16),
        [
            node("MatMul", "x m", "a"),
            node("Sigmoid", "a", "s"),
            node("Add", "s x", "b"),
            node("Exp", "b", "c"),
            node("Sin", "c", "y"),
        ],
    ),
    "behind a sum": (
        (5, 7, 19),
        [node("ReduceL2", "x last", "a"), node("Tan", "a", "b"), node("Cast", "b", "y", to=TensorProto.DOUBLE)],
    ),
}


def _constants(dtype: np.dtype[Any]) -> Arrays:
    random = np.random.default_rng(7)
    floats = {
        "w": random.standard_normal((16, 16, 3, 3)),
        "m": random.standard_normal((16, 16)),
        "big": np.array([3.0e4]),
    }
    integers = {"from": np.array([1]), "to": np.array([36]), "last": np.array([-1])}
    return {name: array.astype(dtype) for name, array in floats.items()} | integers


def _run(nodes: Sequence[onnx.NodeProto], known: Arrays, constants: Arrays) -> np.ndarray[Any, Any]:
    """The last result of ``nodes``, compiled as one model."""
    made = {name for n in nodes for name in n.output}
    read = sorted({name for n in nodes for name in n.input} - made)
    inputs = [name for name in read if name not in constants]
    types = [helper.np_dtype_to_tensor_dtype(known[name].dtype) for name in inputs]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info(name, t, known[name].shape) for name, t in zip(inputs, types)],
        [helper.make_empty_tensor_value_info(nodes[-1].output[0])],
        [numpy_helper.from_array(constants[name], name) for name in read if name in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    compiled = graphopt.compile(onnx.shape_inference.infer_shapes(model), exact=True)
    (result,) = compiled.run({n: known[n] for n in inputs}).values()
    return result


ROUNDED_ALIKE = ("moved", "read twice", "behind a sum")
"""Chains whose bfloat16 is rounded where other chains' is too."""


@pytest.mark.parametrize(
    ("chain", "dtype"),
    [
        pytest.param(c, t, marks=pytest.mark.slow if t == "bf16" and c in ROUNDED_ALIKE else ())
        for c in CHAINS
        for t in TYPES
    ],
)
@pytest.mark.few(5)
def test_fused_or_alone(chain: str, dtype: str) -> None:
    shape, nodes = CHAINS[chain]
    constants = _constants(TYPES[dtype])
    x = (np.random.default_rng(3).standard_normal(shape) * 3).astype(TYPES[dtype])
    known: Arrays = {"x": x}
    for step in nodes:
        known[step.output[0]] = _run([step], known, constants)
    alone, fused = known[nodes[-1].output[0]], _run(nodes, {"x": x}, constants)
    assert fused.dtype == alone.dtype
    different = (fused != alone) & ~((fused != fused) & (alone != alone))
    assert not different.any(), f"{int(different.sum())} of {alone.size}"
