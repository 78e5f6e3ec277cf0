"""The generic lowering of LSTM, GRU and RNN against ONNX Runtime without optimisation."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from graphopt.driver.compiling import compile
from tests.support.recurrent import arrays, model_of


def compare(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    """Equal to ONNX Runtime's results."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {i.name: feeds[i.name] for i in session.get_inputs()}
    compiled = compile(model, threads=1, level=0)  # which has no templates
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
