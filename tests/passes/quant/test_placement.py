"""Where QuantizeLinear and DequantizeLinear stand, and what they cost, in ONNX Runtime without optimisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.ir.graph import Graph
from graphopt.passes.quant.roles import Role, role_of
from tests.support.onnx_graphs import graph_of, model_of, ops, rand
from tests.support.ort import run_ort
from tests.support.quantizing import decibels, node_named, quantized, source_of, stored

IMAGE = {"x": "float[1,4,8,8]"}
CONV = "Conv<pads=[1,1,1,1]>"


def image(seed: int = 0) -> dict[str, Any]:
    return {"x": rand(1, 4, 8, 8, seed=seed)}


def result_of(body: str, **consts: Any) -> tuple[Graph, Graph]:
    consts.setdefault("w", rand(4, 4, 3, 3))
    consts.setdefault("v", rand(4, 4, 3, 3, seed=1))
    graph = graph_of(IMAGE, body, **consts)
    for node in graph.nodes:
        node.name = node.out.name
    result, _ = quantized(graph, image())
    assert decibels(graph, result, image()) > 28
    return graph, result


def test_relu_is_quantized_and_not_the_convolution_before_it() -> None:
    _, result = result_of(f"c = {CONV}(x, w)\nr = Relu(c)\ny = {CONV}(r, v)")
    assert ops(result).count("QuantizeLinear") == 2
    assert source_of(node_named(result, "r"), 0) is node_named(result, "c")
    assert stored(node_named(result, "y"), 0).inputs[0].producer.inputs[0] is node_named(result, "r").out  # type: ignore[union-attr]


def test_the_last_result_stays_in_float() -> None:
    _, result = result_of(f"y = {CONV}(x, w)")
    assert result.outputs[0].producer is node_named(result, "y")


@pytest.mark.parametrize(
    "body",
    [
        "m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)", "m = Transpose<perm=[0,1,3,2]>(r)", "m = Identity(r)",
        "m = Pad(r, pads)", "m = Pad<mode=\"edge\">(r, pads)", "m = Slice(r, one, five, axes)", "m = Reshape(r, shape)",
        "m = Resize<mode=\"nearest\">(r, , scales)", "m = Concat<axis=2>(r, r)",
    ],
)  # fmt: skip
def test_what_keeps_elements_shares_scale_and_zero_point(body: str) -> None:
    _, result = result_of(
        f"c = {CONV}(x, w)\nr = Relu(c)\n{body}\ny = {CONV}(m, v)", pads=np.asarray([0, 0, 1, 1, 0, 0, 1, 1]),
        one=np.asarray([1]), five=np.asarray([5]), axes=np.asarray([2]), shape=np.asarray([1, 4, 4, 16]),
        scales=np.asarray([1, 1, 2, 2], np.float32),
    )  # fmt: skip
    before, after = stored(node_named(result, "m"), 0), stored(node_named(result, "y"), 0)
    assert before.inputs[1:] == after.inputs[1:], "one scale and one zero point"
    assert result.nodes.index(before) < result.nodes.index(after)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("m = Pad(r, pads, seven)", "Pad with another number"), ("m = Softmax<axis=1>(r)", "no role"),
        ("m = Resize<mode=\"linear\">(r, , scales)", "computes"),
    ],
)  # fmt: skip
def test_what_stays_in_float(body: str, why: str) -> None:
    _, result = result_of(
        f"c = {CONV}(x, w)\nr = Relu(c)\n{body}\ny = {CONV}(m, v)", pads=np.asarray([0, 0, 1, 1, 0, 0, 1, 1]),
        seven=np.float32(7), scales=np.asarray([1, 1, 2, 2], np.float32),
    )  # fmt: skip
    assert source_of(node_named(result, "m"), 0) is node_named(result, "r"), why


def test_concat_shares_the_widest_range() -> None:
    _, result = result_of(
        f"a = {CONV}(x, w)\nb = {CONV}(x, v)\nk = Concat<axis=1>(a, b)\ny = {CONV}(k, u)", u=rand(2, 8, 3, 3),
        w=rand(4, 4, 3, 3) * 3,
    )  # fmt: skip
    join = node_named(result, "k")
    assert stored(join, 0).inputs[1:] == stored(join, 1).inputs[1:] == stored(node_named(result, "y"), 0).inputs[1:]


def test_a_group_holds_the_ranges_of_all_its_values() -> None:
    """The wide value has a reader of its own, and the narrow one comes first."""
    graph = graph_of(
        IMAGE, f"a = {CONV}(x, w)\nb = {CONV}(x, v)\nk = Concat<axis=1>(a, b)\nm = MaxPool<kernel_shape=[1,1]>(k)\n"
        f"c = {CONV}(m, u)\nd = {CONV}(b, w)\ny = Concat<axis=1>(c, d)\nz = {CONV}(a, w)", "y z b", w=rand(4, 4, 3, 3) * 0.1,
        v=rand(4, 4, 3, 3), u=rand(2, 8, 3, 3),
    )  # fmt: skip
    result, report = quantized(graph, image())
    rows = {row.name: row for row in report.values}
    assert rows["a"].scale == rows["b"].scale == rows["k"].scale
    want = dict(zip("yzb", run_ort(graphopt.export_onnx(graph), image())))
    assert (rows["b"].low, rows["b"].high) == (want["b"].min(), want["b"].max())
    assert decibels(graph, result, image()) > 28


def test_both_parts_of_a_split_are_seen() -> None:
    _, result = result_of(
        f"c = {CONV}(x, w)\ns, t = Split<axis=1, num_outputs=2>(c)\na = {CONV}(s, p)\nb = {CONV}(t, p)\ny = Add(a, b)",
        w=rand(4, 4, 3, 3) * np.asarray([0.01, 0.01, 1, 1], np.float32).reshape(4, 1, 1, 1), p=rand(4, 2, 3, 3),
    )  # fmt: skip
    split = next(node for node in result.nodes if node.op == "Split")
    assert stored(split, 0).inputs[1] is stored(node_named(result, "b"), 0).inputs[1]
    _, result = result_of(
        f"c = {CONV}(x, w)\ns, t = Split<axis=1, num_outputs=2>(c)\na = {CONV}(s, p)\ny = Add(a, t)",
        w=rand(4, 4, 3, 3) * np.asarray([0.01, 0.01, 1, 1], np.float32).reshape(4, 1, 1, 1), p=rand(2, 2, 3, 3),
    )  # fmt: skip
    assert source_of(node_named(result, "y"), 1) is next(node for node in result.nodes if node.op == "Split")


def test_sums_products_and_means_between_products() -> None:
    body = f"""
        c = {CONV}(x, w)
        h = HardSwish(c)
        d = {CONV}(h, v)
        s = Add(d, h)
        g = GlobalAveragePool(s)
        e = Conv(g, p)
        z = Sigmoid(e)
        m = Mul(s, z)
        y = {CONV}(m, w)"""
    graph, result = result_of(body, p=rand(4, 4, 1, 1))
    for name, operands in (("h", 1), ("s", 2), ("g", 1), ("z", 1), ("m", 2)):
        for index in range(operands):
            assert stored(node_named(result, name), index).inputs[1] is not None
    made = [node.inputs[0] for node in result.nodes if node.op == "QuantizeLinear"]
    assert len(made) == len(set(made)), "every value once"
    assert graph.version != result.version


def test_a_constant_that_is_added_goes_with_the_product() -> None:
    """The bias of a MatMul: rounding before it and of itself would be two errors more."""
    graph = graph_of(
        {"x": "float[4,8]"}, "p = MatMul(x, w)\na = Add(p, b)\nr = Relu(a)\nt = Transpose<perm=[1,0]>(r)\nk = Mul(c, t)\n"
        "y = MatMul(v, k)",
        w=rand(8, 8), b=rand(8), c=rand(8, 1), v=rand(3, 8),
    )  # fmt: skip
    for node in graph.nodes:
        node.name = node.out.name
    result, report = quantized(graph, {"x": rand(4, 8)})
    add = node_named(result, "a")
    assert source_of(add, 0) is node_named(result, "p")
    assert add.inputs[1] is not None
    assert add.inputs[1].is_const
    assert source_of(node_named(result, "r"), 0) is add
    assert stored(node_named(result, "k"), 0) is not stored(node_named(result, "k"), 1), (
        "moved before it, so it is stored"
    )
    assert {row.node: row.stored for row in report.layers}["a"] == "in registers"
    assert decibels(graph, result, {"x": rand(4, 8)}) > 28


def test_what_comes_from_float_or_goes_there_stays() -> None:
    _, result = result_of(f"n = Mul(x, k)\nc = {CONV}(n, w)\nh = HardSwish(c)\ny = Softmax(h)", k=np.float32(0.5))
    assert source_of(node_named(result, "n"), 0) is None, "scaling of the input"
    assert source_of(node_named(result, "h"), 0) is node_named(result, "c")


def test_a_value_that_is_read_twice_is_quantized_once() -> None:
    _, result = result_of(f"c = {CONV}(x, w)\nm = Mul(c, c)\ny = {CONV}(m, v)")
    square = node_named(result, "m")
    assert square.inputs[0] is square.inputs[1]
    assert sum(node.op == "QuantizeLinear" for node in result.nodes) == 3


def test_float_readers_have_the_float_value() -> None:
    _, result = result_of(f"c = {CONV}(x, w)\nd = {CONV}(c, v)\ns = Softmax(c)\ny = Add(d, s)")
    assert source_of(node_named(result, "s"), 0) is node_named(result, "c")
    assert stored(node_named(result, "d"), 0) is not None


def test_a_relu_with_other_readers_before_it_has_its_own_range() -> None:
    _, result = result_of(f"c = {CONV}(x, w)\nr = Relu(c)\nd = {CONV}(r, v)\ne = Add(c, d)\ny = {CONV}(e, v)")
    assert stored(node_named(result, "r"), 0).inputs[1] is not stored(node_named(result, "d"), 0).inputs[1]


@pytest.mark.parametrize(
    "options", [{"activations": "s8"}, {"activations": "u8", "symmetric": True}, {"activations": "s16"}]
)
def test_relu_stays_where_zero_is_the_middle(options: dict[str, Any]) -> None:
    graph = graph_of(IMAGE, f"c = {CONV}(x, w)\nr = Relu(c)\ny = {CONV}(r, v)", w=rand(4, 4, 3, 3), v=rand(4, 4, 3, 3))
    result, _ = quantized(graph, image(), **options)
    assert "Relu" in ops(result)
    assert decibels(graph, result, image()) > 28
    with_inner = graphopt.export_onnx(result)
    relu = next(node for node in with_inner.graph.node if node.op_type == "QuantizeLinear" and "r_" in node.output[0])
    dequantized = next(node for node in with_inner.graph.node if node.input[0] == relu.output[0])
    del with_inner.graph.output[:]
    with_inner.graph.output.extend([graphopt.export_onnx(result).graph.output[0].__class__(name=dequantized.output[0])])
    (inner,) = run_ort(with_inner, image())
    assert inner.min() == 0.0, "negative numbers became zero"
    assert inner.max() > 0


def test_sixteen_bits() -> None:
    graph = graph_of(IMAGE, f"c = {CONV}(x, w)\nr = Relu(c)\ny = {CONV}(r, v)", w=rand(4, 4, 3, 3), v=rand(4, 4, 3, 3))
    eight, _ = quantized(graph, image())
    sixteen, report = quantized(graph, image(), activations="u16")
    assert graphopt.export_onnx(sixteen).opset_import[0].version >= 21
    assert decibels(graph, sixteen, image()) > decibels(graph, eight, image()) + 3
    assert report.activations == "u16 asymmetric"


def test_products_of_data() -> None:
    graph = graph_of(
        {"x": "float[2,6,8]"}, "q = MatMul(x, a)\nk = MatMul(x, b)\nt = Transpose<perm=[0,2,1]>(k)\ns = MatMul(q, t)\n"
        "p = Softmax(s)\ny = MatMul(p, x)", a=rand(8, 8), b=rand(8, 8, seed=1),
    )  # fmt: skip
    for node in graph.nodes:
        node.name = node.out.name
    feeds = {"x": rand(2, 6, 8)}
    result, _ = quantized(graph, feeds)
    assert decibels(graph, result, feeds) > 25
    for name in ("s", "y"):
        for index in (0, 1):
            assert stored(node_named(result, name), index)
    assert source_of(node_named(result, "p"), 0) is node_named(result, "s"), "softmax reads float"


def test_include_and_exclude() -> None:
    graph = graph_of(IMAGE, f"c = {CONV}(x, w)\nr = Relu(c)\ny = {CONV}(r, v)", w=rand(4, 4, 3, 3), v=rand(4, 4, 3, 3))
    for node in graph.nodes:
        node.name = f"block/{node.out.name}"
    _, report = quantized(graph, image(), exclude=["block/c"])
    assert {row.node: row.why for row in report.layers} == {"block/c": "asked", "block/r": "rule", "block/y": ""}
    _, report = quantized(graph, image(), include=["*/c"])
    assert {row.node for row in report.quantized} == {"block/c"}
    _, report = quantized(graph, image(), include=["Conv"], exclude=["*y"])
    assert {row.node for row in report.quantized} == {"block/c"}
    assert "nothing that computes on integers" in next(row.reason for row in report.kept if row.op == "Relu")
    with pytest.raises(graphopt.UserError, match=r"'Convv' to quantize"):
        quantized(graph, image(), include=["Convv"])


def test_a_clamp_of_floats_is_one_of_floats() -> None:
    """What reads the clamp in float reads nothing rounded, and integers are made behind it."""
    graph = graph_of(IMAGE, f"s = Softmax<axis=1>(x)\nr = Clip(s, low, high)\ny = {CONV}(r, w)\nz = Exp(r)", "y z",
                     w=rand(4, 4, 3, 3), low=np.float32(0.1), high=np.float32(0.5))  # fmt: skip
    result, _ = quantized(graph, image())
    assert ops(result)[:2] == ["Softmax", "Clip"]
    np.testing.assert_array_equal(*(run_ort(graphopt.export_onnx(g), image())[1] for g in (result, graph)))


def test_what_is_quantized_already_stays() -> None:
    """Zero points of shape [], of shape [1], and none; a scale for each channel."""
    body = """
        d = DequantizeLinear(wq, s, z)
        e = DequantizeLinear(wq, s1, z1)
        f = DequantizeLinear<axis=0>(wq, s4)
        a = Conv<pads=[1,1,1,1]>(x, d)
        b = Conv<pads=[1,1,1,1]>(a, e)
        y = Conv<pads=[1,1,1,1]>(b, f)"""
    wq = np.random.default_rng(0).integers(-128, 128, (4, 4, 3, 3)).astype(np.int8)
    model = model_of(
        IMAGE, body, wq=wq, s=np.float32(0.01), z=np.int8(3), s1=np.asarray([0.01], np.float32), z1=np.asarray([-2], np.int8),
        s4=np.asarray([0.01, 0.02, 0.003, 0.01], np.float32),
    )  # fmt: skip
    graph = graphopt.import_onnx(model)
    np.testing.assert_allclose(
        run_ort(graphopt.export_onnx(graphopt.optimize(graph)), image())[0],
        run_ort(model, image())[0],
        rtol=1e-4,
        atol=1e-4,
    )
    result, report = graphopt.quantize(graph, image(), level=0, compare=False)
    assert {row.reason for row in report.layers} == {"it is quantized already"}
    assert report.notes == ("nothing was quantized: there is no product that may be",)
    assert ops(result) == ops(graph)


def test_negative_scales_survive_optimisation() -> None:
    """The greatest integer is the least number, so pooling can't be moved before DequantizeLinear."""
    body = "d = DequantizeLinear(q, s, z)\nm = MaxPool<kernel_shape=[2,2]>(d)\ny = QuantizeLinear(m, s, z)"
    model = model_of({"q": "int8[1,1,4,4]"}, body, "y:int8", s=np.float32(-0.5), z=np.int8(1))
    feeds = {"q": np.random.default_rng(0).integers(-128, 128, (1, 1, 4, 4)).astype(np.int8)}
    after = graphopt.export_onnx(graphopt.optimize(graphopt.import_onnx(model)))
    np.testing.assert_array_equal(run_ort(after, feeds)[0], run_ort(model, feeds)[0])
    assert [node.op_type for node in after.graph.node].count("QuantizeLinear") == 1


def test_roles() -> None:
    graph = graph_of(
        {"x": "float[1,4,8,8]", "i": "int64[2]"},
        "a = Relu(x)\nb = GlobalMaxPool(a)\nc = AveragePool<kernel_shape=[2,2]>(x)\nd = Exp(x)\ne = Gather(x, i)\n"
        "f = Add(x, a)\ng = Sub(x, a)\nh = Cast<to=7>(x)\nj = Cast<to=1>(h)\nk = LeakyRelu(x)\ny = MatMul(x, x)",
        "y b c d e f g j k",
    )  # fmt: skip
    assert [role_of(node) for node in graph.nodes] == [
        Role.CLAMPS, Role.KEEPS, Role.COMPUTES, None, Role.KEEPS, Role.COMPUTES, None, None, None, Role.COMPUTES, Role.PRODUCT,
    ]  # fmt: skip
