"""Small decoders whose keys and values of earlier tokens are inputs and outputs, as exporters write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HEADS, SIZE, LAYERS = 3, 8, 2
WIDTH = HEADS * SIZE


def decoder(
    batch: int = 1, tokens: int | str = 1, dtype: int = TensorProto.FLOAT, layers: int = LAYERS, masked: bool = False
) -> onnx.ModelProto:
    """``x[batch, tokens, WIDTH]`` and past keys and values to ``y`` and present ones.

    Args:
        batch: sequences.
        tokens: new ones in a run; a name for any number.
        dtype: of all tensors.
        masked: an input is added to the scores, whose length has a name of its own.
    """
    rng = np.random.default_rng(1)
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    nodes: list[Any] = []
    weights: list[Any] = []

    def weight(name: str, *shape: int) -> str:
        weights.append(numpy_helper.from_array((rng.standard_normal(shape) / shape[0] ** 0.5).astype(kind), name))
        return name

    def ints(name: str, *values: int) -> str:
        weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def node(op: str, inputs: str, output: str, **attrs: Any) -> str:
        nodes.append(helper.make_node(op, inputs.split(), [output], name=f"n_{output}", **attrs))
        return output

    split, joined = ints("split", 0, 0, HEADS, SIZE), ints("joined", 0, 0, WIDTH)
    weights.append(numpy_helper.from_array(np.array(SIZE**-0.5, kind), "scale"))
    inputs = [helper.make_tensor_value_info("x", dtype, [batch, tokens, WIDTH])]
    if masked:
        inputs.append(helper.make_tensor_value_info("mask", dtype, [1, 1, tokens, "total"]))
    outputs = [helper.make_tensor_value_info("y", dtype, [batch, tokens, WIDTH])]
    x = "x"
    for i in range(layers):
        parts = {}
        for part in "qkv":
            flat = node("MatMul", f"{x} {weight(f'w{part}{i}', WIDTH, WIDTH)}", f"{part}_flat{i}")
            parts[part] = node(
                "Transpose", node("Reshape", f"{flat} {split}", f"{part}_heads{i}"), f"{part}{i}", perm=[0, 2, 1, 3]
            )
        for part, name in (("k", "key"), ("v", "value")):
            inputs.append(helper.make_tensor_value_info(f"past.{i}.{name}", dtype, [batch, HEADS, "past", SIZE]))
            outputs.append(helper.make_tensor_value_info(f"present.{i}.{name}", dtype, [batch, HEADS, "grown", SIZE]))
            parts[part] = node("Concat", f"past.{i}.{name} {parts[part]}", f"present.{i}.{name}", axis=2)
        scores = node(
            "MatMul", f"{parts['q']} {node('Transpose', parts['k'], f'kt{i}', perm=[0, 1, 3, 2])}", f"scores{i}"
        )
        scores = node("Mul", f"{scores} scale", f"scaled{i}")
        if masked:
            scores = node("Add", f"{scores} mask", f"masked{i}")
        context = node("MatMul", f"{node('Softmax', scores, f'weights{i}', axis=-1)} {parts['v']}", f"context{i}")
        flat = node("Reshape", f"{node('Transpose', context, f'back{i}', perm=[0, 2, 1, 3])} {joined}", f"flat{i}")
        out = node("MatMul", f"{flat} {weight(f'wo{i}', WIDTH, WIDTH)}", f"out{i}")
        x = node("Add", f"{out} {x}", "y" if i == layers - 1 else f"x{i + 1}")
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
