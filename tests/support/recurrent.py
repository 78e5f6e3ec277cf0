"""Models of one recurrent node, their operands, and what they compute in float64 by ONNX's formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
from onnx import TensorProto, helper

Array = np.ndarray
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_FUNCTIONS: dict[str, tuple[tuple[float, ...], Callable[..., Array]]] = {
    "Sigmoid": ((), lambda x: 1 / (1 + np.exp(-x))),
    "Tanh": ((), np.tanh),
    "Relu": ((), lambda x: np.maximum(x, 0)),
    "Softsign": ((), lambda x: x / (1 + np.abs(x))),
    "Softplus": ((), lambda x: np.logaddexp(x, 0)),
    "Affine": ((1.0, 0.0), lambda x, a, b: a * x + b),
    "LeakyRelu": ((0.01,), lambda x, a: np.where(x < 0, a * x, x)),
    "ThresholdedRelu": ((1.0,), lambda x, a: np.where(x < a, 0, x)),
    "ScaledTanh": ((1.0, 1.0), lambda x, a, b: a * np.tanh(b * x)),
    "HardSigmoid": ((0.2, 0.5), lambda x, a, b: np.clip(a * x + b, 0, 1)),
    "Elu": ((1.0,), lambda x, a: np.where(x < 0, a * np.expm1(x), x)),
}


def model_of(
    op: str, time: Any, batch: Any, feeds: dict[str, Array], hidden: int, results: Sequence[str] = (), **attrs: Any
) -> onnx.ModelProto:
    """One recurrent node; ``time`` and ``batch`` may be names; all results by default."""
    names = ["Y", "Y_h", "Y_c"][: 3 if op == "LSTM" else 2]
    order = ["X", "W", "R", "B", "lens", "h0", "c0", "P"] if op == "LSTM" else ["X", "W", "R", "B", "lens", "h0"]
    wanted = [n if not results or n in results else "" for n in names]
    node = helper.make_node(op, [n if n in feeds else "" for n in order], wanted, hidden_size=hidden, **attrs)
    infos = []
    for name, array in feeds.items():
        shape: list[Any] = list(array.shape)
        if name == "X":
            shape[0], shape[1] = (batch, time) if attrs.get("layout") else (time, batch)
        kind = TensorProto.INT32 if name == "lens" else TensorProto.FLOAT
        if name in ("W", "R", "B", "P"):
            continue
        if name != "X":
            axis = {"lens": 0, "h0": 0 if attrs.get("layout") else 1, "c0": 0 if attrs.get("layout") else 1}[name]
            shape[axis] = batch
        infos.append(helper.make_tensor_value_info(name, kind, shape))
    weights = [onnx.numpy_helper.from_array(feeds[n], n) for n in ("W", "R", "B", "P") if n in feeds]
    outputs = [helper.make_empty_tensor_value_info(n) for n in wanted if n]
    graph = helper.make_graph([node], "recurrent", infos, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def arrays(
    op: str, time: int, batch: int, features: int, hidden: int, directions: int, optional: str, layout: int = 0
) -> dict[str, Array]:
    """Random operands; ``optional`` holds the letters of optional ones: Bias, Lengths, States, Peepholes."""
    rng = np.random.default_rng(time * 100 + batch)
    gates = GATES[op]

    def normal(*shape: int) -> Array:
        return (rng.standard_normal(shape) * 0.5).astype(np.float32)

    feeds = {"X": normal(batch, time, features) if layout else normal(time, batch, features)}
    feeds["W"], feeds["R"] = normal(directions, gates * hidden, features), normal(directions, gates * hidden, hidden)
    if "B" in optional:
        feeds["B"] = normal(directions, 2 * gates * hidden)
    if "L" in optional:
        feeds["lens"] = rng.integers(min(time, 1), time + 1, batch).astype(np.int32)
    if "S" in optional:
        shape = (batch, directions, hidden) if layout else (directions, batch, hidden)
        feeds["h0"] = normal(*shape)
        if op == "LSTM":
            feeds["c0"] = normal(*shape)
    if "P" in optional and op == "LSTM":
        feeds["P"] = normal(directions, 3 * hidden)
    return feeds


def weights_of(feeds: dict[str, Array]) -> dict[str, Array]:
    """The constants among operands."""
    return {n: feeds[n] for n in ("W", "R", "B", "P") if n in feeds}


def reference(op: str, feeds: dict[str, Array], **attrs: Any) -> list[Array]:
    """Y, Y_h and, of an LSTM, Y_c in float64, sequence by sequence and step by step."""
    data = {n: a if n == "lens" else a.astype(np.float64) for n, a in feeds.items()}
    batch_first = bool(attrs.get("layout"))
    x = data["X"].swapaxes(0, 1) if batch_first else data["X"]
    time, batch, _ = x.shape
    directions, _, hidden = data["R"].shape
    reverse = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[attrs.get("direction", "forward")]
    functions = _functions(op, directions, attrs)
    history = np.zeros((time, directions, batch, hidden))
    last = np.zeros((2, directions, batch, hidden))
    for d in range(directions):
        for b in range(batch):
            state = np.zeros((2, hidden))
            for i, name in enumerate(("h0", "c0")):
                if name in data:
                    state[i] = data[name][b, d] if batch_first else data[name][d, b]
            length = int(data["lens"][b]) if "lens" in data else time
            steps = range(length)
            for t in reversed(steps) if reverse[d] else steps:
                state = _cell(op, x[t, b], state, d, data, functions[d], attrs)
                history[t, d, b] = state[0]
            last[:, d, b] = state
    if batch_first:
        history, last = history.transpose(2, 0, 1, 3), last.swapaxes(1, 2)
    return [history, *last[: 2 if op == "LSTM" else 1]]


def _functions(op: str, directions: int, attrs: dict[str, Any]) -> list[list[Callable[[Array], Array]]]:
    names = attrs.get("activations") or _DEFAULTS[op] * directions
    alphas, betas = list(attrs.get("activation_alpha") or ()), list(attrs.get("activation_beta") or ())
    found: list[Callable[[Array], Array]] = []
    for name in names:
        defaults, fn = _FUNCTIONS[name]
        values = [source.pop(0) if source else value for value, source in zip(defaults, (alphas, betas))]
        found.append(lambda v, fn=fn, values=values: fn(v, *values))
    count = len(_DEFAULTS[op])
    return [found[i : i + count] for i in range(0, len(found), count)]


def _cell(
    op: str, x: Array, state: Array, d: int, data: dict[str, Array], functions: Sequence[Callable[[Array], Array]],
    attrs: dict[str, Any],
) -> Array:  # fmt: skip
    h, c = state
    hidden, gates = len(h), GATES[op]
    limit = attrs.get("clip")

    def clip(v: Array) -> Array:
        return v if limit is None else np.clip(v, -limit, limit)

    bias = data["B"][d] if "B" in data else np.zeros(2 * gates * hidden)
    own = np.split(data["W"][d] @ x + bias[: gates * hidden], gates)
    weights, biases = np.split(data["R"][d], gates), np.split(bias[gates * hidden :], gates)

    def back(gate: int, v: Array = h) -> Array:
        return weights[gate] @ v + biases[gate]

    if op == "RNN":
        return np.stack([functions[0](clip(own[0] + back(0))), c])
    if op == "GRU":
        update, reset = (functions[0](clip(own[g] + back(g))) for g in (0, 1))
        inner = reset * back(2) if attrs.get("linear_before_reset") else back(2, reset * h)
        candidate = functions[1](clip(own[2] + inner))
        return np.stack([(1 - update) * candidate + update * h, c])
    peepholes = np.split(data["P"][d], 3) if "P" in data else [np.zeros(hidden)] * 3
    entry = functions[0](clip(own[0] + back(0) + peepholes[0] * c))
    forget = functions[0](clip(own[2] + back(2) + peepholes[2] * c))
    if attrs.get("input_forget"):
        forget = 1 - entry
    cell = forget * c + entry * functions[1](clip(own[3] + back(3)))
    exposed = functions[0](clip(own[1] + back(1) + peepholes[1] * cell))
    return np.stack([exposed * functions[2](cell), cell])
