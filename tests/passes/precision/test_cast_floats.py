"""cast-fp16 and cast-bf16: what is converted, what stays in float32 and why, and that results stay right."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import export_onnx, optimize
from graphopt.errors import UserError
from graphopt.ir.dtypes import DType
from tests.support.onnx_graphs import graph_of, model_of, ops, rand
from tests.support.precision import computed_in, converted, kept_because, node_called, run, sqnr_db

BOTH = pytest.mark.parametrize("precision", ["fp16", "bf16"])
TYPES = {"fp16": DType.f16, "bf16": DType.bf16}

NET = """
c = Conv<pads=[1,1,1,1]>(x, w1, b1)
r = Relu(c)
p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(r)
f = Flatten(p)
y = Gemm<transB=1>(f, w2, b2)
"""
WEIGHTS = {"w1": rand(4, 3, 3, 3), "b1": rand(4), "w2": rand(5, 64) * 0.1, "b2": rand(5)}


@BOTH
def test_a_network_computes_in_16_bits_between_float32_ends(precision: str) -> None:
    after, _ = converted(graph_of({"x": "float[2,3,8,8]"}, NET, **WEIGHTS), f"cast-{precision}")
    assert set(computed_in(after).values()) == {TYPES[precision]}
    assert ops(after) == ["Cast", "Conv", "Relu", "MaxPool", "Flatten", "Gemm", "Cast"]
    assert {v.name: v.dtype for v in after.constants()} == dict.fromkeys(WEIGHTS, TYPES[precision])
    assert [v.dtype for v in (*after.inputs, *after.outputs)] == [DType.f32, DType.f32]
    assert export_onnx(after).opset_import[0].version == {"fp16": 18, "bf16": 22}[precision]


@BOTH
def test_inputs_and_outputs_can_be_cast_too(precision: str) -> None:
    after, _ = converted(graph_of({"x": "float[2,3,8,8]"}, NET, **WEIGHTS), f"cast-{precision}{{io=cast}}")
    assert ops(after) == ["Conv", "Relu", "MaxPool", "Flatten", "Gemm"]
    assert [v.dtype for v in (*after.inputs, *after.outputs)] == [TYPES[precision]] * 2


@pytest.mark.parametrize(
    ("line", "operator"),
    [
        ("m = Softmax(h)", "Softmax"),
        ("m = LogSoftmax(h)", "LogSoftmax"),
        ("m = LayerNormalization(h, scale)", "LayerNormalization"),
        ("m = ReduceMean<keepdims=1>(h, axes)", "ReduceMean"),
        ("m = ReduceSum<keepdims=1>(h, axes)", "ReduceSum"),
        ("m = ReduceL2<keepdims=1>(h, axes)", "ReduceL2"),
        ("m = Exp(h)", "Exp"),
        ("m = Pow(h, two)", "Pow"),
        ("m = Reciprocal(h)", "Reciprocal"),
        ("m = Div(two, h)", "Div"),
        ("m = CumSum(h, last)", "CumSum"),
    ],
)
def test_kept_by_rule(line: str, operator: str) -> None:
    graph = graph_of(
        {"x": "float[3,8]"}, f"a = MatMul(x, w)\nh = Sigmoid(a)\n{line}\ny = MatMul(m, v)",
        w=rand(8, 8), v=rand(1 if operator.startswith("Reduce") else 8, 4), scale=rand(8, positive=True),
        axes=np.array([1]), two=np.float32(2), last=np.int64(1),
    )  # fmt: skip
    after, remarks = converted(graph, "cast-fp16")
    kept = {n.op for n in after.walk() if n.op != "Cast" and n.out.dtype is DType.f32}
    assert kept == {operator}
    assert ops(after) == ["Cast", "MatMul", "Sigmoid", "Cast", operator, "Cast", "MatMul", "Cast"]
    assert kept_because(remarks)["m"].startswith("rule: ")


def test_the_mask_of_an_attention_stays_in_float32() -> None:
    """-1e9 is minus infinity in float16; what it is added to, and what moves it, must not be converted."""
    body = """
        s = MatMul(q, k)
        f = Cast<to=1>(m)
        i = Sub(one, f)
        n = Mul(i, big)
        u = Unsqueeze(n, axis)
        a = Add(s, u)
        p = Softmax(a)
        y = MatMul(p, v)
    """
    graph = graph_of(
        {"q": "float[2,5,8]", "k": "float[2,8,5]", "v": "float[2,5,8]", "m": "int64[2,5]"}, body,
        one=np.float32(1), big=np.float32(-1e9), axis=np.array([1]),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    feeds = {
        n: rng.standard_normal(s).astype(np.float32) for n, s in (("q", (2, 5, 8)), ("k", (2, 8, 5)), ("v", (2, 5, 8)))
    }
    feeds["m"] = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])  # all of a row masked: NaN with minus infinity
    after, remarks = converted(graph, "cast-fp16", feeds=feeds)
    types = computed_in(after)
    assert types == {"s": DType.f16, **dict.fromkeys("finuap", DType.f32), "y": DType.f16}
    why = kept_because(remarks)
    assert "-1e+09, beyond float16" in why["n"]
    assert "-1e+09, beyond float16" in why["a"]


@pytest.mark.parametrize("fill", [-np.inf, -3.4028235e38, -1e9])
def test_a_mask_by_selection(fill: float) -> None:
    graph = graph_of(
        {"x": "float[3,6]", "c": "bool[3,6]"}, "s = MatMul(x, w)\nn = Where(c, s, fill)\np = Softmax(n)\ny = MatMul(p, w)",
        w=rand(6, 6), fill=np.float32(fill),
    )  # fmt: skip
    feeds = {"x": rand(3, 6), "c": np.tri(3, 6).astype(bool)}
    after, _ = converted(graph, "cast-fp16", feeds=feeds)
    assert computed_in(after) == {"s": DType.f16, "n": DType.f32, "p": DType.f32, "y": DType.f16}


def test_a_mask_of_attention_stays_in_it() -> None:
    """Its results are weighted means of the values: what follows is in 16 bits."""
    body = """
        h = Mul(m, big)
        a = Attention<q_num_heads=2,kv_num_heads=2>(q, q, q, h)
        y = MatMul(a, w)
    """
    inputs = {"q": "float[1,5,8]", "m": "float[5,5]"}
    graph = graph_of(inputs, body, opset=23, w=rand(8, 6), big=np.float32(-1e9))
    feeds = {"q": rand(1, 5, 8), "m": np.tri(5, 5, -1).T.astype(np.float32)}
    after, _ = converted(graph, "cast-fp16", feeds=feeds)
    assert computed_in(after) == {"h": DType.f32, "a": DType.f32, "y": DType.f16}


def test_range_ends_where_results_are_bounded() -> None:
    """A maximum forgets what is far below, a sigmoid all of it; an addition does not."""
    body = """
        p = Pad(x, pads, low)
        m = MaxPool<kernel_shape=[3,3],strides=[2,2]>(p)
        c = Conv(m, w)
        b = Add(c, big)
        s = Sigmoid(b)
        y = Conv(s, w)
    """
    graph = graph_of(
        {"x": "float[1,2,8,8]"}, body, w=rand(2, 2, 1, 1), pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        low=np.float32(-3e38), big=np.float32(1e6),
    )  # fmt: skip
    after, _ = converted(graph, "cast-fp16")
    types = computed_in(after)
    assert types == {"p": DType.f32, "m": DType.f32, "c": DType.f16, "b": DType.f32, "s": DType.f32, "y": DType.f16}


def test_bounds_beyond_the_range_are_no_bounds() -> None:
    graph = graph_of(
        {"x": "float[2,6]"}, "a = MatMul(x, w)\nc = Clip(a, low, high)\ny = MatMul(c, w)", w=rand(6, 6),
        low=np.float32(0), high=np.float32(3.4e38),
    )  # fmt: skip
    after, _ = converted(graph, "cast-fp16")
    assert set(computed_in(after).values()) == {DType.f16}


def test_constants_that_vanish_or_round_keep_their_nodes() -> None:
    body = "a = MatMul(x, w)\nb = Add(a, tiny)\nc = MatMul(b, w)\nd = Mul(c, count)\ny = MatMul(d, w)"
    graph = graph_of({"x": "float[2,6]"}, body, w=rand(6, 6), tiny=np.float32(1e-12), count=np.float32(2049))
    after, remarks = converted(graph, "cast-fp16")
    types = computed_in(after)
    assert types == {"a": DType.f16, "b": DType.f32, "c": DType.f16, "d": DType.f32, "y": DType.f16}
    why = kept_because(remarks)
    assert "vanishes in float16" in why["b"]
    assert "whole numbers that float16 rounds" in why["d"]
    after, _ = converted(graph, "cast-bf16")
    assert computed_in(after)["b"] is DType.bf16


def test_few_small_weights_do_not_matter() -> None:
    weights = rand(16, 16)
    weights.flat[::20] = 1e-9
    bias = np.full(4, 1e-8, np.float32)
    graph = graph_of({"x": "float[2,16]"}, "a = MatMul(x, w)\ny = Gemm(a, v, b)", w=weights, v=rand(16, 4), b=bias)
    after, _ = converted(graph, "cast-fp16")
    assert set(computed_in(after).values()) == {DType.f16}


def test_what_moves_between_float32_nodes_is_not_cast_forth_and_back() -> None:
    body = """
        a = Exp(x)
        t = Transpose<perm=[1,0]>(a)
        r = Relu(t)
        s = Mul(r, half)
        b = Softmax(s)
        u = Transpose<perm=[1,0]>(b)
        y = MatMul(u, w)
    """
    graph = graph_of({"x": "float[3,8]"}, body, w=rand(8, 4), half=np.float32(0.5))
    after, remarks = converted(graph, "cast-fp16")
    assert ops(after) == ["Exp", "Transpose", "Relu", "Mul", "Softmax", "Cast", "Transpose", "MatMul", "Cast"]
    assert "between nodes kept in float32" in kept_because(remarks)["s"]


def test_a_value_is_cast_once_for_all_readers() -> None:
    body = "s = Softmax(x)\na = MatMul(s, w)\nb = MatMul(s, v)\nc = Sigmoid(s)\nd = Add(a, b)\ny = Add(d, c)"
    after, _ = converted(graph_of({"x": "float[3,6]"}, body, w=rand(6, 6), v=rand(6, 6)), "cast-fp16")
    assert ops(after).count("Cast") == 2


@BOTH
def test_a_constant_in_two_precisions_is_right_in_both(precision: str) -> None:
    body = "a = MatMul(x, w)\ns = Softmax(a)\nb = Pow(s, w)\ny = MatMul(b, w)"
    w = rand(6, 6, positive=True)
    after, _ = converted(graph_of({"x": "float[6,6]"}, body, w=w), f"cast-{precision}")
    constants = {v.dtype: v.data for v in after.constants()}
    assert set(constants) == {DType.f32, TYPES[precision]}
    np.testing.assert_array_equal(constants[DType.f32], w)
    np.testing.assert_array_equal(constants[TYPES[precision]], w.astype(TYPES[precision].numpy))


def test_a_large_constant_in_two_precisions_is_stored_once() -> None:
    body = "a = MatMul(x, w)\ns = Softmax(a)\nb = Pow(s, w)\ny = MatMul(b, w)"
    w = rand(256, 256, positive=True)
    graph = graph_of({"x": "float[256,256]"}, body, w=w)
    after, _ = converted(graph, "cast-fp16")
    assert [(v.name, v.dtype) for v in after.constants()] == [("w", DType.f32)]
    assert len(export_onnx(after).SerializeToString()) < len(export_onnx(graph).SerializeToString()) + 2000


def test_asked_for_by_name_operator_and_pattern() -> None:
    graph = graph_of({"x": "float[2,3,8,8]"}, NET, **WEIGHTS)
    for keep, names in (("c", "c"), ("Gemm", "y"), ("Max*", "p"), ("[cy]", "cy")):
        after, remarks = converted(graph, f"cast-fp16{{keep={keep}}}" if keep[0] != "[" else "cast-fp16{keep=[c,y]}")
        types = computed_in(after)
        why = kept_because(remarks)
        assert {n for n, text in why.items() if text.startswith("asked: ")} == set(names)
        assert {n for n, t in types.items() if t is DType.f32} == set(why)
    after, _ = converted(graph, "cast-fp16{keep=*}")
    assert DType.f16 not in computed_in(after).values()
    optimize(graph, passes=["cast-fp16{keep=LSTM}"])  # an operator that isn't there
    with pytest.raises(UserError, match="no node or operator 'Gem'") as caught:
        optimize(graph, passes=["cast-fp16{keep=Gem}"])
    assert caught.value.hint == "did you mean 'Gemm'?"


@BOTH
def test_scales_of_resize_stay_as_they_are(precision: str) -> None:
    body = 'a = Conv(x, w)\nr = Resize<mode="linear">(a, , scales)\ny = Conv(r, w)'
    scales = np.array([1, 1, 2.102, 1.95], np.float32)  # 21 and 19 of 10; 20 with scales in bfloat16
    graph = graph_of({"x": "float[1,2,10,10]"}, body, w=rand(2, 2, 1, 1), scales=scales)
    after, _ = converted(graph, f"cast-{precision}")
    resize = node_called(after, "r")
    assert resize.out.dtype is TYPES[precision]
    assert resize.inputs[2] is not None
    assert resize.inputs[2].data is not None
    np.testing.assert_array_equal(resize.inputs[2].data, scales)
    assert after.outputs[0].shape == (1, 2, 21, 19)


def test_what_scales_and_sizes_are_computed_from_stays() -> None:
    body = """
        a = Conv(x, w)
        s = Shape(a)
        h = Slice(s, two, four)
        f = Cast<to=1>(h)
        g = Mul(f, factor)
        q = Div(g, f)
        t = Concat<axis=0>(ones, q)
        r = Resize<mode="nearest">(a, , t)
        z = Floor(g)
        i = Cast<to=7>(z)
        o = Concat<axis=0>(twos, i)
        e = Expand(one, o)
        y = Conv(r, w)
    """
    graph = graph_of(
        {"x": "float[1,2,N,10]"}, body, "y e", w=rand(2, 2, 1, 1), two=np.array([2]), four=np.array([4]),
        ones=np.ones(2, np.float32), twos=np.array([1, 2]), factor=np.float32(2.35), one=np.ones((1, 1, 1, 1), np.float32),
    )  # fmt: skip
    feeds = {"x": rand(1, 2, 10, 10)}
    after, _ = converted(graph, "cast-bf16", feeds=feeds)
    types = computed_in(after)
    assert {n for n in types if types[n] is DType.f32} >= set("fgqtz")
    assert types["a"] is types["r"] is types["y"] is DType.bf16


def test_angles_of_positions_stay() -> None:
    """Rotary embeddings: position 1000 times a frequency has no digit right in bfloat16."""
    body = """
        f = Cast<to=1>(p)
        g = Unsqueeze(f, axis)
        a = MatMul(g, freq)
        c = Cos(a)
        m = Mul(x, c)
        y = MatMul(m, w)
    """
    graph = graph_of(
        {"x": "float[5,4]", "p": "int64[5]"}, body, w=rand(4, 4), axis=np.array([1]),
        freq=np.array([[1.0, 0.1, 0.01, 0.001]], np.float32),
    )  # fmt: skip
    feeds = {"x": rand(5, 4), "p": np.array([1000, 1001, 1002, 1003, 4000])}
    after, _ = converted(graph, "cast-bf16", feeds=feeds)
    assert computed_in(after) == {**dict.fromkeys("fgac", DType.f32), "m": DType.bf16, "y": DType.bf16}


def test_products_of_whole_numbers_are_data() -> None:
    body = "f = Cast<to=1>(i)\nn = Mul(f, small)\na = MatMul(n, w)\nr = Relu(a)\ny = MatMul(r, w)"
    graph = graph_of({"i": "int32[3,6]"}, body, small=np.float32(0.1), w=rand(6, 6))
    after, _ = converted(graph, "cast-fp16")
    assert computed_in(after) == {"f": DType.f32, "n": DType.f32, "a": DType.f16, "r": DType.f16, "y": DType.f16}


def test_small_integers_become_16_bits_at_once() -> None:
    graph = graph_of({"i": "uint8[3,6]"}, "f = Cast<to=1>(i)\ny = MatMul(f, w)", w=rand(6, 6))
    after, _ = converted(graph, "cast-bf16")
    assert ops(after) == ["Cast", "MatMul", "Cast"]
    assert computed_in(after) == {"f": DType.bf16, "y": DType.bf16}


def test_comparisons_and_shapes_need_no_casts() -> None:
    body = "a = MatMul(x, w)\nb = Sigmoid(a)\nl = Less(a, b)\ns = Shape(a)\nq = Cast<to=7>(b)\nk = ArgMax<axis=1>(a)"
    graph = graph_of({"x": "float[3,6]"}, body, "b l:bool s:int64 q:int64 k:int64", w=rand(6, 6))
    after, _ = converted(graph, "cast-fp16")
    assert ops(after).count("Cast") == 3
    body = "a = MatMul(x, w)\nl = Less(a, c)"
    after, remarks = converted(
        graph_of({"x": "float[3,6]"}, body, "l:bool", w=rand(6, 6), c=np.float32(0.3)), "cast-fp16"
    )
    assert ops(after) == ["Cast", "MatMul", "Cast", "Less"], "0.3 is no number of float16"
    assert "makes no floats" in kept_because(remarks)["l"]


def test_empty_outputs_keep_their_type() -> None:
    body = "e = Slice(x, zero, zero, zero)\nf = Mul(e, two)\ny = MatMul(x, w)"
    graph = graph_of({"x": "float[3,6]"}, body, "y f", w=rand(6, 6), zero=np.array([0]), two=np.float32(2))
    after, _ = converted(graph, "cast-fp16")
    assert [(v.dtype, v.shape) for v in after.outputs] == [(DType.f32, (3, 6)), (DType.f32, (0, 6))]


def test_outputs_that_are_inputs_constants_or_twice_the_same() -> None:
    graph = graph_of({"x": "float[2,6]"}, "y = MatMul(x, w)\nz = Softmax(y)\nt = MatMul(z, w)", "y z t", w=rand(6, 6))
    for io in ("keep", "cast"):
        after, _ = converted(graph, f"cast-fp16{{io={io}}}")
        assert {v.dtype for v in after.outputs} == {DType.f32 if io == "keep" else DType.f16}


def test_quantized_parts_stay() -> None:
    body = """
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        e = DequantizeLinear(w, s, z)
        c = Conv(d, e)
        r = Relu(c)
        u = QuantizeLinear(r, s, z)
        v = DequantizeLinear(u, s, z)
        f = Flatten(v)
        t = Sigmoid(f)
        y = Gemm(t, g)
    """
    graph = graph_of(
        {"x": "float[1,2,4,4]"}, body, s=np.float32(0.05), z=np.int8(0), g=rand(32, 4),
        w=np.random.default_rng(0).integers(-20, 20, (2, 2, 1, 1)).astype(np.int8),
    )  # fmt: skip
    after, remarks = converted(graph, "cast-fp16")
    assert {n for n, t in computed_in(after).items() if t is DType.f16} == {"t", "y"}
    assert "quantized parts" in kept_because(remarks)["c"]


def test_operators_without_a_16_bit_form_stay() -> None:
    graph = graph_of(
        {"x": "float[3,6]"}, 'a = MatMul(x, w)\nb = Einsum<equation="ij,jk->ik">(a, w)\ny = MatMul(b, w)', w=rand(6, 6)
    )
    after, _ = converted(graph, "cast-fp16")
    assert set(computed_in(after).values()) == {DType.f16}
    after, remarks = converted(graph, "cast-bf16")
    assert computed_in(after)["b"] is DType.f32
    assert kept_because(remarks)["b"].startswith("schema: ")


def test_a_model_in_16_bits_is_left_as_it_is() -> None:
    weights = {name: array.astype(np.float16) for name, array in WEIGHTS.items()}
    graph = graph_of({"x": "float16[2,3,8,8]"}, NET, "y:float16", **weights)
    after = optimize(graph, passes=["cast-fp16"])
    assert after.version == graph.version


def test_casts_of_a_mixed_model_are_used_and_removed() -> None:
    """x is there in 16 bits already; the Cast back to them after the product is not needed any more."""
    body = "f = Cast<to=1>(x)\na = MatMul(f, w)\nh = Cast<to=10>(a)\ny = Relu(h)"
    graph = graph_of({"x": "float16[3,6]"}, body, "y:float16", w=rand(6, 6))
    after, _ = converted(graph, "cast-fp16")
    assert ops(after) == ["MatMul", "Relu"]


@BOTH
def test_branches(precision: str) -> None:
    """Branches read outer values and weights of their own, and both return the same type."""
    graph = import_onnx(
        model_of(
            {"x": "float[3,6]", "c": "bool[]"},
            """
            a = MatMul(x, w)
            b = If<then_branch = g1 () => (float[3,6] t) { m = MatMul(a, w) t = Relu(m) },
                   else_branch = g2 () => (float[3,6] e) { e = Softmax(a) }>(c)
            y = MatMul(b, w)
            """.replace("\n                   ", " ")
            .replace("then_branch = ", "then_branch = ")
            .strip(),
            w=rand(6, 6),
        )
    )
    for taken in (True, False):
        feeds = {"x": rand(3, 6), "c": np.array(taken)}
        after, _ = converted(graph, f"cast-{precision}", feeds=feeds, reference=precision == "bf16")
        types = computed_in(after)
        assert types["m"] is types["y"] is types["b"] is TYPES[precision]
        assert types["e"] is DType.f32


def test_loops_carry_float32_and_compute_in_16_bits_inside() -> None:
    body = """
        y, z = Loop<body = g (int64 i, bool k, float[3,6] s) => (bool k2, float[3,6] s2, float[3,6] o)
                    { k2 = Identity(k) m = MatMul(s, w) s2 = Tanh(m) o = Relu(m) }>(n, go, x)
    """
    graph = graph_of(
        {"x": "float[3,6]"},
        body.replace("\n                    ", " "),
        "y z",
        w=rand(6, 6),
        n=np.int64(3),
        go=np.array(True),
    )
    after, remarks = converted(graph, "cast-fp16")
    types = computed_in(after)
    assert types["m"] is types["s2"] is DType.f16
    assert [v.dtype for v in after.outputs] == [DType.f32, DType.f32]
    assert any("carried from one step" in text for text in kept_because(remarks).values())


def test_random_networks_agree() -> None:
    """Against the same operators in NumPy's float16, which round every result: nothing here is worse."""
    rng = np.random.default_rng(5)
    for seed in range(6):
        kinds = rng.choice(["Relu", "Sigmoid", "Tanh", "Softmax", "Abs", "Exp", "Transpose", "Neg"], 6)
        lines, last = [], "x"
        for i, kind in enumerate(kinds):
            lines.append(f"a{i} = {kind}({last})")
            lines.append(f"b{i} = MatMul(a{i}, w)" if i % 2 else f"b{i} = Mul(a{i}, h)")
            last = f"b{i}"
        graph = graph_of(
            {"x": "float[6,6]"},
            "\n".join(lines) + f"\ny = Add({last}, x)",
            w=rand(6, 6, seed=seed) * 0.3,
            h=rand(6, seed=seed),
        )
        for precision in ("fp16", "bf16"):
            after, _ = converted(graph, f"cast-{precision}")
            model = export_onnx(after)
            feeds = {"x": rand(6, 6, seed=seed)}
            assert sqnr_db(run(model, feeds, reference=True)[0], run(export_onnx(graph), feeds, reference=True)[0]) > 20


