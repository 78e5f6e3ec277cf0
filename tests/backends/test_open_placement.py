"""Concat, Split and Slice of open extents: placed where a part is a contiguous range, copied elsewhere, right for all extents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.backends.program.program import JoinStep, KernelStep, Program
from graphopt.runtime.arena import Arena
from graphopt.runtime.model import CompiledModel
from tests.support.movements import Node, model, movements, n

OPEN = ("n", 16, "h", "w")
SIZES = [(1, 16, 4, 4), (3, 16, 4, 4), (1, 16, 3, 5), (2, 16, 1, 1), (1, 16, 1, 1), (1, 16, 9, 8), (1, 16, 4, 4)]


def compiled(proto: onnx.ModelProto) -> CompiledModel:
    return graphopt.compile(proto, "native", threads=2)


def arenas(done: CompiledModel) -> list[Arena]:
    executor: Any = done._executor
    return [] if executor is None else list(executor._idle)


def poison(done: CompiledModel) -> None:
    """NaN in all memory that is there, so that nothing reads what another run has left."""
    for arena in arenas(done):
        if arena._placements is not None:
            arena._placements._memory[...] = 255


def check(done: CompiledModel, proto: onnx.ModelProto, sizes: Sequence[tuple[int, ...]] = SIZES) -> None:
    """Run on inputs of all sizes, each twice, and compare with ONNX's reference."""
    reference = ReferenceEvaluator(proto)
    for seed, shape in enumerate(sizes):
        x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        want = reference.run(None, {"x": x})
        for _ in range(2):
            poison(done)
            for got, expected in zip(done.run({"x": x}).values(), want):
                np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5, err_msg=str(shape))


def program(done: CompiledModel) -> Program:
    assert done.program is not None
    return done.program


def kernels(done: CompiledModel, *names: str) -> list[KernelStep]:
    return [s for s in program(done).kernels if any(name in s.function for name in names)]


def flags(done: CompiledModel) -> set[str | None]:
    sizing = program(done).sizing
    assert sizing is not None
    return {b.lodging.flag for b in sizing.lodgers if b.lodging is not None}


def two_parts(axis: int = 1) -> list[Node]:
    return [n("Relu", "x", "a"), n("Tanh", "x", "b"), n("Concat", "a b", "c", axis=axis), n("Exp", "c", "y")]


def test_one_image_of_open_size_is_never_copied() -> None:
    proto = model(two_parts(), ["y"], (1, 16, "h", "w"))
    done = compiled(proto)
    assert not kernels(done, "concat", "copy")
    assert flags(done) == {None}
    assert sum(isinstance(s, JoinStep) for s in program(done).steps) == 1
    check(done, proto, [s for s in SIZES if s[0] == 1])


def test_several_images_are_copied_and_one_is_not() -> None:
    """The copy is compiled, and has nothing to do for one image: what it would write is there."""
    proto = model(two_parts(), ["y"], OPEN)
    done = compiled(proto)
    (copy,) = kernels(done, "concat", "copy")
    (flag,) = flags(done)
    assert copy.symbols[-1] == flag
    check(done, proto)
    memory = []
    for batch in (1, 2):
        fresh = compiled(proto)
        fresh.run({"x": np.zeros((batch, 16, 32, 32), np.float32)})
        memory.append(sum(a.nbytes for a in arenas(fresh)))
    # the whole, and a line each of memory that isn't used; both parts and the whole
    assert memory == [2 * 16 * 4096 + 2 * 64, 2 * (4 * 16 * 4096)]


def test_parts_that_begin_within_a_cache_line_are_copied() -> None:
    """Three channels of 4 x 4 are three lines of 64 bytes, of 3 x 5 they are none."""
    consts = {"zero": np.array([0]), "three": np.array([3]), "one": np.array([1])}
    nodes = [n("Slice", "x zero three one", "s"), n("Relu", "s", "a"), n("Tanh", "x", "b")]
    nodes += [n("Concat", "a b", "c", axis=1), n("Exp", "c", "y")]
    for shape in (OPEN, (1, 16, "h", "w")):
        proto = model(nodes, ["y"], shape, consts)
        done = compiled(proto)
        assert len(flags(done)) == 1
        assert None not in flags(done)
        check(done, proto, [s for s in SIZES if s[0] == 1 or shape[0] != 1])


