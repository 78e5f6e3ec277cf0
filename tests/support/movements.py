"""Random models of Concat, Split, Slice and what may lie between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Node = onnx.NodeProto
OPSET = [helper.make_opsetid("", 20)]


def model(
    nodes: Sequence[Node], outputs: Sequence[str], shape: Sequence[int | str], consts: dict[str, Any] | None = None
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (consts or {}).items()],
    )  # fmt: skip
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=OPSET))


def n(op: str, inputs: str, outputs: str, **attrs: Any) -> Node:
    return helper.make_node(op, inputs.split(), outputs.split(), **attrs)


@st.composite
def movements(draw: st.DrawFn, shape: Sequence[int | str] = (1, 16, 4, 2)) -> onnx.ModelProto:
    """A model whose input ``x`` has this shape, of 16 channels."""
    channels = {"x": 16}
    nodes: list[Node] = []
    consts: dict[str, Any] = {"axis": np.array([1])}
    for i in range(draw(st.integers(3, 12))):
        pick = st.sampled_from(sorted(channels))
        op = draw(st.sampled_from(["Relu", "Add", "Concat", "Concat", "Split", "Slice", "View"]))
        a, name = draw(pick), f"v{i}"
        if op == "Concat":
            parts = [a, *draw(st.lists(pick, min_size=1, max_size=3))]
            if sum(channels[p] for p in parts) > 160:
                continue
            nodes.append(n("Concat", " ".join(parts), name, axis=1))
            channels[name] = sum(channels[p] for p in parts)
        elif op == "Split" and channels[a] >= 2:
            first = draw(st.integers(1, channels[a] - 1))
            consts[f"s{i}"] = np.array([first, channels[a] - first])
            nodes.append(n("Split", f"{a} s{i}", f"{name} {name}r", axis=1))
            channels[name], channels[f"{name}r"] = first, channels[a] - first
        elif op == "Slice":
            first = draw(st.integers(0, channels[a] - 1))
            consts[f"b{i}"], consts[f"e{i}"] = np.array([first]), np.array([channels[a]])
            nodes.append(n("Slice", f"{a} b{i} e{i} axis", name))
            channels[name] = channels[a] - first
        elif op == "View":
            wanted = [0, channels[a], -1 if isinstance(shape[3], int) else 0, 0]
            consts[f"r{i}"] = np.array(wanted)
            nodes.append(n("Reshape", f"{a} r{i}", name))
            channels[name] = channels[a]
        elif op == "Add":
            nodes.append(n("Add", f"{a} {a}", name))
            channels[name] = channels[a]
        else:
            nodes.append(n("Neg", a, name))
            channels[name] = channels[a]
    made = [o for node in nodes for o in node.output]
    if not made:
        nodes, made = [n("Neg", "x", "v")], ["v"]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    return model(nodes, outputs, shape, consts)
