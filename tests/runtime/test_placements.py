"""Models with symbolic inputs run in memory that grows with the largest inputs: whatever came before, results are the same."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.errors import InputError
from graphopt.runtime.arena import Arena
from graphopt.runtime.artifact import FORMAT_VERSION, read_artifact
from graphopt.runtime.observe import observed
from graphopt.runtime.placements import _KEPT
from tests.support.onnx_graphs import model_of

_W = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32) / 4
_BODY = """
h = MatMul(x, w)
r = Relu(h)
t = Transpose <perm = [0, 2, 1]> (r)
scores = MatMul(r, t)
p = Softmax <axis = -1> (scores)
c = MatMul(p, x)
y = Add(c, m)
"""


def oracle(feed: dict[str, Any]) -> Any:
    x, m = (feed[n].astype(np.float64) for n in "xm")
    r = np.maximum(x @ _W.astype(np.float64), 0)
    scores = r @ r.transpose(0, 2, 1)
    p = np.exp(scores - scores.max(-1, keepdims=True, initial=-1e30))
    return (p / p.sum(-1, keepdims=True)) @ x + m


def feed_of(batch: int, length: int, mask: int | None = None) -> dict[str, Any]:
    rng = np.random.default_rng(batch * 1000 + length)
    shape = (batch, length, 16), (batch, length if mask is None else mask, 16)
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in zip("xm", shape)}


@pytest.fixture(scope="module")
def model() -> Any:
    onnx_model = model_of({"x": "float[B,L,16]", "m": "float[B,K,16]"}, _BODY, w=_W)
    return graphopt.compile(onnx_model, "native", threads=2)


def check(model: Any, batch: int, length: int, mask: int | None = None) -> None:
    feed = feed_of(batch, length, mask)
    np.testing.assert_allclose(model.run(feed)["y"], oracle(feed), rtol=2e-5, atol=2e-5)


def arenas(model: Any) -> Iterator[Arena]:
    yield from model._executor._idle


def test_sizes_go_up_and_down(model: Any) -> None:
    for batch, length in [(1, 1), (3, 40), (1, 1), (2, 7), (3, 40), (0, 5), (2, 0), (2, 90), (3, 40), (1, 2)]:
        check(model, batch, length)
        check(model, batch, length)


def test_a_dimension_that_may_broadcast(model: Any) -> None:
    """Whether the third extent is 1 or that of the second one is found out with the others."""
    for length, mask in [(5, 1), (5, 5), (1, 1), (1, 6), (9, 1)]:
        check(model, 2, length, mask)


def test_extents_that_do_not_fit_are_refused_and_nothing_stays_of_them(model: Any) -> None:
    check(model, 2, 5)
    for _ in range(2):
        with pytest.raises(InputError):
            model.run(feed_of(2, 5, 4))
        check(model, 2, 5)


def test_more_extents_than_are_kept(model: Any) -> None:
    for length in [*range(1, 2 * _KEPT), *range(1, 2 * _KEPT), 1, 1]:
        check(model, 1, length)


def test_memory_is_that_of_the_largest_inputs() -> None:
    """1,000 random sizes, after which nothing has grown: neither the memory nor what is remembered of sizes."""
    model = graphopt.compile(model_of({"x": "float[B,L,16]", "m": "float[B,L,16]"}, _BODY, w=_W), "native", threads=1)
    rng = random.Random(1)
    check(model, 4, 120)
    sizes = [[a.nbytes for a in arenas(model)]]
    for i in range(1000):
        feed = feed_of(rng.randint(1, 4), rng.randint(1, 120))
        model.run(feed)
        if i % 200 == 0:
            np.testing.assert_allclose(model.run(feed)["y"], oracle(feed), rtol=2e-5, atol=2e-5)
        sizes.append([a.nbytes for a in arenas(model)])
    assert sizes == [sizes[0]] * len(sizes)
    (arena,) = arenas(model)
    assert arena._placements is not None
    assert len(arena._placements._known) == _KEPT
    matrices = 2 * 4 * (4 * 120 * 120)  # scores and probabilities
    assert matrices <= arena.nbytes <= 1.2 * matrices


def test_a_run_allocates_nothing_but_results(model: Any) -> None:
    calls: list[str] = []

    def note(function: Any, name: str, before: bool, *_: Any) -> int:
        calls.append(name)
        return 0

    feed = feed_of(2, 33)
    model.run(feed)
    with observed(model, note):
        model.run(feed)
    assert sum("alloc_tensor" in name for name in calls) == 2  # before and after the one
    assert not [name for name in calls if "dims" in name or "prim_value" in name]


def test_values_of_other_runs_are_not_read(model: Any) -> None:
    """What a kernel reads was written in the same run: NaN that lies there before changes nothing."""
    for batch, length in [(2, 21), (1, 3), (3, 50)]:
        check(model, batch, length)
        for arena in arenas(model):
            assert arena._placements is not None
            arena._placements._memory[...] = 255
        check(model, batch, length)


def test_threads_with_sizes_of_their_own(model: Any) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(60):
                check(model, rng.randint(1, 3), rng.choice([1, 2, 17, 64, 100]))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_an_artefact_does_the_same(model: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "model.gopt")
    loaded = graphopt.load(tmp_path / "model.gopt")
    loaded.save(tmp_path / "again.gopt")
    formats = [read_artifact(tmp_path / name).manifest["format"] for name in ("model.gopt", "again.gopt")]
    assert formats == [FORMAT_VERSION] * 2  # an older graphopt would call the code otherwise
    for batch, length in [(2, 9), (1, 70), (2, 9)]:
        check(loaded, batch, length)


def _with_branches() -> Any:
    """``x`` cut short in the branch that is taken for positive sums only: shorter inputs would have a negative extent there."""
    from onnx import TensorProto, helper, numpy_helper

    def info(name: str, *shape: Any) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))

    def ints(name: str, *values: int) -> Any:
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(values, np.int64)))

    def branch(name: str, *nodes: Any) -> Any:
        return helper.make_graph(list(nodes), name, [], [info(f"{name}_y", None, 8)])

    cut = branch(
        "cut", ints("ten", 10), ints("shape_a", 0), helper.make_node("Shape", ["x"], ["all"]), ints("at", 0),
        helper.make_node("Gather", ["all", "at"], ["rows"]), helper.make_node("Sub", ["rows", "ten"], ["left"]),
        ints("eight", 8), helper.make_node("Concat", ["left", "eight"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Exp", ["zeros"], ["ones"]), helper.make_node("Add", ["ones", "last"], ["cut_y"]),
    )  # fmt: skip
    whole = branch(
        "whole", helper.make_node("Tanh", ["x"], ["th"]), helper.make_node("Exp", ["th"], ["e"]),
        helper.make_node("Sub", ["e", "last"], ["whole_y"]),
    )  # fmt: skip
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0), ints("axes", 0),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1), helper.make_node("Exp", ["mean"], ["last"]),
        helper.make_node("Constant", [], ["zero"], value_float=0.0), helper.make_node("Greater", ["s", "zero"], ["above"]),
        helper.make_node("Sigmoid", ["x"], ["g"]), helper.make_node("Neg", ["g"], ["ng"]),
        helper.make_node("If", ["above"], ["y"], then_branch=cut, else_branch=whole),
        helper.make_node("Exp", ["ng"], ["z"]),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "g", [info("x", "rows", 8)], [info("y", None, 8), info("z", "rows", 8)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_branches_check_and_allocate_for_themselves() -> None:
    model = graphopt.compile(_with_branches(), "native", threads=1)
    rng = np.random.default_rng(0)
    expected: dict[bool, Callable[[Any, Any], Any]] = {
        True: lambda x, last: np.ones((len(x) - 10, 8)) + last,
        False: lambda x, last: np.exp(np.tanh(x)) - last,
    }
    for rows, positive in [(20, True), (3, False), (40, True), (25, False), (12, True), (40, False)]:
        x = (np.abs(rng.standard_normal((rows, 8))) * (1 if positive else -1)).astype(np.float32)
        got = model.run({"x": x})
        wide = x.astype(np.float64)
        last = np.exp(wide.mean(0, keepdims=True))
        np.testing.assert_allclose(got["y"], expected[positive](wide, last), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got["z"], np.exp(-1 / (1 + np.exp(-wide))), rtol=1e-5)
    with pytest.raises(InputError):
        model.run({"x": np.ones((3, 8), np.float32)})
