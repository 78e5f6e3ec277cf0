"""Between nodes of 16-bit models values are float32 on CPUs: what stays in 16 bits, and that results get better, not just other."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import graphopt
from graphopt.driver.compiling import to_program
from graphopt.driver.importing import import_onnx
from graphopt.ir.dtypes import DType
from graphopt.ir.verifier import verify
from graphopt.passes.precision.halves import suits_halves
from graphopt.passes.precision.unrounded import leave_unrounded
from tests.support.onnx_graphs import ops

TYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
NARROW = (DType.f16, DType.bf16)
BOTH = pytest.mark.parametrize("kind", TYPES)


def _model(text: str, kind: str, **constants: np.ndarray[Any, Any]) -> onnx.ModelProto:
    """A model in ONNX's text format, where ``half`` stands for the element type; float constants get that type."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 22]> {text}'.replace("half", kind))
    for name, array in constants.items():
        typed = array.astype(TYPES[kind]) if array.dtype.kind == "f" else array
        model.graph.initializer.append(numpy_helper.from_array(typed, name))
    return model


def _unrounded(model: onnx.ModelProto, factors: Any = lambda node, dtype: ()) -> graphopt.Graph:
    graph = import_onnx(model)
    leave_unrounded(graph, NARROW, factors)
    verify(graph)
    return graph


@BOTH
def test_a_sum_keeps_what_a_rounding_would_lose(kind: str) -> None:
    model = _model("g (half[4] x) => (half[4] y) { a = Add(x, big) y = Sub(a, big) }", kind, big=np.float64([4096.0]))
    x = np.array([0.25, 0.75, 1.5, -0.5]).astype(TYPES[kind])
    (y,) = graphopt.compile(model, "x86").run({"x": x}).values()
    np.testing.assert_array_equal(y, x)
    for options in ({"exact": True}, {"level": 1}, {"level": 0}):
        (rounded,) = graphopt.compile(model, "x86", **options).run({"x": x}).values()  # type: ignore[arg-type]
        assert rounded.dtype == TYPES[kind]
        assert (rounded != x).any()


def test_what_overflows_in_between_stays_finite() -> None:
    model = _model("g (half[3] x) => (half[3] y) { a = Mul(x, x) y = Sqrt(a) }", "float16")
    x = np.array([300.0, 60000.0, -1000.0], np.float16)
    (y,) = graphopt.compile(model, "x86").run({"x": x}).values()
    np.testing.assert_array_equal(y, np.abs(x))


@BOTH
def test_types_and_names_at_the_edge_stay(kind: str) -> None:
    text = "g (half[2,3] x) => (half[2,3] y, half[2,3] z, float[2,3] w) { y = Exp(x) z = Tanh(y) w = Cast<to=1>(z) }"
    graph = _unrounded(_model(text, kind))
    assert [(v.name, v.dtype.numpy) for v in (*graph.inputs, *graph.outputs)] == [
        ("x", TYPES[kind]), ("y", TYPES[kind]), ("z", TYPES[kind]), ("w", np.dtype(np.float32)),
    ]  # fmt: skip
    computed = {n.op: n.out.dtype for n in graph.nodes if n.op != "Cast"}
    assert computed == {"Exp": DType.f32, "Tanh": DType.f32}


@BOTH
def test_one_value_may_leave_twice(kind: str) -> None:
    text = "g (half[5] x) => (half[5] y, half[5] z) { y = Exp(x) z = Identity(y) }"
    got = graphopt.compile(_model(text, kind), "x86").run({"x": np.arange(5).astype(TYPES[kind])})
    want = np.exp(np.arange(5, dtype=np.float32)).astype(TYPES[kind])
    for name in "yz":
        np.testing.assert_array_equal(got[name], want)


@BOTH
def test_what_only_moves_elements_stays_narrow(kind: str) -> None:
    text = """g (int64[2] ids, half[1,3] past) => (half[3,3] y) {
        rows = Gather(table, ids)
        y = Concat<axis=0>(past, rows)
    }"""
    graph = _unrounded(_model(text, kind, table=np.arange(12.0).reshape(4, 3)))
    assert ops(graph) == ["Gather", "Concat"]


@BOTH
def test_a_cache_is_returned_without_a_detour(kind: str) -> None:
    """What is computed is rounded, then appended; the rest of the cache is copied."""
    text = """g (half[1,3] x, half[4,3] past) => (half[5,3] present, half[5,1] y) {
        row = Exp(x)
        present = Concat<axis=0>(past, row)
        y = MatMul(present, w)
    }"""
    graph = _unrounded(_model(text, kind, w=np.ones((3, 1))))
    assert [n.op for n in graph.nodes if str(n.out.dtype) in ("f16", "bf16")] == ["Cast", "Concat", "Cast"]


