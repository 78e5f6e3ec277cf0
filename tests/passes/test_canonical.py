"""Canonical passes: removal of no-ops, chains, dead code, common subexpressions, equal constants."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir.dtypes import DType
from graphopt.passes.canonical.casts import is_lossless
from tests.support.onnx_graphs import assert_fires, assert_refuses, graph_of, ops, rand, run_pass

X = {"x": "float[2,3,4]"}
NO_OPS = {
    "identity": ("c = Identity(r)", {}),
    "dropout": ("c = Dropout(r)", {}),
    "dropout with ratio": ("c = Dropout(r, k, f)", {"k": np.float32(0.3), "f": np.bool_(False)}),
    "reshape": ("c = Reshape(r, k)", {"k": np.array([2, 3, 4])}),
    "reshape -1": ("c = Reshape(r, k)", {"k": np.array([0, -1, 4])}),
    "expand": ("c = Expand(r, k)", {"k": np.array([3, 1])}),
    "transpose": ("c = Transpose<perm=[0,1,2]>(r)", {}),
    "slice": ("c = Slice(r, a, b)", {"a": np.array([0, 0]), "b": np.array([2, 2**40])}),
    "pad": ("c = Pad(r, a)", {"a": np.zeros(6, np.int64)}),
    "tile": ("c = Tile(r, a)", {"a": np.ones(3, np.int64)}),
    "concat": ("c = Concat<axis=1>(r)", {}),
    "concat of empty": ("c = Concat<axis=1>(r, a)", {"a": np.zeros((2, 0, 4), np.float32)}),
    "sum": ("c = Sum(r)", {}),
    "split of one": ("c = Split<axis=1, num_outputs=1>(r)", {}),
    "reduce": ("c = ReduceSum<noop_with_empty_axes=1>(r)", {}),
    "clip": ("c = Clip(r)", {}),
    "infinite clip": ("c = Clip(r, a, b)", {"a": np.float32(-np.inf), "b": np.float32(np.inf)}),
    "where": ("c = Where(a, r, b)", {"a": np.array([True]), "b": np.float32(1)}),
    "neg neg": ("d = Neg(r)\nc = Neg(d)", {}),
    "split concat": ("d, e = Split<axis=-1, num_outputs=2>(r)\nc = Concat<axis=2>(d, e)", {}),
}


@pytest.mark.parametrize("name", NO_OPS)
def test_no_ops_are_removed(name):
    text, consts = NO_OPS[name]
    assert_fires(graph_of(X, f"r = Relu(x)\n{text}\ny = Exp(c)", **consts), "remove-no-ops", ["Relu", "Exp"])


def test_a_no_op_at_the_output_hands_its_name_over():
    after = assert_fires(graph_of(X, "r = Relu(x)\ny = Identity(r)"), "remove-no-ops", ["Relu"])
    assert after.nodes[0].out.name == "y"


REFUSED = {
    "input to output": ("y = Identity(x)", {}, "keep its own name"),
    "training": ("y = Dropout(x, k, f)", {"k": np.float32(0), "f": np.bool_(True)}, "training_mode"),
    "reshape": ("y = Reshape(x, k)", {"k": np.array([6, 4])}, "types differ"),
    "slice": ("y = Slice(x, a, b)", {"a": np.array([1]), "b": np.array([2])}, "a part is taken"),
    "reversed": (
        "y = Slice(x, a, b, a, s)",
        {"a": np.array([0]), "b": np.array([-9]), "s": np.array([-1])},
        "order changes",
    ),
    "pad that cancels": ("y = Pad(x, a)", {"a": np.array([0, 0, 1, 0, 0, -1])}, "it pads"),
    "tile": ("y = Tile(x, a)", {"a": np.array([1, 2, 1])}, "repeats"),
    "clip": ("y = Clip(x, a)", {"a": np.float32(0)}, "from below"),
    "where": ("y = Where(a, x, b)", {"a": np.array([True, True, False, True]), "b": np.float32(1)}, "mixed"),
    "where that widens": ("y = Where(a, b, x)", {"a": np.array([True]), "b": np.float32(1)}, "types differ"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_op_refusals(name):
    text, consts, reason = REFUSED[name]
    if name == "reversed":
        consts = {**consts, "b": np.array([-(2**40)])}
    assert_refuses(graph_of(X, text, **consts), "remove-no-ops", reason)


@pytest.mark.parametrize(
    ("text", "k"),
    [("Mul(r, k)", 1), ("Mul(k, r)", 1), ("Div(r, k)", 1), ("Pow(r, k)", 1), ("Add(r, k)", -0.0), ("Sub(r, k)", 0)],
)
def test_neutral_arithmetic(text, k):
    g = graph_of(X, f"r = Tanh(x)\nc = {text}\ny = Exp(c)", k=np.float32(k))
    assert_fires(g, "remove-neutral-arithmetic", ["Tanh", "Exp"])


def test_signed_zeros_and_widening_are_respected():
    g = graph_of(X, "r = Tanh(x)\ny = Add(r, k)", k=np.float32(0.0))
    assert_refuses(g, "remove-neutral-arithmetic", "-0.0")
    g = graph_of(X, "r = Tanh(x)\ny = Sub(r, k)", k=np.float32(-0.0))
    assert_refuses(g, "remove-neutral-arithmetic", "-0.0")
    g = graph_of(X, "r = Tanh(x)\ny = Mul(r, k)", k=np.ones((5, 1, 1, 1), np.float32))
    assert_refuses(g, "remove-neutral-arithmetic", "types differ")
    g = graph_of({"x": "int64[3]"}, "r = Neg(x)\ny = Add(r, k)", "y:int64", k=np.zeros(3, np.int64))
    assert_fires(g, "remove-neutral-arithmetic", ["Neg"])


def test_view_chains():
    g = graph_of({"x": "float[N,3,4]"}, "a = Unsqueeze(x, k)\nb = Flatten<axis=2>(a)\ny = Reshape(b, s)",
                 k=np.array([0]), s=np.array([-1, 6]))  # fmt: skip
    after, _ = run_pass(g, ["merge-views", "dead-code"])
    assert ops(after) == ["Reshape"]
    g = graph_of(X, "a = Transpose<perm=[1,2,0]>(x)\ny = Transpose<perm=[1,0,2]>(a)")
    assert assert_fires(g, "merge-views", ["Transpose"]).nodes[0].attrs["perm"] == [2, 1, 0]


def test_view_chain_of_two_unknown_extents_is_left_alone():
    g = graph_of({"x": "float[N,M,4]"}, "a = Unsqueeze(x, k)\ny = Unsqueeze(a, k)", k=np.array([0]))
    assert_refuses(g, "merge-views", "no constant shape")


KEYS = "a = Reshape(x, merged)\nb = Transpose<perm=[0,2,1]>(a)\ny = Reshape(b, divided)"


@pytest.mark.parametrize("x", ["float[2,3,4,5]", "float[1,1,4,5]", "float[2,3,1,5]"])
def test_a_transpose_between_reshapes_that_merge_axes(x):
    batch, heads, length, width = map(int, x[6:-1].split(","))
    shapes = {"merged": np.array([-1, length, width]), "divided": np.array([batch, heads, width, length])}
    after = assert_fires(graph_of({"x": x}, KEYS, **shapes), "split-merged-transposes", ["Transpose"])
    assert after.nodes[0].attrs["perm"] == [0, 1, 3, 2]


def test_a_transpose_between_reshapes_whose_extents_are_computed():
    body = (
        "n = Shape(x)\nlead = Slice(n, zero, two)\nlength = Slice(n, two, three)\nwidth = Slice(n, three, four)\n"
        "to = Concat<axis=0>(minus, length, width)\na = Reshape(x, to)\nb = Transpose<perm=[0,2,1]>(a)\n"
        "back = Concat<axis=0>(lead, width, length)\ny = Reshape(b, back)"
    )
    numbers = {"zero": [0], "two": [2], "three": [3], "four": [4], "minus": [-1]}
    g = graph_of({"x": "float[N,3,L,5]"}, body, **{k: np.array(v) for k, v in numbers.items()})
    after, _ = run_pass(g, ["split-merged-transposes", "dead-code"])
    assert ops(after) == ["Transpose"]
    assert after.nodes[0].attrs["perm"] == [0, 1, 3, 2]


@pytest.mark.parametrize(
    ("merged", "divided", "reason"),
    [
        ([2, 12, 5], [2, 5, 12], "other axes"),
        ([6, 4, 5], [3, 2, 5, 4], "other axes"),
        ([6, 2, 10], [2, 3, 10, 2], "more than merge"),
    ],
)
def test_axes_that_do_not_come_back_stay_as_they_are(merged, divided, reason):
    g = graph_of({"x": "float[2,3,4,5]"}, KEYS, merged=np.array(merged), divided=np.array(divided))
    assert_refuses(g, "split-merged-transposes", reason)


def test_cast_chains():
    g = graph_of(
        {"x": "float16[3]"},
        "a = Cast<to=1>(x)\nb = Cast<to=11>(a)\nc = Cast<to=7>(b)\nz = Cast<to=7>(c)\ny = Neg(z)",
        "y:int64",
    )
    after = assert_fires(g, "merge-casts", ["Cast", "Neg"])
    assert after.nodes[0].attrs["to"] == DType.i64.onnx
    g = graph_of({"x": "float[3]"}, "a = Cast<to=10>(x)\ny = Cast<to=1>(a)")
    assert_refuses(g, "merge-casts", "loses something")


@pytest.mark.parametrize(
    "src", [d for d in DType if d.bits in (8, 16, 32, 64) and d.value[0][0] != "c" and len(d.value[0]) < 6]
)
@pytest.mark.parametrize(
    "dst", [DType.f32, DType.f16, DType.bf16, DType.f64, DType.i8, DType.u8, DType.i32, DType.u32, DType.i64]
)
def test_lossless_is_what_numpy_round_trips(src, dst):
    if src.is_int:
        info = np.iinfo(src.numpy)
        values = np.array([info.min, info.max, info.max - 1, 0, 1], src.numpy)
    elif src is DType.bool_:
        values = np.array([False, True])
    else:
        values = np.array([1 / 3, 1e-30, 3e4, -65504, 1.0, 2.0**-24, 1 + 2.0**-7, 1 + 2.0**-10], np.float64).astype(
            src.numpy
        )
    with np.errstate(all="ignore"):
        back = values.astype(dst.numpy).astype(src.numpy)
    if is_lossless(src, dst):
        assert np.array_equal(back, values)


def test_cse_merges_equal_work_only():
    body = "a = Add(x, z)\nb = Add(z, x)\nc = Softmax<axis=1>(a)\nd = Softmax<axis=1>(b)\n"
    body += "e = Softmax<axis=2>(b)\ny = Sum(c, d, e)"
    g = graph_of({"x": "float[2,3,4]", "z": "float[4]"}, body)
    assert_fires(g, "cse", ["Add", "Softmax", "Softmax", "Sum"])


def test_cse_refusals():
    assert_refuses(graph_of(X, "y = Relu(x)\nz = Relu(x)", "y z"), "cse", "graph outputs")
    g = graph_of(
        X,
        "a = RandomNormalLike(x)\nb = RandomNormalLike(x)\nc = Sub(a, b)\nd = Mul(c, k)\ny = Shape(d)",
        "y:int64",
        k=np.float32(0),
    )
    after, _ = run_pass(g, "cse")
    assert ops(after).count("RandomNormalLike") == 2


def test_dead_code_goes_in_chains_and_inputs_stay():
    g = graph_of({"x": "float[3]", "z": "float[3]"}, "a = Relu(z)\nb = Exp(a)\ny = Neg(x)")
    after = assert_fires(g, "dead-code", ["Neg"])
    assert [v.name for v in after.inputs] == ["x", "z"]


def test_equal_constants_are_merged_by_bytes():
    g = graph_of(
        X,
        "a = Add(x, k)\nb = Mul(a, l)\nc = Mul(b, p)\ny = Add(c, n)",
        k=rand(4),
        l=rand(4),
        p=np.float32(0.0),
        n=np.float32(-0.0),
    )
    after, _ = run_pass(g, "merge-constants")
    assert len(after.constants()) == 3
