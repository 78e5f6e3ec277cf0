"""Shapes that depend on data: operands that are graph inputs or computed, counts, and what is refused while running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphopt.driver.compiling import compile
from graphopt.errors import InputError, UnsupportedOpError
from tests.support.run_node import model_with, node, reference, run, same

RNG = np.random.default_rng(5)


def _i64(*values: int) -> Any:
    return np.array(values, np.int64)


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[Any]]],
    outputs: Mapping[str, tuple[int, int]],
    consts: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    """Inputs as (element type, shape), outputs as (element type, rank) with unknown extents."""
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info(n, t, list(s)) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, [f"{n}_{a}" for a in range(r)]) for n, (t, r) in outputs.items()],
        [numpy_helper.from_array(v, k) for k, v in (consts or {}).items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    return model


def _runs(model: onnx.ModelProto, feeds: Sequence[Mapping[str, Any]]) -> None:
    compiled = compile(model, "x86", threads=2)
    for feed in feeds:
        got, want = compiled.run(dict(feed)), reference(model, feed)
        for name, array in want.items():
            same(name, got[name], array)


FLOAT, INT32, INT64, BOOL = 1, 6, 7, 9


def test_reshape_to_an_input() -> None:
    model = _model([node("Reshape", "x s", "y")], {"x": (FLOAT, (2, 3, 4)), "s": (INT64, (3,))}, {"y": (FLOAT, 3)})
    x = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    _runs(model, [{"x": x, "s": s} for s in (_i64(4, 3, 2), _i64(0, -1, 2), _i64(-1, 1, 24), _i64(24, 1, 1))])


def test_slice_with_every_operand_an_input() -> None:
    inputs = {"x": (FLOAT, ("n", 7)), **dict.fromkeys("beas", (INT64, (2,)))}
    model = _model([node("Slice", "x b e a s", "y")], inputs, {"y": (FLOAT, 2)})
    feeds = []
    for rows, b, e, a, s in (
        (5, (1, 2), (4, 6), (0, 1), (1, 2)), (3, (-1, -1), (-9, -99), (1, 0), (-2, -1)), (9, (0, 100), (0, 200), (-2, -1), (3, 1)),
    ):  # fmt: skip
        x = RNG.standard_normal((rows, 7)).astype(np.float32)
        feeds.append({"x": x, "b": _i64(*b), "e": _i64(*e), "a": _i64(*a), "s": _i64(*s)})
    _runs(model, feeds)


def test_expand_tile_and_fill() -> None:
    nodes = [
        node("Expand", "x s", "y"),
        node("Tile", "x r", "z"),
        node("ConstantOfShape", "r", "w"),
    ]
    inputs = {"x": (FLOAT, (3, 1)), "s": (INT64, (2,)), "r": (INT64, (2,))}
    model = _model(nodes, inputs, {"y": (FLOAT, 2), "z": (FLOAT, 2), "w": (FLOAT, 2)})
    x = RNG.standard_normal((3, 1)).astype(np.float32)
    _runs(
        model,
        [
            {"x": x, "s": s, "r": r}
            for s, r in ((_i64(3, 5), _i64(2, 3)), (_i64(1, 1), _i64(1, 0)), (_i64(3, 33), _i64(0, 7)))
        ],
    )


def test_pad_with_amounts_and_axes_given_at_run_time() -> None:
    inputs = {"x": (FLOAT, (3, "n")), "p": (INT64, (2,)), "v": (FLOAT, ()), "a": (INT64, (1,))}
    model = _model([node("Pad", "x p v a", "y")], inputs, {"y": (FLOAT, 2)})
    feeds = []
    for n, p, a in ((4, (1, 2), 0), (1, (0, 7), -1), (33, (3, 0), 1)):
        x = RNG.standard_normal((3, n)).astype(np.float32)
        feeds.append({"x": x, "p": _i64(*p), "v": np.array(2.5, np.float32), "a": _i64(a)})
    _runs(model, feeds)


def test_scalars_of_other_integer_types() -> None:
    nodes = [node("Range", "a b d", "y"), node("Unsqueeze", "y q", "z")]
    inputs = dict.fromkeys("abd", (INT32, ()))
    model = _model(nodes, inputs, {"y": (INT32, 1), "z": (INT32, 2)}, {"q": _i64(0)})
    _runs(model, [dict(zip("abd", np.array(v, np.int32))) | {} for v in ((0, 10, 3), (5, -20, -4), (3, 3, 1))])


def test_float_range_counts_first() -> None:
    model = _model([node("Range", "a b d", "y")], dict.fromkeys("abd", (FLOAT, ())), {"y": (FLOAT, 1)})
    _runs(model, [dict(zip("abd", np.array(v, np.float32))) for v in ((0, 10, 0.75), (1, -3, -0.5), (5, 0, 1))])


def test_top_k_with_k_an_input() -> None:
    model = _model(
        [node("TopK", "x k", "v i")], {"x": (FLOAT, ("n", 9)), "k": (INT64, (1,))}, {"v": (FLOAT, 2), "i": (INT64, 2)}
    )
    _runs(
        model,
        [{"x": RNG.standard_normal((n, 9)).astype(np.float32), "k": _i64(k)} for n, k in ((1, 1), (4, 9), (7, 0))],
    )


def test_counts_flow_on() -> None:
    """What is counted decides shapes further down, also of kernels that do not read it."""
    nodes = [
        node("NonZero", "m", "i"), node("Transpose", "i", "t", perm=[1, 0]), node("GatherND", "x t", "y"), node("Shape", "y", "s"),
        node("Expand", "one s", "o"), node("Add", "o y", "z"), node("Mul", "z z", "w"),
    ]  # fmt: skip
    model = _model(
        nodes,
        {"m": (BOOL, ("n", 5)), "x": (FLOAT, ("n", 5))},
        {"w": (FLOAT, 1), "t": (INT64, 2)},
        {"one": np.ones(1, np.float32)},
    )
    feeds = [
        {"m": RNG.random((n, 5)) < p, "x": RNG.standard_normal((n, 5)).astype(np.float32)}
        for n, p in ((4, 0.5), (9, 0), (33, 1))
    ]
    _runs(model, feeds)


def test_computed_operands() -> None:
    """A shape computed by integer arithmetic on an input."""
    nodes = [
        node("Mul", "k two", "k2"), node("Concat", "k2 h", "r", axis=0), node("Reshape", "x r", "y"),
    ]  # fmt: skip
    consts = {"two": _i64(2), "h": _i64(-1)}
    model = _model(nodes, {"x": (FLOAT, ("n", 4)), "k": (INT64, (1,))}, {"y": (FLOAT, 2)}, consts)
    _runs(
        model,
        [{"x": RNG.standard_normal((n, 4)).astype(np.float32), "k": _i64(k)} for n, k in ((6, 3), (1, 1), (10, 4))],
    )


@pytest.mark.parametrize(
    ("feed", "why"),
    [({"s": _i64(-3, 2)}, r"s\[0\] = -3"), ({"s": _i64(5, 2)}, "element count")],
)
def test_impossible_shapes_are_refused_while_running(feed: dict[str, Any], why: str) -> None:
    model = _model([node("ConstantOfShape", "s", "f"), node("Reshape", "x s", "y")], {"x": (FLOAT, (2, 3)), "s": (INT64, (2,))},
                   {"y": (FLOAT, 2), "f": (FLOAT, 2)})  # fmt: skip
    compiled = compile(model, "x86", threads=2)
    with pytest.raises(InputError, match=why):
        compiled.run({"x": np.zeros((2, 3), np.float32), **feed})


def test_division_by_zero_in_a_shape_is_refused() -> None:
    model = _model([node("Range", "a b d", "y")], dict.fromkeys("abd", (INT64, ())), {"y": (INT64, 1)})
    compiled = compile(model, "x86", threads=2)
    with pytest.raises(InputError, match="divides by zero"):
        compiled.run(dict(zip("abd", np.array((0, 5, 0), np.int64))))


def test_targets_that_do_not_fit_are_refused() -> None:
    model = _model([node("Expand", "x s", "y")], {"x": (FLOAT, (3, "n")), "s": (INT64, (2,))}, {"y": (FLOAT, 2)})
    compiled = compile(model, "x86", threads=2)
    with pytest.raises(InputError, match="target of Expand"):
        compiled.run({"x": np.zeros((3, 4), np.float32), "s": _i64(3, 5)})


def test_ranks_that_depend_on_data_are_refused_when_compiling() -> None:
    model = _model([node("Reshape", "x s", "y")], {"x": (FLOAT, (2, 3)), "s": (INT64, ("k",))}, {"y": (FLOAT, 2)})
    with pytest.raises(UnsupportedOpError):
        compile(model, "x86", threads=2)


@pytest.mark.parametrize("level", [0, 2])
def test_a_view_of_shape_arithmetic(level: int) -> None:
    """No kernel computes extents that are known by themselves, so a view of them has nothing to look at."""
    nodes = [
        node("Shape", "x", "s"),
        node("Unsqueeze", "s a", "y"),
        node("Reshape", "s r", "z"),
        node("Identity", "s", "i"),
    ]
    x = np.zeros((5, 7), np.float32)
    model = model_with(nodes, {"x": x}, {"a": np.array([-1]), "r": np.array([1, 2, 1])}, symbolic=True)
    del model.graph.output[0]  # as an output, the shape would be computed
    for feed in ({"x": x}, {"x": np.zeros((3, 7), np.float32)}):
        got = run(model, feed, level=level)
        assert list(got) == ["y", "z", "i"]
        for name, want in reference(model, feed).items():
            same(name, got[name], want)
