"""QuantizeLinear and DequantizeLinear move through what keeps elements: no bit of any result changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import export_onnx, optimize
from tests.support.onnx_graphs import assert_fires, graph_of, model_of, ops, run_pass
from tests.support.ort import run_ort

PASS = "move-quantization"
S = {"s": np.float32(0.1), "z": np.uint8(7), "t": np.float32(0.2)}
DQ, Q = "DequantizeLinear", "QuantizeLinear"
X = {"x": "uint8[1,4,6,6]"}
MOVES: dict[str, tuple[str, dict[str, Any], str]] = {
    "reshape": ("m = Reshape(d, k)", {"k": np.array([1, 4, 36])}, "Reshape"),
    "transpose": ("m = Transpose<perm=[0,2,3,1]>(d)", {}, "Transpose"),
    "slice": ("m = Slice(d, a, b, c)", {"a": np.array([1]), "b": np.array([3]), "c": np.array([1])}, "Slice"),
    "gather": ("m = Gather<axis=1>(d, a)", {"a": np.array([3, 0])}, "Gather"),
    "tile": ("m = Tile(d, k)", {"k": np.array([1, 1, 2, 1])}, "Tile"),
    "depth to space": ("m = DepthToSpace<blocksize=2>(d)", {}, "DepthToSpace"),
    "pad": ("m = Pad(d, k)", {"k": np.array([0, 0, 1, 2, 0, 0, 3, 1])}, "Pad"),
    "pad with zero": ("m = Pad(d, k, v)", {"k": np.array([0, 0, 1, 2, 0, 0, 3, 1]), "v": np.float32(0)}, "Pad"),
    "reflecting pad": ('m = Pad<mode="reflect">(d, k)', {"k": np.array([0, 0, 1, 2, 0, 0, 3, 1])}, "Pad"),
    "nearest resize": (
        'm = Resize<mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric">(d, , k)',
        {"k": np.array([1, 1, 2, 1.5], np.float32)},
        "Resize",
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_integers(name: str) -> None:
    text, consts, op = MOVES[name]
    graph = graph_of(X, f"d = {DQ}(x, s, z)\n{text}\ny = Relu(m)", **S, **consts)
    after = assert_fires(graph, PASS, [op, DQ, "Relu"])
    integers = after.nodes[0].out
    assert str(integers.dtype) == "u8"


@pytest.mark.parametrize("name", MOVES)
def test_and_quantizing_again_vanishes(name: str) -> None:
    """Also where the node adds elements, which have to be the zero point then."""
    text, consts, op = MOVES[name]
    graph = graph_of(X, f"d = {DQ}(x, s, z)\n{text}\ny = {Q}(m, s, z)", "y:uint8", **S, **consts)
    assert_fires(graph, [PASS, "dead-code"], [op])


def test_what_split_gives() -> None:
    graph = graph_of(X, f"d = {DQ}(x, s, z)\na, b = Split<axis=1, num_outputs=2>(d)\ny = Add(a, b)", **S)
    assert_fires(graph, PASS, ["Split", DQ, DQ, "Add"])


def test_what_split_gives_and_nobody_reads() -> None:
    text = f"d = {DQ}(x, s, z)\na, b = Split<axis=1, num_outputs=2>(d)\ny = Relu(a)"
    assert_fires(graph_of(X, text, **S), PASS, ["Split", DQ, "Relu"])


def test_what_is_concatenated() -> None:
    inputs = {"x": "uint8[1,2,3]", "w": "uint8[1,5,3]"}
    text = f"a = {DQ}(x, s, z)\nb = {DQ}(w, s, z)\nm = Concat<axis=1>(a, b)\ny = Relu(m)"
    assert_fires(graph_of(inputs, text, **S), PASS, ["Concat", DQ, "Relu"])
    other = text.replace("(w, s, z)", "(w, t, z)")
    run_pass(graph_of(inputs, other, **S), PASS)
    assert ops(run_pass(graph_of(inputs, other, **S), PASS)[0]) == [DQ, DQ, "Concat", "Relu"]


def test_quantizing_what_is_concatenated_of_results() -> None:
    text = "a = Exp(x)\nb = Sin(x)\nm = Concat<axis=1>(a, b)\ny = QuantizeLinear(m, s, z)"
    graph = graph_of({"x": "float[1,3,5]"}, text, "y:uint8", **S)
    assert_fires(graph, PASS, ["Exp", "Sin", Q, Q, "Concat"])


def test_a_pool_of_results_reads_integers() -> None:
    text = f"a = Exp(x)\nm = MaxPool<kernel_shape=[2,2], pads=[1,0,0,1]>(a)\ny = {Q}(m, s, z)"
    graph = graph_of({"x": "float[1,3,5,6]"}, text, "y:uint8", **S)
    assert_fires(graph, PASS, ["Exp", Q, DQ, "MaxPool", Q])


@pytest.mark.parametrize(
    ("text", "outputs"),
    [
        # two readers, of which one wants floats
        ("a = Exp(x)\nm = Concat<axis=1>(a, a)\ny = QuantizeLinear(m, s, z)\nv = Sin(m)", "y:uint8 v"),
        # its operand is read by others too
        ("a = Exp(x)\nm = Transpose(a)\ny = QuantizeLinear(m, s, z)\nv = Sin(a)", "y:uint8 v"),
        # a graph input would get a kernel for its quantization
        ("m = Transpose(x)\ny = QuantizeLinear(m, s, z)", "y:uint8"),
        # most of what would be quantized is thrown away
        ("a = Exp(x)\nm = Slice(a, i, j)\ny = QuantizeLinear(m, s, z)", "y:uint8"),
    ],
    ids=["floats wanted", "operand read", "input", "slice"],
)
def test_where_it_would_cost(text: str, outputs: str) -> None:
    consts = {"i": np.array([0]), "j": np.array([1])} if "Slice" in text else {}
    graph = graph_of({"x": "float[2,3,5]"}, text, outputs, **S, **consts)
    before = ops(graph)
    assert ops(run_pass(graph, PASS)[0]) == before


@pytest.mark.parametrize(
    "consts",
    [
        {"s": np.float32(0.1), "z": np.uint8(7), "t": np.float32(0.2), "o": np.uint8(7)},
        {"s": np.float32(0.1), "z": np.uint8(7), "t": np.float32(0.1), "o": np.uint8(8)},
        {"s": np.float32(0.1), "z": np.uint8(7), "t": np.float32(0.1), "o": np.int8(7)},
        {"s": np.float32(-0.1), "z": np.uint8(7), "t": np.float32(-0.1), "o": np.uint8(7)},
        {"s": np.float32(1e-40), "z": np.uint8(7), "t": np.float32(1e-40), "o": np.uint8(7)},
    ],
    ids=["scale", "zero point", "type", "negative", "subnormal"],
)
def test_other_steps_stay(consts: dict[str, Any]) -> None:
    kind = "int8" if consts["o"].dtype == np.int8 else "uint8"
    model = model_of(X, f"d = {DQ}(x, s, z)\ny = {Q}(d, t, o)", f"y:{kind}", **consts)
    after = optimize(import_onnx(model), passes=[PASS], for_export=False)
    assert ops(after) == [DQ, Q]


def test_scales_of_channels_stay() -> None:
    scales = {"s": np.linspace(0.1, 0.4, 4).astype(np.float32), "z": np.zeros(4, np.uint8)}
    graph = graph_of(X, f"d = {DQ}<axis=1>(x, s, z)\nm = Transpose<perm=[0,2,3,1]>(d)\ny = Relu(m)", **scales)
    assert ops(run_pass(graph, PASS)[0]) == [DQ, "Transpose", "Relu"]


@pytest.mark.parametrize("seed", range(6))
def test_random_regions_give_the_same_bits(seed: int) -> None:
    """Chains of moves between a product and a product, compiled, against the model without the pass."""
    rng = np.random.default_rng(seed)
    moves = [
        "{o} = Transpose<perm=[0,1,3,2]>({i})",
        "{o} = Concat<axis=1>({i}, {i})",
        "{o} = MaxPool<kernel_shape=[2,2], strides=[1,1], pads=[0,1,1,0]>({i})",
        "{o} = Pad({i}, pads)",
        "{o} = Relu({i})",
        "{o}, {o}_rest = Split<axis=1, num_outputs=2>({i})",
    ]
    lines, last = [f"v0 = {DQ}(x, s, z)"], "v0"
    for n, i in enumerate(rng.integers(0, len(moves), 4)):
        lines.append(moves[i].format(i=last, o=f"m{n}"))
        last = f"m{n}"
        if rng.random() < 0.6:
            lines += [f"q{n} = {Q}({last}, s, z)", f"v{n + 1} = {DQ}(q{n}, s, z)"]
            last = f"v{n + 1}"
    lines.append(f"y = {Q}({last}, t, z)")
    model = model_of(X, "\n".join(lines), "y:uint8", **S, pads=np.array([0, 0, 1, 0, 0, 0, 0, 2]))
    x = rng.integers(0, 256, (1, 4, 6, 6)).astype(np.uint8)
    (want,) = run_ort(model, {"x": x})
    moved = export_onnx(optimize(import_onnx(model), passes=[PASS, "cse", "dead-code"], for_export=False))
    onnx.checker.check_model(moved)
    np.testing.assert_array_equal(run_ort(moved, {"x": x})[0], want)
    np.testing.assert_array_equal(graphopt.compile(model, "x86", threads=1).run({"x": x})["y"], want)