def test_a_growing_concat_lies_in_the_last_one() -> None:
    nodes = [n("Relu", "x", "a0")]
    for i in range(4):
        nodes += [
            n("Tanh", f"a{i}", f"t{i}"),
            n("Slice", f"t{i} zero sixteen one", f"f{i}"),
            n("Neg", f"f{i}", f"g{i}"),
        ]
        nodes += [n("Concat", f"a{i} g{i}", f"a{i + 1}", axis=1)]
    nodes += [n("Exp", "a4", "y")]
    proto = model(nodes, ["y"], OPEN, {"zero": np.array([0]), "sixteen": np.array([16]), "one": np.array([1])})
    done = compiled(proto)
    assert len(flags(done)) == 1
    copies = kernels(done, "concat", "copy", "slice")
    assert copies
    assert all(step.symbols[-1] in flags(done) for step in copies)
    check(done, proto)


def test_split_branches_and_joined_again() -> None:
    nodes = [
        n("Relu", "x", "a"), n("Split", "a", "p q", axis=1, num_outputs=2), n("Tanh", "q", "r"), n("Sin", "r", "s"),
        n("Concat", "p q r s", "c", axis=1), n("Exp", "c", "y"),
    ]  # fmt: skip
    for shape in (OPEN, (1, 16, "h", "w")):
        proto = model(nodes, ["y"], shape)
        done = compiled(proto)
        copies = kernels(done, "concat", "copy", "split")
        assert all(step.symbols[-1] in flags(done) for step in copies)
        assert len(program(done).sizing.lodgers) >= 4  # type: ignore[union-attr]
        check(done, proto, [s for s in SIZES if s[0] == 1 or shape[0] != 1])


@pytest.mark.parametrize(
    "nodes",
    [
        [n("Relu", "x", "a"), n("Concat", "a a", "c", axis=1), n("Exp", "c", "y")],
        [n("Relu", "x", "a"), n("Concat", "x a x", "c", axis=1), n("Exp", "c", "e"), n("Neg", "e", "y")],
        [
            n("Relu", "x", "a"), n("Tanh", "x", "b"), n("Concat", "a b", "c", axis=1), n("Concat", "b a", "d", axis=1),
            n("Exp", "c", "e"), n("Neg", "d", "f"), n("Add", "e f", "y"),
        ],
    ],
    ids=["twice", "inputs", "two wholes"],
)  # fmt: skip
def test_what_can_not_lie_in_a_whole_is_copied_into_it(nodes: list[Node]) -> None:
    for shape in (OPEN, (1, 16, "h", "w")):
        proto = model(nodes, ["y"], shape)
        done = compiled(proto)
        assert flags(done)
        check(done, proto, [s for s in SIZES if s[0] == 1 or shape[0] != 1])


@pytest.mark.parametrize(
    "last", [[n("Identity", "c", "y")], [n("Flatten", "c", "y")], [n("Neg", "a", "z"), n("Concat", "c z", "y", axis=1)]]
)
def test_what_leaves_the_model_has_memory_of_its_own(last: list[Node]) -> None:
    nodes = [n("Relu", "x", "a"), n("Tanh", "x", "b"), n("Concat", "a b", "c", axis=1), *last]
    proto = model(nodes, ["y", "a"], OPEN)
    done = compiled(proto)
    check(done, proto)
    y, a = done.run({"x": np.ones((1, 16, 4, 4), np.float32)}).values()
    assert not np.shares_memory(y, a)


@pytest.mark.parametrize(("shape", "axis"), [(OPEN, 2), ((2, 16, "h", "w"), 1), (("n", 16, "h", "w"), 3)])
def test_what_is_no_range_for_any_extents_is_copied(shape: tuple[int | str, ...], axis: int) -> None:
    proto = model(two_parts(axis), ["y"], shape)
    done = compiled(proto)
    assert not flags(done)
    check(done, proto, [s for s in SIZES if s[0] == 2 or shape[0] != 2])


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
    proto = model(nodes, ["y"], OPEN, consts)
    done = compiled(proto)
    assert flags(done)
    check(done, proto)


def test_an_artefact_does_the_same(tmp_path: Path) -> None:
    proto = model(two_parts(), ["y"], OPEN)
    compiled(proto).save(tmp_path / "model.gopt")
    check(graphopt.load(tmp_path / "model.gopt"), proto)


@pytest.mark.parametrize("shape", [OPEN, (1, 16, "h", "w"), ("n", 16, 4, "w"), ("n", 16, 4, 4)])
@given(data=st.data())
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@pytest.mark.few(2)
def test_any_graph_of_movements(shape: tuple[int | str, ...], data: st.DataObject) -> None:
    proto = data.draw(movements(shape))
    sizes = [s for s in SIZES if all(isinstance(d, str) or d == s[i] for i, d in enumerate(shape))]
    check(compiled(proto), proto, sizes)