def test_parts_of_normalisations_stay() -> None:
    """x - max(x) of large numbers is small, and as exact as they are; so is the distance from a mean."""
    body = """
        m = ReduceMax<keepdims=1>(x, axes)
        d = Sub(x, m)
        e = Exp(d)
        s = ReduceSum<keepdims=1>(e, axes)
        p = Div(e, s)
        a = MatMul(p, w)
        u = ReduceMean<keepdims=1>(a, axes)
        c = Sub(a, u)
        q = Mul(c, c)
        v = ReduceMean<keepdims=1>(q, axes)
        n = Add(v, small)
        r = Sqrt(n)
        o = Div(c, r)
        g = Mul(o, gain)
        y = MatMul(g, w)
    """
    graph = graph_of({"x": "float[3,6]"}, body, axes=np.array([1]), w=rand(6, 6), small=np.float32(1e-3), gain=rand(6))
    for precision in ("fp16", "bf16"):
        after, _ = converted(graph, f"cast-{precision}", feeds={"x": rand(3, 6) + 10000})
        narrow = {n for n, t in computed_in(after).items() if t is TYPES[precision]}
        assert narrow == set("agy")


def test_statistics_are_followed_through_16_bits() -> None:
    """A maximum is exact in 16 bits; what is computed from it stays, also when the converted graph is looked at again."""
    body = "h = MatMul(x, w)\nm = ReduceMax<keepdims=1>(h, axes)\nc = Max(m, zero)\nd = Sub(x, c)\ny = MatMul(d, w)"
    graph = graph_of({"x": "float[3,6]"}, body, w=rand(6, 6), axes=np.array([1]), zero=np.float32(0))
    after, _ = converted(graph, "cast-fp16")
    types = computed_in(after)
    assert types == {"h": DType.f16, "m": DType.f16, "c": DType.f32, "d": DType.f32, "y": DType.f16}