@BOTH
def test_casts_that_are_written_round(kind: str) -> None:
    to = {"float16": 10, "bfloat16": 16}[kind]
    model = _model(f"g (float[3] x) => (float[3] y) {{ a = Cast<to={to}>(x) b = Cast<to=1>(a) y = Mul(b, b) }}", kind)
    x = np.array([1.0001, 3.14159, 1e-3], np.float32)
    (y,) = graphopt.compile(model, "x86").run({"x": x}).values()
    rounded = x.astype(TYPES[kind]).astype(np.float32)
    np.testing.assert_array_equal(y, rounded * rounded)


@BOTH
def test_arithmetic_reads_what_was_cast(kind: str) -> None:
    """What a conversion put in front of a model's first node rounds nothing: the rounding would be all of the result's error."""
    to = {"float16": 10, "bfloat16": 16}[kind]
    text = f"g (float[4,1] x) => (float[2,2] y) {{ a = Cast<to={to}>(x) b = Reshape(a, s) c = Mul(b, b) y = Cast<to=1>(c) }}"
    x = np.array([[1.0001], [3.14159], [1e-3], [1e6]], np.float32)
    model = _model(text, kind, s=np.array([2, 2]))
    (y,) = graphopt.compile(model, "x86").run({"x": x}).values()
    np.testing.assert_array_equal(y, (x * x).reshape(2, 2))
    (y,) = graphopt.compile(model, "x86", exact=True).run({"x": x}).values()
    assert (y != (x * x).reshape(2, 2)).any()


@BOTH
def test_large_weights_stay_and_small_constants_become_float32(kind: str) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((96, 64)), "b": rng.standard_normal(64)}
    model = _model("g (half[2,96] x) => (half[2,64] y) { y = Gemm(x, w, b) }", kind, **weights)
    program = to_program(model, "x86-64-v3")[2]
    sizes = {c.type.dtype for c in program.constants}
    assert {c.data.nbytes for c in program.constants if c.data is not None} == {96 * 64 * 2, 64 * 4}, sizes


@BOTH
def test_a_weight_that_no_kernel_converts_is_converted_once(kind: str) -> None:
    """An LSTM has no kernel that reads weights in 16 bits: they are float32 in the artefact, not in a kernel of each call."""
    rng = np.random.default_rng(0)
    model = _model(
        "g (half[3,1,64] x) => (half[3,1,1,32] y) { y = LSTM<hidden_size=32>(x, w, r) }", kind,
        w=rng.standard_normal((1, 128, 64)) / 8, r=rng.standard_normal((1, 128, 32)) / 8,
    )  # fmt: skip
    program = to_program(model, "x86-64-v3")[2]
    assert {str(c.type.dtype) for c in program.constants} == {"f32"}


@BOTH
def test_branches_return_what_they_promise(kind: str) -> None:
    text = """g (half[4] x, bool c) => (half[4] y) {
        a = Exp(x)
        b = If(c) <
            then_branch = t () => (half[4] u) { s = Mul(a, a) u = Sqrt(s) },
            else_branch = e () => (half[4] v) { v = Identity(a) }
        >
        y = Log(b)
    }"""
    model = _model(text, kind)
    x = np.array([-2.0, 0.5, 3.0, 5.0]).astype(TYPES[kind])
    compiled = graphopt.compile(model, "x86")
    for condition in (True, False):
        (y,) = compiled.run({"x": x, "c": np.bool_(condition)}).values()
        assert y.dtype == TYPES[kind]
        assert np.abs(y.astype(float) - x.astype(float)).max() <= 2 * float(ml_dtypes.finfo(TYPES[kind]).eps) * 5


@BOTH
def test_loops_carry_what_they_promise(kind: str) -> None:
    text = """g (half[2] x, int64 n) => (half[2] y) {
        first = Exp(x)
        y = Loop(n, , first) <
            body = b (int64 i, bool c, half[2] s) => (bool d, half[2] t) { d = Identity(c) h = Mul(s, half_of) t = Add(h, first) }
        >
    }"""
    graph = _unrounded(_model(text.replace("half_of", "point"), kind, point=np.float64([0.5])))
    loop = next(n for n in graph.nodes if n.op == "Loop")
    assert str(loop.out.dtype) in ("f16", "bf16")
    (body,) = loop.subgraphs
    assert body.outputs[1].dtype is body.inputs[2].dtype is loop.out.dtype


