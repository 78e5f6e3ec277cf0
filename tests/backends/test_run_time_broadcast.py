"""Broadcasting of dimensions that only run time knows to be 1: one compilation, many shapes, against ONNX's reference."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import graphopt
from graphopt.driver.compiling import to_program
from graphopt.errors import InputError
from tests.support.cuda_on_cpu.gpu import compiled_for_simulator, run_on_simulated_gpu
from tests.support.tolerance import assert_close

LEVELS = (0, 2)
PAIRS = [(1, 1), (1, 5), (5, 1), (5, 5), (0, 1), (1, 0)]
MISFITS = [(5, 3), (0, 5), (2, 0)]
KINDS = {"float": TensorProto.FLOAT, "int": TensorProto.INT64, "uint": TensorProto.UINT32, "bool": TensorProto.BOOL}

Shape = tuple[int | str, ...]


def model(
    nodes: list[Any], inputs: dict[str, tuple[str, Shape]], outputs: dict[str, tuple[str, int]], **consts: Any
) -> Any:
    declared = [helper.make_tensor_value_info(n, KINDS[kind], shape) for n, (kind, shape) in inputs.items()]
    results = [
        helper.make_tensor_value_info(n, KINDS[kind], [f"{n}_{i}" for i in range(rank)])
        for n, (kind, rank) in outputs.items()
    ]
    fixed = [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in consts.items()]
    graph = helper.make_graph(nodes, "broadcast", declared, results, fixed)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


class Mean(OpRun):  # type: ignore[misc]
    """ONNX's own adds to its first operand in place, which does not broadcast."""

    def _run(self, *operands: Any) -> tuple[Any]:
        return (np.asarray(sum(operands) / np.float32(len(operands))),)


def compare(compiled: Any, reference: ReferenceEvaluator, feed: dict[str, Any], **bound: Any) -> None:
    expected = dict(zip(reference.output_names, reference.run(None, feed)))
    got = compiled.run(feed)
    for name, want in expected.items():
        assert got[name].shape == want.shape, name
        assert got[name].dtype == want.dtype, name
        if want.dtype.kind == "f":
            assert_close(got[name], want, **bound)
        else:
            assert (got[name] == want).all(), name


def values(kind: str, shape: tuple[int, ...], seed: int) -> Any:
    rng = np.random.default_rng(seed)
    if kind == "float":
        return rng.uniform(0.5, 2, shape).astype(np.float32)
    if kind == "bool":
        return rng.random(shape) < 0.5
    return rng.integers(1, 9, shape).astype(np.int64 if kind == "int" else np.uint32)