def test_outputs_that_are_casts_of_a_mixed_model() -> None:
    """Outputs that are, in 16 bits, the input or another output, keep their names."""
    graph = graph_of({"x": "float16[3,6]"}, "y = Cast<to=1>(x)\nz = Cast<to=10>(y)\nt = Relu(y)", "y z:float16 t")
    for io in ("keep", "cast"):
        after, _ = converted(graph, f"cast-fp16{{io={io}}}")
        assert [v.name for v in after.outputs] == ["y", "z", "t"]
    graph = graph_of({"x": "float[3,6]"}, "y = Cast<to=10>(x)\nz = MatMul(x, w)", "y:float16 z", w=rand(6, 6))
    after, _ = converted(graph, "cast-fp16{io=cast}")
    assert ops(after) == ["Identity", "MatMul"]


def test_the_same_value_leaves_twice_and_through_a_branch() -> None:
    body = """
        a = MatMul(x, w)
        b = If<then_branch = g1 () => (float[3,6] t) { t = Identity(a) }, else_branch = g2 () => (float[3,6] e) { e = Neg(a) }>(c)
        d = MatMul(b, w)
    """
    model = model_of({"x": "float[3,6]", "c": "bool[]"}, body, "a d b", w=rand(6, 6))
    model.graph.output.append(model.graph.output[0])
    graph = import_onnx(model_of({"x": "float[3,6]", "c": "bool[]"}, body, "a d b", w=rand(6, 6)))
    for taken in (True, False):
        after, _ = converted(graph, "cast-fp16", feeds={"x": rand(3, 6), "c": np.array(taken)})
        assert [v.name for v in after.outputs] == ["a", "d", "b"]


