"""LSTM, GRU and RNN against ONNX Runtime without optimisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from graphopt.driver.compiling import compile

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def model_of(
    op: str, time: Any, batch: Any, feeds: dict[str, np.ndarray], hidden: int, **attrs: Any
) -> onnx.ModelProto:
    """One recurrent node; ``time`` and ``batch`` may be names."""
    count = 3 if op == "LSTM" else 2
    order = ["X", "W", "R", "B", "lens", "h0", "c0", "P"] if op == "LSTM" else ["X", "W", "R", "B", "lens", "h0"]
    names = [n if n in feeds else "" for n in order]
    node = helper.make_node(op, names, ["Y", "Y_h", "Y_c"][:count], hidden_size=hidden, **attrs)
    infos = []
    for name, array in feeds.items():
        shape: list[Any] = list(array.shape)
        if name == "X":
            shape[0], shape[1] = (batch, time) if attrs.get("layout") else (time, batch)
        kind = TensorProto.INT32 if name == "lens" else TensorProto.FLOAT
        if name in ("W", "R", "B", "P"):
            continue
        infos.append(helper.make_tensor_value_info(name, kind, shape if name == "X" else None))
        if name != "X":
            axis = {"lens": 0, "h0": 0 if attrs.get("layout") else 1, "c0": 0 if attrs.get("layout") else 1}[name]
            shape[axis] = batch
            infos[-1] = helper.make_tensor_value_info(name, kind, shape)
    weights = [onnx.numpy_helper.from_array(feeds[n], n) for n in ("W", "R", "B", "P") if n in feeds]
    outputs = [helper.make_empty_tensor_value_info(n) for n in ["Y", "Y_h", "Y_c"][:count]]
    graph = helper.make_graph([node], "recurrent", infos, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def arrays(
    op: str, time: int, batch: int, features: int, hidden: int, directions: int, optional: str, layout: int = 0
) -> dict[str, np.ndarray]:
    """Random operands; ``optional`` holds the letters of optional ones: Bias, Lengths, States, Peepholes."""
    rng = np.random.default_rng(time * 100 + batch)
    gates = GATES[op]

    def normal(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.5).astype(np.float32)

    feeds = {"X": normal(batch, time, features) if layout else normal(time, batch, features)}
    feeds["W"], feeds["R"] = normal(directions, gates * hidden, features), normal(directions, gates * hidden, hidden)
    if "B" in optional:
        feeds["B"] = normal(directions, 2 * gates * hidden)
    if "L" in optional:
        feeds["lens"] = rng.integers(1, time + 1, batch).astype(np.int32)
    if "S" in optional:
        shape = (batch, directions, hidden) if layout else (directions, batch, hidden)
        feeds["h0"] = normal(*shape)
        if op == "LSTM":
            feeds["c0"] = normal(*shape)
    if "P" in optional and op == "LSTM":
        feeds["P"] = normal(directions, 3 * hidden)
    return feeds


def compare(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    """Equal to ONNX Runtime's results."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {i.name: feeds[i.name] for i in session.get_inputs()}
    compiled = compile(model, threads=1)
    for want, (name, got) in zip(session.run(None, feed), compiled.run(feed).items()):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(("direction", "optional"), [("forward", ""), ("reverse", "BS"), ("bidirectional", "BLSP")])
def test_directions_and_optional_operands(op: str, direction: str, optional: str) -> None:
    directions = 2 if direction == "bidirectional" else 1
    feeds = arrays(op, 4, 3, 5, 6, directions, optional)
    compare(model_of(op, 4, 3, feeds, 6, direction=direction), feeds)


def test_widths_of_whole_vectors() -> None:
    feeds = arrays("LSTM", 3, 1, 32, 24, 1, "BS")
    compare(model_of("LSTM", 3, 1, feeds, 24), feeds)


def test_gru_with_the_reset_gate_after_the_product() -> None:
    feeds = arrays("GRU", 4, 2, 3, 5, 1, "BS")
    compare(model_of("GRU", 4, 2, feeds, 5, linear_before_reset=1), feeds)


def test_activations_with_parameters_and_clip() -> None:
    feeds = arrays("LSTM", 3, 2, 4, 5, 1, "B")
    acts = {
        "activations": ["HardSigmoid", "ScaledTanh", "Softsign"],
        "activation_alpha": [0.3, 1.5],
        "activation_beta": [0.4, 0.7],
    }
    compare(model_of("LSTM", 3, 2, feeds, 5, **acts), feeds)
    compare(model_of("LSTM", 3, 2, feeds, 5, clip=0.4), feeds)


def test_symbolic_time_and_batch() -> None:
    feeds = arrays("GRU", 5, 2, 3, 4, 2, "BLS")
    model = model_of("GRU", "T", "N", feeds, 4, direction="bidirectional")
    compare(model, feeds)
    compare(model, arrays("GRU", 1, 3, 3, 4, 2, "BLS") | {k: feeds[k] for k in ("W", "R", "B")})


def test_generates_code_for_gpus() -> None:
    """The time loop stays on the host there; without a GPU only the generation of code can be tested."""
    feeds = arrays("GRU", 2, 1, 3, 4, 1, "")
    compiled = compile(model_of("GRU", 2, 1, feeds, 4), "cuda:sm_80")
    assert compiled.program is not None
    assert len(compiled.program.kernels) == 1
