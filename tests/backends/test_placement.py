"""Concat, Split and Slice without copies: what is placed, what falls back, and that shared memory is never overwritten."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.backends.program.program import JoinStep, KernelStep, ViewStep
from graphopt.runtime.model import CompiledModel
from tests.support.movements import Node, model, movements, n


def run(proto: onnx.ModelProto, shape: Sequence[int]) -> CompiledModel:
    """Compile, run twice on different data, compare with ONNX's reference; returns the compiled model."""
    compiled = graphopt.compile(proto, "native", threads=2)
    for seed in range(2):
        x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        want = ReferenceEvaluator(proto).run(None, {"x": x})
        for got, expected in zip(compiled.run({"x": x}).values(), want):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    return compiled


def kernels(compiled: CompiledModel) -> list[str]:
    assert compiled.program is not None
    return [s.function for s in compiled.program.steps if isinstance(s, KernelStep)]


def count(compiled: CompiledModel, kind: type) -> int:
    assert compiled.program is not None
    return sum(isinstance(s, kind) for s in compiled.program.steps)


def test_a_growing_concat_never_copies() -> None:
    nodes = [n("Relu", "x", "a0")]
    for i in range(4):
        nodes += [
            n("Tanh", f"a{i}", f"t{i}"),
            n("Slice", f"t{i} zero sixteen one", f"f{i}"),
            n("Neg", f"f{i}", f"g{i}"),
        ]
        nodes += [n("Concat", f"a{i} g{i}", f"a{i + 1}", axis=1)]
    nodes += [n("Exp", "a4", "y")]
    consts = {"zero": np.array([0]), "sixteen": np.array([16]), "one": np.array([1])}
    compiled = run(model(nodes, ["y"], (1, 16, 5, 7), consts), (1, 16, 5, 7))
    assert count(compiled, JoinStep) == 4
    assert not [k for k in kernels(compiled) if "concat" in k or "copy" in k or "slice" in k]


def test_split_branches_and_joined_again() -> None:
    """The form of YOLO's C2f: both halves and what is computed of them, joined."""
    nodes = [
        n("Relu", "x", "a"), n("Split", "a", "p q", axis=1, num_outputs=2), n("Tanh", "q", "r"), n("Sin", "r", "s"),
        n("Concat", "p q r s", "c", axis=1), n("Exp", "c", "y"),
    ]  # fmt: skip
    compiled = run(model(nodes, ["y"], (1, 32, 4, 4)), (1, 32, 4, 4))
    assert count(compiled, JoinStep) == 1
    assert not [k for k in kernels(compiled) if "concat" in k or "copy" in k or "split" in k]


def test_a_value_in_two_concats_is_copied_once() -> None:
    nodes = [
        n("Relu", "x", "a"), n("Tanh", "x", "b"), n("Concat", "a b", "c", axis=1), n("Concat", "b a", "d", axis=1),
        n("Exp", "c", "e"), n("Neg", "d", "f"), n("Add", "e f", "y"),
    ]  # fmt: skip
    compiled = run(model(nodes, ["y"], (1, 16, 4, 4)), (1, 16, 4, 4))
    assert count(compiled, JoinStep) >= 1


def test_a_value_twice_in_a_concat() -> None:
    nodes = [n("Relu", "x", "a"), n("Concat", "a a", "c", axis=1), n("Exp", "c", "y")]
    compiled = run(model(nodes, ["y"], (1, 16, 4, 4)), (1, 16, 4, 4))
    assert sum("copy" in k for k in kernels(compiled)) == 1


def test_inputs_and_constants_are_copied_in() -> None:
    consts = {"k": np.arange(256, dtype=np.float32).reshape(1, 16, 4, 4)}
    nodes = [n("Relu", "x", "a"), n("Concat", "x a k", "c", axis=1), n("Exp", "c", "e"), n("Neg", "e", "y")]
    compiled = run(model(nodes, ["y"], (1, 16, 4, 4), consts), (1, 16, 4, 4))
    assert sum("copy" in k for k in kernels(compiled)) == 2


@pytest.mark.parametrize(
    "last", [[n("Identity", "c", "y")], [n("Flatten", "c", "y")], [n("Neg", "a", "z"), n("Concat", "c z", "y", axis=1)]]
)
def test_what_leaves_the_model_has_memory_of_its_own(last: list[Node]) -> None:
    nodes = [n("Relu", "x", "a"), n("Tanh", "x", "b"), n("Concat", "a b", "c", axis=1), *last]
    compiled = run(model(nodes, ["y", "a"], (1, 16, 4, 4)), (1, 16, 4, 4))
    x = np.ones((1, 16, 4, 4), np.float32)
    y, a = compiled.run({"x": x}).values()
    assert not np.shares_memory(y, a)


def test_parts_of_a_split_that_leave() -> None:
    nodes = [n("Relu", "x", "a"), n("Split", "a", "p q", axis=1, num_outputs=2), n("Neg", "q", "y")]
    compiled = run(model(nodes, ["p", "y"], (1, 32, 4, 4)), (1, 32, 4, 4))
    assert count(compiled, ViewStep) == 0


@pytest.mark.parametrize(
    ("shape", "axis", "why"),
    [((2, 16, 4, 4), 1, "batch"), ((1, 3, 5), 1, "alignment"), ((1, 16, 4, 4), 2, "outer dimension")],
)
def test_what_is_no_aligned_range_is_copied(shape: tuple[int, ...], axis: int, why: str) -> None:
    nodes = [n("Relu", "x", "a"), n("Tanh", "x", "b"), n("Concat", "a b", "c", axis=axis), n("Exp", "c", "y")]
    compiled = run(model(nodes, ["y"], shape), shape)
    assert count(compiled, JoinStep) == 0
    assert [k for k in kernels(compiled) if "concat" in k or "copy" in k], why


def test_blocked_channels_are_placed_by_whole_blocks() -> None:
    rng = np.random.default_rng(0)
    consts = {f"w{i}": (rng.standard_normal((c, 16, 1, 1)) / 4).astype(np.float32) for i, c in enumerate((16, 32, 24))}
    consts["v"] = (rng.standard_normal((16, 48, 3, 3)) / 20).astype(np.float32)
    consts["u"] = (rng.standard_normal((16, 40, 3, 3)) / 20).astype(np.float32)
    nodes = [
        n("Conv", "x w0", "a"), n("Conv", "x w1", "b"), n("Conv", "x w2", "c"),
        n("Concat", "a b", "ab", axis=1), n("Conv", "ab v", "d", pads=[1, 1, 1, 1]),
        n("Concat", "d c", "dc", axis=1), n("Conv", "dc u", "e", pads=[1, 1, 1, 1]), n("Relu", "e", "y"),
    ]  # fmt: skip
    compiled = run(model(nodes, ["y"], (1, 16, 6, 6), consts), (1, 16, 6, 6))
    assert count(compiled, JoinStep) >= 1


@given(movements())
@settings(max_examples=25, deadline=None)
def test_any_graph_of_movements(proto: onnx.ModelProto) -> None:
    run(proto, (1, 16, 4, 2))
