"""What computes on one byte between two quantized values is a table: for every byte what the operators give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import graphopt
from graphopt.backends.base.template import packed_array
from graphopt.backends.lower.byte_tables import table_of
from graphopt.driver.importing import import_onnx
from tests.support.onnx_graphs import model_of
from tests.support.run_node import reference

DQ, Q = "DequantizeLinear", "QuantizeLinear"
CONSTS: dict[str, Any] = {
    "s": np.float32(0.043), "z": np.uint8(121), "t": np.float32(0.004), "v": np.uint8(3), "c": np.float32(1.7),
}  # fmt: skip
SILU = f"""
    d = {DQ}(x, s, z)
    a = Sigmoid(d)
    q = {Q}(a, t, v)
    b = {DQ}(q, t, v)
    m = Mul(d, b)
    y = {Q}(m, s, z)
"""
CHAINS = {
    "silu": SILU,
    "sigmoid": f"d = {DQ}(x, s, z)\na = Sigmoid(d)\ny = {Q}(a, t, v)",
    "hard swish": f"d = {DQ}(x, s, z)\na = HardSwish(d)\ny = {Q}(a, s, z)",
    "power of a number": f"d = {DQ}(x, s, z)\ne = Abs(d)\na = Pow(e, c)\nb = Div(a, c)\ny = {Q}(b, s, z)",
    "other steps": f"d = {DQ}(x, s, z)\nq = {Q}(d, t, v)\nb = {DQ}(q, t, v)\na = Tanh(b)\ny = {Q}(a, t, v)",
}


def _table(model: ModelProto) -> tuple[str, np.ndarray[Any, Any]] | None:
    nodes = import_onnx(model).nodes
    found = table_of(nodes[-1], nodes)
    return None if found is None else (found[0].name, packed_array(found[1]))


@pytest.mark.parametrize("name", CHAINS)
def test_every_byte(name: str) -> None:
    model = model_of({"x": "uint8[2,16,8]"}, CHAINS[name], "y:uint8", opset=21, **CONSTS)
    found = _table(model)
    assert found is not None
    x = np.arange(256, dtype=np.uint8).reshape(2, 16, 8)
    want = reference(model, {"x": x})["y"]
    assert found[0] == "x"
    np.testing.assert_array_equal(found[1], want.reshape(-1))
    np.testing.assert_array_equal(graphopt.compile(model, "x86", threads=1).run({"x": x})["y"], want)


def test_another_kernel_starts_from_another_byte() -> None:
    """What a table is of depends on the nodes that the kernel has, not on its last one alone."""
    text = f"d = {DQ}(x, s, z)\na = Exp(d)\nq = {Q}(a, t, v)\nb = {DQ}(q, t, v)\nc1 = Sigmoid(b)\ny = {Q}(c1, t, v)"
    nodes = import_onnx(model_of({"x": "uint8[4]"}, text, "y:uint8", opset=21, **CONSTS)).nodes
    for first, byte in ((3, "q"), (0, "x"), (3, "q")):
        found = table_of(nodes[-1], nodes[first:])
        assert found is not None
        assert found[0].name == byte
        part = "\n".join(text.splitlines()[first:])
        model = model_of({byte: "uint8[256]"}, part, "y:uint8", opset=21, **CONSTS)
        np.testing.assert_array_equal(
            packed_array(found[1]), reference(model, {byte: np.arange(256, dtype=np.uint8)})["y"]
        )


def test_signed_bytes() -> None:
    consts = CONSTS | {"z": np.int8(-5), "v": np.int8(-128)}
    model = model_of({"x": "int8[256]"}, SILU, "y:int8", opset=21, **consts)
    x = np.arange(-128, 128).astype(np.int8)
    want = reference(model, {"x": x})["y"]
    np.testing.assert_array_equal(graphopt.compile(model, "x86", threads=1).run({"x": x})["y"], want)
    assert len(np.unique(want)) > 50


@pytest.mark.parametrize(
    "text",
    [
        f"d = {DQ}(x, s, z)\ne = {DQ}(w, s, z)\na = Sigmoid(d)\nm = Mul(a, e)\ny = {Q}(m, s, z)",  # of two bytes
        f"d = {DQ}(x, s, z)\na = Relu(d)\nm = Mul(a, c)\ny = {Q}(m, s, z)",  # a few instructions
        f"d = {DQ}(x, s, z)\na = Sigmoid(d)\nm = Mul(a, k)\ny = {Q}(m, s, z)",  # a number an element
    ],
    ids=["two", "cheap", "vector"],
)
def test_other_functions_have_none(text: str) -> None:
    inputs = {"x": "uint8[4]", "w": "uint8[4]"}
    consts = CONSTS | {"k": np.arange(4, dtype=np.float32)}
    assert _table(model_of(inputs, text, "y:uint8", opset=21, **consts)) is None


@pytest.mark.parametrize("kernel", [1, 3])
def test_behind_a_convolution(kernel: int) -> None:
    """The byte is what the accumulator becomes; sums are exact, so that the whole of it is."""
    rng = np.random.default_rng(0)
    w = rng.integers(-90, 91, (32, 32, kernel, kernel)).astype(np.int8)
    text = f"""
        xf = {DQ}(x, s, z)
        wf = {DQ}(w, u)
        f = Conv<pads=[{kernel // 2},{kernel // 2},{kernel // 2},{kernel // 2}]>(xf, wf)
        x1 = {Q}(f, n, z)
    """ + SILU.replace("(x, s, z)", "(x1, n, z)").replace("\n    ", "\n        ")
    consts = {k: v for k, v in CONSTS.items() if k != "c"} | {"w": w, "u": np.float32(0.01), "n": np.float32(0.06)}
    model = model_of({"x": "uint8[1,32,28,28]"}, text, "y:uint8", opset=21, **consts)
    x = rng.integers(0, 256, (1, 32, 28, 28)).astype(np.uint8)
    compiled = graphopt.compile(model, "x86-64-v3", threads=1)
    assert [k.function for k in compiled.program.kernels if k.choice.template == "generic"] in (
        ["identity"],
        ["identity", "identity_1"],
    )
    pads = kernel // 2
    padded = np.pad(x.astype(np.int64) - 121, ((0, 0), (0, 0), (pads, pads), (pads, pads)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(2, 3))
    sums = np.einsum("nchwij,ocij->nohw", windows, w.astype(np.int64), optimize=True)
    factor = np.float32(0.01) * (np.float32(0.043) / np.float32(0.06))
    byte = np.clip(np.rint(sums.astype(np.float32) * factor) + 121, 0, 255).astype(np.uint8)
    assert byte.std() > 10
    table = model_of({"x1": "uint8[256]"}, SILU.replace("(x, s, z)", "(x1, n, z)"), "y:uint8", opset=21, **consts)
    entries = reference(table, {"x1": np.arange(256, dtype=np.uint8)})["y"]
    np.testing.assert_array_equal(compiled.run({"x": x})["y"], entries[byte])


def test_constants_alone_are_no_function() -> None:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(DQ, ["k", "s", "z"], ["d"]), helper.make_node("Sigmoid", ["d"], ["a"]),
             helper.make_node("Add", ["a", "x"], ["m"]), helper.make_node(Q, ["m", "s", "z"], ["y"])],
            "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
            [helper.make_tensor_value_info("y", TensorProto.UINT8, [4])],
            [numpy_helper.from_array(np.arange(4, dtype=np.uint8), "k"),
             *(numpy_helper.from_array(np.asarray(CONSTS[n]), n) for n in "sz")],
        ),
        opset_imports=[helper.make_opsetid("", 21)], ir_version=10,
    )  # fmt: skip
    assert _table(model) is None