# operator: operands' kind, result's kind, attributes
BINARY: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{op: ("float", "float", {}) for op in ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean")},
    **{op: ("float", "bool", {}) for op in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")},
    **{op: ("bool", "bool", {}) for op in ("And", "Or", "Xor")},
    **{op: ("uint", "uint", {}) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")},
    "Equal": ("int", "bool", {}),
    "Mod": ("int", "int", {}),
    "BitShift": ("uint", "uint", {"direction": "LEFT"}),
}


def binary_model() -> Any:
    """Every operator on a [N, K] and b [M, L] of its kind."""
    nodes, outputs = [], {}
    for op, (kind, result, attrs) in BINARY.items():
        nodes.append(helper.make_node(op, [f"a_{kind}", f"b_{kind}"], [op], **attrs))
        outputs[op] = (result, 2)
    inputs: dict[str, tuple[str, Shape]] = {}
    for kind in KINDS:
        inputs |= {f"a_{kind}": (kind, ("N", "K")), f"b_{kind}": (kind, ("M", "L"))}
    return model(nodes, inputs, outputs)


def binary_feed(n: int, m: int, k: int, length: int) -> dict[str, Any]:
    feed = {}
    for i, kind in enumerate(KINDS):
        feed |= {f"a_{kind}": values(kind, (n, k), 2 * i), f"b_{kind}": values(kind, (m, length), 2 * i + 1)}
    return feed


@cache
def built(make: Any, level: int) -> tuple[Any, ReferenceEvaluator]:
    made = make()
    return graphopt.compile(made, "x86", threads=2, level=level), ReferenceEvaluator(made, new_ops=[Mean])


@pytest.mark.parametrize("level", [0, pytest.param(2, marks=pytest.mark.slow)])  # none is fused here
def test_every_operator_of_two_operands(level: int) -> None:
    compiled, reference = built(binary_model, level)
    columns = [(1, 1), (1, 37), (37, 1), (37, 37), (0, 1)]
    for (n, m), (k, length) in itertools.product(PAIRS, columns):
        compare(compiled, reference, binary_feed(n, m, k, length), reduction=4)


@pytest.mark.parametrize("level", [0, pytest.param(2, marks=pytest.mark.slow)])  # none is fused here either
def test_what_does_not_fit_is_refused_with_both_values(level: int) -> None:
    inputs: dict[str, tuple[str, Shape]] = {"a": ("float", ("N", "K")), "b": ("float", ("M", "L"))}
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Less", ["b", "a"], ["less"])]
    made = model(nodes, inputs, {"sum": ("float", 2), "less": ("bool", 2)})
    compiled = graphopt.compile(made, "x86", threads=2, level=level)
    for n, m in MISFITS:
        with pytest.raises(InputError, match=rf"N = {n}\b.*M = {m}\b|M = {m}\b.*N = {n}\b"):
            compiled.run({"a": values("float", (n, 3), 0), "b": values("float", (m, 3), 1)})
        with pytest.raises(InputError, match="equal, or one of them 1"):
            compiled.run({"a": values("float", (1, n), 0), "b": values("float", (1, m), 1)})


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_every_operator_refuses_what_does_not_fit(level: int) -> None:
    compiled, _ = built(binary_model, level)
    for n, m in MISFITS:
        with pytest.raises(InputError, match=rf"N = {n}\b.*M = {m}\b|M = {m}\b.*N = {n}\b"):
            compiled.run(binary_feed(n, m, 3, 3))
        with pytest.raises(InputError, match="equal, or one of them 1"):
            compiled.run(binary_feed(1, 1, n, m))


def fused_model() -> Any:
    """Chains: broadcast results that are broadcast again, reduced, multiplied as matrices and looked up."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["relu"]),
        helper.make_node("Mul", ["relu", "a"], ["again"]),
        helper.make_node("Sub", ["again", "c"], ["three"]),
        helper.make_node("Softmax", ["three"], ["softmax"], axis=-1),
        helper.make_node("ReduceSum", ["three", "last"], ["reduced"], keepdims=1),
        helper.make_node("Mul", ["reduced", "b"], ["scaled"]),
        helper.make_node("ReduceMax", ["a", "first"], ["top"], keepdims=1),
        helper.make_node("Add", ["top", "b"], ["topped"]),
        helper.make_node("Transpose", ["b"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["sum", "turned"], ["product"]),
        helper.make_node("Greater", ["a", "b"], ["more"]),
        helper.make_node("Where", ["more", "c", "a"], ["chosen"]),
        helper.make_node("Max", ["a", "b", "c"], ["greatest"]),
        helper.make_node("Concat", ["sum", "sum"], ["joined"], axis=0),
        helper.make_node("Reshape", ["three", "flat"], ["line"]),
        helper.make_node("PRelu", ["three", "slope"], ["sloped"]),
    ]  # fmt: skip
    inputs: dict[str, tuple[str, Shape]] = {
        "a": ("float", ("N", "K")), "b": ("float", ("M", "L")), "c": ("float", ("N", "J")), "slope": ("float", ("I",)),
    }  # fmt: skip
    outputs = dict.fromkeys(("softmax", "scaled", "topped", "chosen", "greatest", "joined", "sloped"), ("float", 2))
    return model(
        nodes, inputs, {**outputs, "line": ("float", 1), "product": ("float", 2)},
        last=np.array([1]), first=np.array([0]), flat=np.array([-1]),
    )  # fmt: skip


@pytest.mark.parametrize("level", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_fused_chains(level: int) -> None:
    compiled, reference = built(fused_model, level)
    for n, m in ((1, 1), (1, 5), (5, 1), (5, 5)):
        # the product needs as many columns in the sum as in b
        for k, length, j, i in (
            (1, 1, 1, 1),
            (1, 19, 1, 1),
            (19, 19, 1, 19),
            (1, 19, 19, 1),
            (19, 19, 19, 19),
            (1, 1, 1, 1),
        ):
            feed = {
                "a": values("float", (n, k), 0), "b": values("float", (m, length), 1), "c": values("float", (n, j), 2),
                "slope": values("float", (i,), 3),
            }  # fmt: skip
            compare(compiled, reference, feed, reduction=64)


@pytest.mark.parametrize("level", LEVELS)
def test_an_extent_below_the_width_of_vectors_or_1(level: int) -> None:
    """``n`` is 3 or 1. TVM put 3 for it where it is, and then could not divide by the number of vectors, 0."""
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Mul", ["r", "c"], ["y"])]
    inputs: dict[str, tuple[str, Shape]] = {"x": ("float", (3, "n")), "c": ("float", ("n", 1))}
    m = model(nodes, inputs, {"y": ("float", 2)})
    compiled = graphopt.compile(m, "x86", level=level)
    rng = np.random.default_rng(0)
    for n in (1, 3):
        feed = {"x": rng.normal(size=(3, n)).astype(np.float32), "c": rng.normal(size=(n, 1)).astype(np.float32)}
        compare(compiled, ReferenceEvaluator(m), feed)


def test_gpu_kernels_select_positions_without_a_second_nest(tmp_path: Path) -> None:
    """And extents are spelt out: no kernel hands dimensions to the host there."""
    made = fused_model()
    _, _, program = to_program(made, "cuda")
    assert not any(type(step).__name__ == "BindStep" for step in program.steps)
    reference = ReferenceEvaluator(made)
    pytest.importorskip("ziglang")
    path = compiled_for_simulator(made, tmp_path / "model.gopt", exact=True)
    for n, m, k, length in ((1, 5, 1, 7), (5, 5, 7, 7)):
        feed = {
            "a": values("float", (n, k), 0), "b": values("float", (m, length), 1), "c": values("float", (n, 1), 2),
            "slope": values("float", (1,), 3),
        }  # fmt: skip
        got = run_on_simulated_gpu(path, feed, schedules=(0,))
        for found, want in zip(got.values(), reference.run(None, feed), strict=True):
            assert found.shape == want.shape
            assert_close(found, want, reduction=64)


def matrix_model() -> Any:
    """Leading dimensions of matrix products, the summand of Gemm, scales of normalisations."""
    nodes = [
        helper.make_node("MatMul", ["x", "y"], ["batched"]),
        helper.make_node("MatMul", ["y", "column"], ["vector"]),
        helper.make_node("Gemm", ["p", "q", "s"], ["gemm"], beta=0.5),
        helper.make_node("LayerNormalization", ["x", "scale", "bias"], ["layer"], axis=-1),
    ]
    inputs: dict[str, tuple[str, Shape]] = {
        "x": ("float", ("B", 1, 3, 7)), "y": ("float", ("C", "H", 7, 4)), "column": ("float", (4,)),
        "p": ("float", ("R", 7)), "q": ("float", (7, 4)), "s": ("float", ("S", "T")),
        "scale": ("float", ("U",)), "bias": ("float", ("V",)),
    }  # fmt: skip
    return model(
        nodes, inputs,
        {"batched": ("float", 4), "vector": ("float", 3), "gemm": ("float", 2), "layer": ("float", 4)},
    )  # fmt: skip


def matrix_feed(b: int, c: int, h: int, r: int, s: int, t: int, u: int = 7, v: int = 7) -> dict[str, Any]:
    shapes = {
        "x": (b, 1, 3, 7), "y": (c, h, 7, 4), "column": (4,), "p": (r, 7), "q": (7, 4), "s": (s, t), "scale": (u,),
        "bias": (v,),
    }  # fmt: skip
    return {name: values("float", shape, i) for i, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("level", LEVELS)
def test_matrix_products_and_normalisations(level: int) -> None:
    compiled, reference = built(matrix_model, level)
    for b, c, h, r, s, t in (
        (1, 1, 1, 1, 1, 1), (1, 5, 2, 3, 1, 4), (5, 1, 3, 3, 3, 1), (5, 5, 1, 3, 3, 4), (0, 1, 2, 0, 1, 4), (2, 2, 2, 1, 1, 4),
    ):  # fmt: skip
        compare(compiled, reference, matrix_feed(b, c, h, r, s, t), reduction=64)
    compare(compiled, reference, matrix_feed(2, 1, 1, 2, 1, 1, 1, 7), reduction=64)
    compare(compiled, reference, matrix_feed(2, 1, 1, 2, 1, 1, 7, 1), reduction=64)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("sizes", "named"),
    [((5, 3, 1, 1, 1, 1), "B = 5.*C = 3|C = 3.*B = 5"), ((1, 1, 1, 3, 7, 4), "S = 7.*R = 3"), ((1, 1, 1, 1, 3, 4), "S = 3.*R = 1"),
     ((1, 1, 1, 1, 1, 1, 3), "U = 3"), ((1, 1, 1, 1, 1, 1, 7, 0), "V = 0")],
)  # fmt: skip
def test_matrix_operands_that_do_not_fit(level: int, sizes: tuple[int, ...], named: str) -> None:
    compiled, _ = built(matrix_model, level)
    with pytest.raises(InputError, match=named):
        compiled.run(matrix_feed(*sizes))


def test_equal_extents_keep_the_loops_without_selections() -> None:
    """The fast loops hold no selection and are vectorised; they run whenever nothing is broadcast."""
    made = model(
        [helper.make_node("Add", ["a", "b"], ["sum"])], {"a": ("float", ("N", 64)), "b": ("float", ("M", 64))},
        {"sum": ("float", 2)},
    )  # fmt: skip
    _, _, program = to_program(made, "x86-64-v3", threads=1)
    (function,) = [f for name, f in program.functions.items() if "dims" not in name]
    fast, slow = function.script(show_meta=False).split("else:")
    assert "T.Select" in slow
    assert "T.Select" not in fast
    assert "T.vectorized" in fast


@pytest.mark.parametrize("pattern", ["same", "product", "min"])
def test_what_is_known_to_be_equal_is_not_selected(pattern: str) -> None:
    """The same symbol, symbols that a matrix product equates, and ``min(N, 128)``, which is 1 where N is."""
    if pattern == "same":
        nodes = [helper.make_node("Add", ["a", "b"], ["out"])]
        inputs: dict[str, tuple[str, Shape]] = {"a": ("float", ("N", 4)), "b": ("float", ("N", 4))}
    elif pattern == "product":
        nodes = [
            helper.make_node("Transpose", ["a"], ["turned"], perm=[1, 0]),
            helper.make_node("MatMul", ["turned", "b"], ["square"]),
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("MatMul", ["sum", "square"], ["out"]),
        ]
        inputs = {"a": ("float", ("N", 4)), "b": ("float", ("M", 4))}
    else:
        nodes = [
            helper.make_node("Slice", ["b", "zero", "limit", "zero"], ["cut"]),
            helper.make_node("Add", ["a", "cut"], ["out"]),
        ]
        inputs = {"a": ("float", ("N", 4)), "b": ("float", ("N", 4))}
    made = model(nodes, inputs, {"out": ("float", 2)}, zero=np.array([0]), limit=np.array([128]))
    _, _, program = to_program(made, "x86", threads=1)
    assert not any("T.Select" in f.script(show_meta=False) for f in program.functions.values())
