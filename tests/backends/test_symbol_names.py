"""Symbols: what a dimension is called says nothing about what it is, neither in inference nor in generated code."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, checker, helper

import graphopt
from graphopt.backends.base.dim_names import variable_name
from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import export_onnx, optimize
from graphopt.ir.atoms import Apply, Symbol, SymbolKind
from graphopt.ir.dims import SymExpr, floordiv, kind_of, nonnegative, symbol
from tests.support.onnx_graphs import graph_of, model_of

HARD = ["u0", "v0", "d0", "@d0", "a.b", "a_b", "a b", "é", "1", "n//2", "s_a", "main", "dims", "x" * 300]


@pytest.mark.parametrize("level", [0, 2])
def test_two_counts_of_one_value_are_one(level: int) -> None:
    """Merging equal nodes leaves no symbol behind that nothing computes."""
    body = "a = NonZero(x)\nb = NonZero(x)\nc = Add(a, b)\nf = Cast<to=1>(b)\ny = Relu(f)"
    model = model_of({"x": "float[3,4]"}, body, "c:int64 y")
    x = np.eye(3, 4, dtype=np.float32)
    out = graphopt.compile(model, "native", threads=1, level=level).run({"x": x})
    np.testing.assert_array_equal(out["c"], 2 * np.stack(np.nonzero(x)))
    np.testing.assert_array_equal(out["y"], np.stack(np.nonzero(x)))


def test_two_casts_of_one_length_are_one() -> None:
    """The same for elements of tensors that shapes are made of."""
    body = "p = Cast<to=7>(n)\nq = Cast<to=7>(n)\na = Expand(x, p)\nb = Expand(x, q)\ny = Add(a, b)"
    model = model_of({"x": "float[1,1]", "n": "int32[2]"}, body)
    out = graphopt.compile(model, "native", threads=1).run({"x": np.ones((1, 1), np.float32), "n": np.int32([2, 3])})
    np.testing.assert_array_equal(out["y"], np.full((2, 3), 2, np.float32))


def test_a_models_names_meet_none_of_ours() -> None:
    """``u0`` of the model and the first count are different extents, even when a declared name comes last."""
    body = "c = NonZero(x)\nf = Cast<to=1>(c)\ny = Relu(f)\nz = Relu(w)"
    model = model_of({"x": "float[u0,?]", "w": "float[u1,d0]"}, body, "y z")
    graph = import_onnx(model)
    names = [str(d) for v in (*graph.inputs, *graph.outputs) for d in v.shape]
    assert len(set(names[:4])) == 4
    assert names[5] not in names[:4]
    feed = {"x": np.eye(3, 5, dtype=np.float32), "w": np.ones((4, 2), np.float32)}
    out = graphopt.compile(model, "native", threads=1).run(feed)
    assert out["y"].shape == (2, 3)
    assert out["z"].shape == (4, 2)


@pytest.mark.parametrize("first", range(len(HARD)))
@pytest.mark.few(7)
def test_any_two_names(first: int) -> None:
    """Two dimensions of whatever names stay two in kernels; names go out as they came in."""
    names = [HARD[first], HARD[first - 1]]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["t", "x"], ["y"]),
        helper.make_node("Concat", ["x", "x"], ["z"], axis=0),
    ]
    ins = [helper.make_tensor_value_info("x", TensorProto.FLOAT, names)]
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, None]) for n in "yz"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ins, outs), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    exported = export_onnx(optimize(import_onnx(model)))
    assert [d.dim_param for d in exported.graph.input[0].type.tensor_type.shape.dim] == names
    x = np.arange(15, dtype=np.float32).reshape(3, 5)
    level = 0 if first % 3 else 2  # loop nests of their own compile in a fifth of the time of a product's template
    out = graphopt.compile(model, "native", threads=1, level=level).run({"x": x})
    np.testing.assert_allclose(out["y"], x.T @ x)
    np.testing.assert_array_equal(out["z"], np.concatenate([x, x]))


def test_variables_of_generated_code() -> None:
    """An ASCII identifier each."""
    found = [variable_name(name) for name in [*HARD, "", "e", "a:b"]]
    assert len(set(found)) == len(found)
    assert all(name.isascii() and name.isidentifier() for name in found)


def test_kinds_are_data() -> None:
    """Only elements of tensors may be negative, whatever they are called."""
    assert nonnegative(symbol("v0"))
    assert not nonnegative(symbol("n", SymbolKind.element))
    assert symbol("n") != symbol("n", SymbolKind.measured)
    assert kind_of(symbol("n", SymbolKind.measured)) is SymbolKind.measured
    assert kind_of(symbol("n") + 1) is None


def test_a_name_that_looks_like_an_expression() -> None:
    """It is written in quotes, and is not the expression."""
    name, half = symbol("n//2"), floordiv(symbol("n"), 2)
    assert (str(name), str(half)) == ('"n//2"', "n//2")
    assert name + half == half + name
    assert (name + half).terms == (half + name).terms
    assert name != half


def test_expressions_shared_many_times() -> None:
    """Comparing, substituting and writing take time by the distinct parts, not by their written form."""
    dim = symbol("n")
    for _ in range(100):
        dim = SymExpr({(Apply("max", (floordiv(dim, symbol("m")), floordiv(dim, symbol("k")))),): 1})
        if dim.depth > 120:
            break
    again = dim.subs({"n": symbol("q")})
    assert isinstance(again, SymExpr)
    assert again != dim
    assert again.subs({"q": symbol("n")}) == dim
    assert len(str(dim)) < 100
    assert Symbol("q") in again.atoms


def test_names_of_nodes_and_values_are_unique_after_optimisation() -> None:
    """Nodes that passes make are not called as imported ones, also where an output gets an Identity."""
    body = """
        c = Conv(x, w)
        conv_1 = BatchNormalization(c, s, s, s, s)
        y = Relu(conv_1)
        k__const = Identity(x)
        k__identity = Neg(k__const)
    """
    ones = np.ones(2, np.float32)
    graph = graph_of(
        {"x": "float[1,2,4,4]"}, body, "y x k k__identity k__const", w=np.ones((2, 2, 1, 1), np.float32), s=ones, k=ones
    )
    for node, name in zip(graph.nodes, ["conv", "conv_1", "relu", "k__identity", "node:conv"]):
        node.name = graph.fresh_node_name(name)
    model = export_onnx(optimize(graph, level=3))
    checker.check_model(model)
    nodes = [n.name for n in model.graph.node]
    values = [o for n in model.graph.node for o in n.output] + [i.name for i in model.graph.initializer]
    assert len(set(nodes)) == len(nodes)
    assert len(set(values)) == len(values)
    again = export_onnx(optimize(graph, level=3))
    assert again.SerializeToString() == model.SerializeToString()
