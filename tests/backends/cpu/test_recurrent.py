"""The kernels of recurrent layers against ONNX's formulas in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.backends.cpu.recurrent import Recurrent
from graphopt.backends.program.program import KernelStep
from graphopt.driver.compiling import compile
from graphopt.errors import InputError, ModelError
from graphopt.runtime.model import CompiledModel
from tests.support.recurrent import Array, arrays, model_of, reference, weights_of

TOLERANCE = 4e-6
"""Of results, which are at most about 1: sums of some dozen products, and activations to 2 units in the last place."""


def templates(compiled: CompiledModel) -> list[str]:
    assert compiled.program is not None
    return [s.template for s in compiled.program.steps if isinstance(s, KernelStep) and s.template != "dims"]


def check(compiled: CompiledModel, op: str, feeds: dict[str, Array], **attrs: Any) -> None:
    """All results of a run are those of the formulas."""
    given = {n: a for n, a in feeds.items() if n not in ("W", "R", "B", "P")}
    got = compiled.run(given)
    want = dict(zip(("Y", "Y_h", "Y_c"), reference(op, feeds, **attrs)))
    for name, array in got.items():
        scale = max(1.0, float(np.abs(want[name]).max(initial=0)))
        np.testing.assert_allclose(array, want[name], rtol=0, atol=TOLERANCE * scale, err_msg=name)


# fmt: off
CASES: list[tuple[str, int, int, str, dict[str, Any]]] = [
    # operator, features, hidden units, optional operands, attributes
    ("LSTM", 5, 37, "BLSP", {"direction": "bidirectional"}),
    ("LSTM", 1, 24, "BLS", {"direction": "reverse", "layout": 1, "clip": 0.4}),
    ("LSTM", 6, 5, "BSP", {"input_forget": 1, "activations": ["HardSigmoid", "ScaledTanh", "Softsign"],
                           "activation_alpha": [0.3, 1.5], "activation_beta": [0.4, 0.7]}),
    ("GRU", 5, 40, "BLS", {"direction": "bidirectional"}),
    ("GRU", 3, 17, "BLS", {"direction": "bidirectional", "linear_before_reset": 1, "layout": 1}),
    ("GRU", 4, 9, "", {"direction": "reverse", "linear_before_reset": 1, "clip": 0.3}),
    ("RNN", 7, 33, "BLS", {"direction": "bidirectional", "activations": ["Elu", "LeakyRelu"],
                           "activation_alpha": [0.7, 0.2], "clip": 0.9}),
    ("RNN", 1, 1, "", {}),
]
# fmt: on


@pytest.mark.parametrize(("op", "features", "hidden", "optional", "attrs"), CASES)
@pytest.mark.few(3)
def test_open_time_and_batch(op: str, features: int, hidden: int, optional: str, attrs: dict[str, Any]) -> None:
    """All attributes and optional operands, at extents from nothing to more than a tile of rows."""
    directions = 2 if attrs.get("direction") == "bidirectional" else 1
    layout = attrs.get("layout", 0)
    first = arrays(op, 4, 3, features, hidden, directions, optional, layout)
    compiled = compile(model_of(op, "T", "N", first, hidden, **attrs), threads=2)
    assert templates(compiled) == ["recurrent"]
    for time, batch in ((4, 3), (1, 1), (5, 9), (0, 2), (3, 4)):
        feeds = arrays(op, time, batch, features, hidden, directions, optional, layout) | weights_of(first)
        check(compiled, op, feeds, **attrs)
    wild = arrays(op, 3, 2, features, hidden, directions, optional, layout) | weights_of(first)
    wild["X"] = wild["X"] * 80
    if op != "RNN":  # whose results would grow with it
        check(compiled, op, wild, **attrs)


@pytest.mark.parametrize(("shares", "parts"), [(3, 0), (1, 3)])
@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_threads_share_the_batch_or_the_hidden_units(
    op: str, shares: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = Recurrent.default
    monkeypatch.setattr(
        Recurrent, "default", lambda *args: replace(default(*args), shares=shares, parts=parts, parallel=True)
    )
    feeds = arrays(op, 5, 7, 6, 43, 2, "BS")
    compiled = compile(model_of(op, 5, 7, feeds, 43, direction="bidirectional"), threads=3)
    for _ in range(3):
        check(compiled, op, feeds, direction="bidirectional")


def test_steps_shared_by_threads_at_the_size_that_pays() -> None:
    """One direction and one sequence of 130 units: threads take parts of each step by themselves."""
    feeds = arrays("LSTM", 9, 1, 8, 130, 1, "BS")
    compiled = compile(model_of("LSTM", 9, 1, feeds, 130), threads=2)
    assert compiled.program is not None
    assert "parts=2" in str(compiled.program)
    check(compiled, "LSTM", feeds)


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v2"])
def test_narrow_vectors(target: str) -> None:
    feeds = arrays("GRU", 3, 5, 4, 13, 1, "B")
    compiled = compile(model_of("GRU", 3, 5, feeds, 13), target, threads=1)
    check(compiled, "GRU", feeds)


@pytest.mark.parametrize("wanted", [("Y",), ("Y_h",), ("Y_c", "Y")])
def test_results_that_nobody_wants_are_left_out(wanted: tuple[str, ...]) -> None:
    feeds = arrays("LSTM", 3, 2, 4, 8, 1, "B")
    compiled = compile(model_of("LSTM", 3, 2, feeds, 8, wanted), threads=1)
    assert templates(compiled) == ["recurrent"]
    assert set(compiled.run({"X": feeds["X"]})) == set(wanted)
    check(compiled, "LSTM", feeds)


def test_nodes_behind_the_layer_are_kernels_of_their_own() -> None:
    feeds = arrays("GRU", 3, 2, 4, 8, 1, "B")
    model = model_of("GRU", 3, 2, feeds, 8, ("Y",))
    model.graph.node.append(helper.make_node("Relu", ["Y"], ["Z"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("Z", TensorProto.FLOAT, None))
    compiled = compile(model, threads=1)
    assert templates(compiled) == ["recurrent", "generic"]
    want = np.maximum(reference("GRU", feeds)[0], 0)
    np.testing.assert_allclose(compiled.run({"X": feeds["X"]})["Z"], want, rtol=0, atol=TOLERANCE)


def test_lengths_beyond_the_data_are_refused() -> None:
    feeds = arrays("RNN", 4, 3, 2, 5, 1, "L")
    compiled = compile(model_of("RNN", "T", "N", feeds, 5), threads=1)
    for wrong in (5, -1):
        lens = np.array([4, wrong, 1], np.int32)
        with pytest.raises(InputError, match=f"a sequence is longer than the data.*{wrong}"):
            compiled.run({"X": feeds["X"], "lens": lens})
    check(compiled, "RNN", feeds)


def test_known_lengths() -> None:
    feeds = arrays("GRU", 4, 3, 2, 9, 2, "L")
    model = model_of("GRU", 4, 3, feeds, 9, direction="bidirectional")
    del model.graph.input[1]
    model.graph.initializer.append(numpy_helper.from_array(feeds["lens"], "lens"))
    compiled = compile(model, threads=1)
    assert templates(compiled) == ["recurrent"]
    want = reference("GRU", feeds, direction="bidirectional")
    got = compiled.run({"X": feeds["X"]})
    np.testing.assert_allclose(got["Y"], want[0], rtol=0, atol=TOLERANCE)
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(feeds["lens"] + 3, "lens"))
    with pytest.raises(ModelError, match="a sequence is longer than the data"):
        compile(model, threads=1)


def test_weights_that_come_at_run_time_are_left_to_the_generic_lowering() -> None:
    feeds = arrays("RNN", 3, 2, 4, 5, 1, "")
    model = model_of("RNN", 3, 2, feeds, 5)
    del model.graph.initializer[1]
    model.graph.input.append(helper.make_tensor_value_info("R", TensorProto.FLOAT, feeds["R"].shape))
    compiled = compile(model, threads=1)
    assert templates(compiled) == ["generic"]
    got = compiled.run({"X": feeds["X"], "R": feeds["R"]})
    np.testing.assert_allclose(got["Y"], reference("RNN", feeds)[0], rtol=0, atol=TOLERANCE)