def test_what_only_moves_from_end_to_end_is_not_rounded() -> None:
    body = "t = Transpose<perm=[1,0]>(x)\nr = Relu(t)\na = MatMul(x, w)\ny = Add(a, a)"
    graph = graph_of({"x": "float[3,6]"}, body, "r y", w=rand(6, 6))
    after, remarks = converted(graph, "cast-fp16")
    assert computed_in(after) == {"t": DType.f32, "r": DType.f32, "a": DType.f16, "y": DType.f16}
    assert "rounds nothing" in kept_because(remarks)["t"]


def test_the_softmax_of_an_attention_is_computed_in_float32() -> None:
    model = model_of(
        dict.fromkeys("qkv", "float[1,2,4,8]"), "a = Attention(q, k, v)\ny = Mul(a, two)", opset=23, two=np.float32(2)
    )
    graph = import_onnx(model)
    after = optimize(graph, passes=["cast-fp16"], verify_each=True)
    attention = node_called(after, "a")
    assert (attention.out.dtype, attention.attrs["softmax_precision"]) == (DType.f16, 1)
    feeds = {n: rand(1, 2, 4, 8, seed=i) for i, n in enumerate("qkv")}
    got, want = (run(export_onnx(g), feeds, reference=True)[0] for g in (after, graph))
    assert sqnr_db(got, want) > 40


def test_a_cast_that_was_there_is_not_repeated() -> None:
    body = "s = Softmax(x)\nh = Cast<to=10>(s)\nr = Relu(h)\ny = MatMul(s, w)"
    graph = graph_of({"x": "float[3,6]"}, body, "r:float16 y", w=rand(6, 6))
    after, _ = converted(graph, "cast-fp16")
    assert ops(after) == ["Softmax", "Cast", "Relu", "MatMul", "Cast"]
    graph = graph_of({"x": "float[3,6]"}, body, "h:float16 y", w=rand(6, 6))
    after, _ = converted(graph, "cast-fp16")
    assert [v.name for v in after.outputs] == ["h", "y"]