@BOTH
def test_a_cast_like_a_value_that_is_float32_now(kind: str) -> None:
    text = "g (half[3] x, float[3] f) => (half[3] y, half[3] z) { a = Exp(x) y = CastLike(f, a) b = CastLike(f, x) z = Mul(b, a) }"
    x, f = np.array([0.1, 1.0, -2.0]).astype(TYPES[kind]), np.array([1.0001, 2.0, 3.0], np.float32)
    got = graphopt.compile(_model(text, kind), "x86").run({"x": x, "f": f})
    assert got["y"].dtype == got["z"].dtype == TYPES[kind]
    np.testing.assert_array_equal(got["y"], f.astype(TYPES[kind]))


@BOTH
def test_bits_are_read_as_they_would_be(kind: str) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 26]> g ({kind}[3] x) => (uint16[3] y) {{ a = Exp(x) y = BitCast<to=4>(a) }}'
    )
    x = np.array([0.1, 1.0, -2.0]).astype(TYPES[kind])
    graph = _unrounded(model)
    assert ops(graph)[-1] == "BitCast"
    assert graph.nodes[-1].inputs[0] is not None
    assert graph.nodes[-1].inputs[0].dtype.numpy == TYPES[kind]
    assert x.dtype == TYPES[kind]


def test_factors_are_rounded_once_for_all_readers() -> None:
    """Where products want bfloat16: convolution, residual and activation are rounded together, before the next convolution."""
    text = """g (half[1,8,5,5] x) => (half[1,8,5,5] y) {
        a = Conv(x, w)
        b = Add(a, x)
        c = Relu(b)
        d = MaxPool<kernel_shape=[1,1]>(c)
        e = Conv(d, w)
        y = Add(e, c)
    }"""
    rng = np.random.default_rng(0)
    model = _model(text, "bfloat16", w=rng.standard_normal((8, 8, 1, 1)))
    graph = _unrounded(model, lambda node, dtype: (0, 1) if node.op == "Conv" else ())
    made = {n.op + n.out.name: str(n.out.dtype) for n in graph.nodes if n.op not in ("Cast", "MaxPool")}
    assert set(made.values()) == {"f32"}
    (rounded,) = (n for n in graph.nodes if n.op == "Cast" and n.inputs[0] is not None and n.inputs[0].name == "c")
    assert sorted(u.node.op for u in rounded.out.uses) == [
        "Cast",
        "MaxPool",
    ]  # the sum reads what the convolution reads


def test_a_model_in_float32_is_left_alone() -> None:
    model = _model("g (float[2] x) => (float[2] y) { a = Exp(x) y = Sin(a) }", "float16")
    graph = import_onnx(model)
    before = str(graph)
    leave_unrounded(graph, NARROW)
    assert str(graph) == before


def test_what_the_target_computes_in_16_bits_is_left_as_it_is_written() -> None:
    """Nodes beside it hand float32 to one another, and round where it reads them."""
    text = "g (half[4,8] x) => (half[4,8] y) { a = MatMul(x, w) b = Relu(a) c = Exp(b) d = Sqrt(c) e = Mul(d, b) y = Relu(e) }"
    graph = import_onnx(_model(text, "float16", w=np.eye(8)))
    leave_unrounded(graph, NARROW, computes=lambda node, dtype: dtype is DType.f16 and suits_halves(node))
    verify(graph)
    types = {node.op: node.out.dtype for node in graph.walk() if node.op != "Cast"}
    assert types == {"MatMul": DType.f16, "Relu": DType.f16, "Exp": DType.f32, "Sqrt": DType.f32, "Mul": DType.f16}
    assert sum(node.op == "Cast" for node in graph.walk()) == 2


def test_linear_nodes_sums_and_pools_suit_float16_and_exponentials_do_not() -> None:
    text = """g (half[1,4,8,8] x) => (half[1,4,1,1] y) {
        a = Conv(x, w) b = Add(a, x) c = Softmax(b) d = MaxPool<kernel_shape = [2, 2]>(c) e = Exp(d)
        f = Transpose(e) y = GlobalAveragePool(f)
    }"""
    graph = import_onnx(_model(text, "float16", w=np.zeros((4, 4, 1, 1))))
    assert {n.op for n in graph.nodes if suits_halves(n)} == {
        "Conv",
        "Add",
        "MaxPool",
        "Transpose",
        "GlobalAveragePool",
    }
