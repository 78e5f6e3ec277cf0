"""Element-wise operators against ONNX's reference evaluator: every dtype, broadcasting, extreme values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.errors import UserError
from tests.support.run_node import check, model_with, node, run

INTS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
EDGES = [np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 1e-6, -1e-6, 1, -1, 3, -3, 6, 30, -30]
FLOAT_UNARY = (
    "Abs", "Asinh", "Atan", "Ceil", "Cos", "Erf", "Exp", "Floor", "IsInf", "IsNaN", "Neg", "Reciprocal", "Relu", "Round", "Sigmoid",
    "Sign", "Sin", "Softsign", "Sqrt", "Tanh", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Selu", "ThresholdedRelu",
    "Identity",
)  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.few(2)
def test_functions_of_floats(dtype: str) -> None:
    x = np.array(EDGES, dtype)
    narrow = np.linspace(-0.99, 0.99, 7).astype(dtype)
    wide = np.array([1, 1.5, 100], dtype)
    nodes = [node(op, "x", f"y_{op}") for op in FLOAT_UNARY]
    nodes += [
        node(op, "narrow", f"n_{op}")
        for op in ("Acos", "Asin", "Atanh", "Cosh", "Sinh", "Tan", "Softplus", "Mish", "Celu")
    ]
    nodes += [node("Acosh", "wide", "acosh"), node("Log", "wide", "log")]
    nodes += [node("Gelu", "narrow", "g0"), node("Gelu", "narrow", "g1", approximate="tanh")]
    nodes += [node("Shrink", "narrow", "shrunk", lambd=0.4, bias=0.1)]
    if dtype == "float16":
        nodes = [n for n in nodes if n.op_type not in ("Acosh", "Atanh", "Mish")]  # rounded twice by the evaluator
    check(
        nodes,
        {"x": x, "narrow": narrow, "wide": wide},
        rtol=2e-3 if dtype == "float16" else 1e-5,
        atol=2e-3 if dtype == "float16" else 1e-6,
    )


def test_log_of_edges() -> None:
    x = np.array([*EDGES, 1e-45, 1e-40], np.float32)
    check([node("Log", "x", "y")], {"x": x})


@pytest.mark.parametrize("dtype", INTS)
@pytest.mark.few(4)
def test_integer_arithmetic(dtype: str) -> None:
    info = np.iinfo(dtype)
    a = np.array([info.min, info.max, 7, 8, 0, 1, info.max - 1, 5], dtype)
    b = np.array([3, 2, 2, 3, 5, info.max, 1, 7], dtype)
    if info.min < 0:
        a, b = np.concatenate([a, a, -b]), np.concatenate([b, -b, b])
    nodes = [
        node(op, "a b", op.lower())
        for op in ("Add", "Sub", "Mul", "Mod", "Max", "Min", "Equal", "Less", "GreaterOrEqual")
    ]
    nodes += [node("Mod", "a b", "fmod", fmod=1), node("Sign", "a", "sign"), node("Abs", "a", "abs")]
    nodes += [
        node("BitwiseAnd", "a b", "and"),
        node("BitwiseOr", "a b", "or"),
        node("BitwiseXor", "a b", "xor"),
        node("BitwiseNot", "a", "not"),
    ]
    check(nodes, {"a": a, "b": b})
    quotient = np.array([abs(int(x)) // abs(int(y)) * (1 if (x < 0) == (y < 0) else -1) for x, y in zip(a, b)], object)
    check([node("Div", "a b", "q")], {"a": a, "b": b}, want={"q": quotient.astype(dtype)})


def test_division_never_traps() -> None:
    a, b = np.array([1, np.iinfo(np.int32).min, 0, -7], np.int32), np.array([0, -1, 0, 0], np.int32)
    want = np.array([0, np.iinfo(np.int32).min, 0, 0], np.int32)
    zero = np.zeros(4, np.int32)
    nodes = [node("Div", "a b", "q"), node("Mod", "a b", "r")]
    check(nodes, {"a": a, "b": b}, want={"q": want, "r": zero})
    # a division guarded in the model: fused into one kernel, the guard must not talk TVM out of ours
    guarded = [node("Div", "a b", "q"), node("Equal", "b zero", "z"), node("Where", "z a q", "y")]
    model = model_with(guarded, {"a": a, "b": b}, {"zero": np.array(0, np.int32)})
    for level in (0, 2):
        np.testing.assert_array_equal(run(model, {"a": a, "b": b}, level=level)["y"], np.where(b == 0, a, want))


def test_division_by_constant_zero() -> None:
    x, i = np.array([1, -1, 0, np.nan, np.inf], np.float32), np.array([1, 0, -3], np.int32)
    consts = {"z": np.array(0, np.float32), "n": np.array(-0.0, np.float32), "iz": np.array(0, np.int32)}
    with np.errstate(all="ignore"):
        want = {
            "a": x / np.float32(0),
            "b": x / np.float32(-0.0),
            "c": np.zeros(3, np.int32),
            "d": np.zeros(3, np.int32),
        }
    nodes = [node("Div", "x z", "a"), node("Div", "x n", "b"), node("Div", "i iz", "c"), node("Mod", "i iz", "d")]
    check(nodes, {"x": x, "i": i}, consts, want)


def test_shifts_beyond_the_width() -> None:
    a = np.array([1, 255, 128, 3, 255], np.uint8)
    by = np.array([0, 7, 8, 200, 1], np.uint8)
    nodes = [node("BitShift", "a b", "l", direction="LEFT"), node("BitShift", "a b", "r", direction="RIGHT")]
    want = {"l": np.array([1, 128, 0, 0, 254], np.uint8), "r": np.array([1, 1, 0, 0, 127], np.uint8)}
    check(nodes, {"a": a, "b": by}, want=want)


def test_nan_spreads_through_max_min_clip_relu() -> None:
    a, b = np.array([np.nan, 1, 2, np.inf, np.nan], np.float32), np.array([1, np.nan, 3, -np.inf, np.nan], np.float32)
    nodes = [node("Max", "a b", "x"), node("Min", "a b", "n"), node("Clip", "a lo hi", "c"), node("Relu", "a", "r")]
    nodes += [
        node("Clip", "a lo", "low"),
        node("Clip", "a _ hi", "high"),
        node("Clip", "a hi lo", "crossed"),
        node("Max", "a b a", "three"),
    ]
    lo, hi = np.float32(0), np.float32(1.5)
    clip = np.minimum(np.maximum(a, lo), hi)
    want = {
        "x": np.maximum(a, b), "n": np.minimum(a, b), "c": clip, "r": np.maximum(a, 0), "low": np.maximum(a, lo),
        "high": np.minimum(a, hi), "crossed": np.minimum(np.maximum(a, hi), lo), "three": np.maximum(a, b),
    }  # fmt: skip
    check(nodes, {"a": a, "b": b}, {"lo": np.array(lo), "hi": np.array(hi)}, want)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_comparisons_of_nan(dtype: str) -> None:
    x = np.array([np.nan, 1, np.inf, -0.0], dtype)
    nodes = [node(op, "x x", op.lower()) for op in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")]
    nodes += [
        node("IsInf", "x", "pos", detect_negative=0),
        node("IsInf", "x", "none", detect_negative=0, detect_positive=0),
    ]
    check(nodes, {"x": x})


def test_powers() -> None:
    x = np.array([-2, -1, -0.0, 0, 1, 2, 3, np.inf, -np.inf], np.float32)
    y = np.array([3, 2, 3, 0, -1, 0.5, -2, 2, 3], np.float32)
    i, j = np.array([-3, -1, 2, 1, 0, -2, 2, 7], np.int64), np.array([3, 5, -1, -4, 0, 0, 62, 2], np.int64)
    nodes = [node("Pow", "x y", "ff"), node("Pow", "x j9", "fi"), node("Pow", "i j", "ii")]
    fixed = {f"c{n}": np.array(v, np.float32) for n, v in enumerate((0.5, 1.0, 2.0, 3.0, -1.0, 2.5))}
    nodes += [node("Pow", f"x {name}", f"y_{name}") for name in fixed]
    feed = {"x": x, "y": y, "j9": np.array([3, 2, 3, 0, -1, 5, -2, 2, 3], np.int64), "i": i.astype(np.int32), "j": j}
    want: dict[str, Any] = {f"y_{n}": np.power(x, np.full_like(x, v)) for n, v in fixed.items()}
    want |= {"ff": np.power(x, y), "fi": np.power(x, feed["j9"].astype(np.float32))}
    want["ii"] = np.array([-27, -1, 0, 1, 1, 1, 0, 49], np.int32)
    with np.errstate(all="ignore"):
        for name in ("ff", "fi", *(f"y_{n}" for n in fixed)):
            want[name] = want[name].astype(np.float32)
    check(nodes, feed, fixed, want)


SHAPES = [((3, 1, 5), (4, 1)), ((), (7,)), ((1,), (1,)), ((33,), (2, 33)), ((0, 3), (1, 3)), ((2, 3, 1, 5), (1, 4, 1))]


def test_broadcasting() -> None:
    rng = np.random.default_rng(0)
    feed, nodes, want = {}, [], {}
    for n, (left, right) in enumerate(SHAPES):
        a, b = rng.random(left, np.float32), rng.random(right, np.float32)
        feed[f"a{n}"], feed[f"b{n}"] = np.asarray(a), np.asarray(b)
        ins = f"a{n} b{n}"
        nodes += [node("Sub", ins, f"sub{n}"), node("Less", ins, f"lt{n}"), node("Where", f"lt{n} {ins}", f"w{n}")]
        nodes += [node("Mean", f"{ins} a{n}", f"mean{n}"), node("Sum", ins, f"sum{n}")]
        want |= {
            f"sub{n}": a - b,
            f"lt{n}": a < b,
            f"w{n}": np.where(a < b, a, b),
            f"mean{n}": (a + b + a) / 3,
            f"sum{n}": a + b,
        }
    check(nodes, feed, want={k: np.asarray(v, np.float32 if k[0] != "l" else bool) for k, v in want.items()})


def test_symbolic_vectors() -> None:
    x = np.linspace(-2, 2, 33).astype(np.float32).reshape(3, 11)
    check(
        [node("Tanh", "x", "t"), node("Gelu", "x", "g"), node("Add", "x x", "s"), node("Sin", "x", "i")],
        {"x": x},
        symbolic=True,
    )


def test_dropout_is_identity() -> None:
    x = np.ones((2, 5), np.float32)
    check([node("Dropout", "x", "y mask")], {"x": x}, want={"y": x, "mask": np.ones((2, 5), bool)})
    consts = {"r": np.array(0.5, np.float32), "t": np.array(True)}
    with pytest.raises(UserError, match="training"):
        run(model_with([node("Dropout", "x r t", "y")], {"x": x}, consts), {"x": x})


def test_logic() -> None:
    a, b = np.array([0, 0, 1, 1] * 5, bool), np.array([0, 1, 0, 1] * 5, bool)
    nodes = [node(op, "a b", op.lower()) for op in ("And", "Or", "Xor", "Equal")]
    check([*nodes, node("Not", "a", "not"), node("Where", "a b a", "where")], {"a": a, "b": b})
