"""Keys and values of earlier tokens in the model's memory, against ONNX Runtime that is handed them run by run."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

import graphopt
from graphopt.errors import InputError, UserError
from graphopt.runtime.observe import observed
from tests.support.decoders import HEADS, LAYERS, SIZE, WIDTH, decoder
from tests.support.onnx_graphs import model_of

NAMES = {f"present.{i}.{part}": f"past.{i}.{part}" for i in range(LAYERS) for part in ("key", "value")}


def inputs(model: onnx.ModelProto, batch: int, tokens: int, length: int, seed: int) -> dict[str, Any]:
    """Of a run on so many tokens, after so many."""
    rng = np.random.default_rng(seed)
    shapes = {"x": (batch, tokens, WIDTH), "mask": (1, 1, tokens, length + tokens)}
    given = {i.name for i in model.graph.input}
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items() if n in given}


class Oracle:
    """ONNX Runtime without optimisation, the states handed on by hand."""

    def __init__(self, model: onnx.ModelProto, batch: int) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        self.past = {past: np.zeros((batch, HEADS, 0, SIZE), np.float32) for past in NAMES.values()}

    def run(self, feed: dict[str, Any]) -> Any:
        names = [o.name for o in self.session.get_outputs()]
        found = dict(zip(names, self.session.run(names, {**feed, **self.past}), strict=True))
        self.past = {past: found[present] for present, past in NAMES.items()}
        return found["y"]


def check(session: Any, model: onnx.ModelProto, oracle: Oracle, batch: int, tokens: int, seed: int = 0) -> None:
    feed = inputs(model, batch, tokens, session.length, seed)
    want = oracle.run(feed)
    got = session.run(feed)
    assert list(got) == ["y"]
    np.testing.assert_allclose(got["y"], want, rtol=2e-5, atol=2e-5)


def check_state(session: Any, oracle: Oracle) -> None:
    for present, array in session.state().items():
        np.testing.assert_allclose(array, oracle.past[NAMES[present]], rtol=2e-5, atol=2e-5)


@pytest.fixture(scope="module", params=[(1, False), (2, True)], ids=["one", "batch-masked"])
def given(request: Any) -> tuple[Any, onnx.ModelProto, int]:
    """A compiled decoder of any number of tokens, its model and batch."""
    batch, masked = request.param
    model = decoder(batch, "tokens", masked=masked)
    return graphopt.compile(model, "native", threads=2, state="auto"), model, batch


def test_tokens_follow_one_another(given: Any) -> None:
    """A prompt, then one at a time, then several; more after the states were emptied."""
    compiled, model, batch = given
    session = compiled.session(capacity=40)
    for _ in range(2):
        oracle = Oracle(model, batch)
        for i, tokens in enumerate([7, 1, 1, 1, 4, 1, 20, 1, 4]):
            check(session, model, oracle, batch, tokens, seed=i)
        assert session.length == session.capacity == 40
        check_state(session, oracle)
        session.reset()


def test_full_states_are_refused_and_stay(given: Any) -> None:
    compiled, model, batch = given
    session, oracle = compiled.session(capacity=6), Oracle(model, batch)
    check(session, model, oracle, batch, 4)
    with pytest.raises(InputError, match=r"hold 4 of 6 positions, and 3 more") as error:
        session.run(inputs(model, batch, 3, 4, 1))
    assert error.value.code == "state-full"
    check(session, model, oracle, batch, 2)
    check_state(session, oracle)


def test_wrong_inputs_are_refused_and_nothing_is_appended(given: Any) -> None:
    compiled, model, batch = given
    session, oracle = compiled.session(capacity=16), Oracle(model, batch)
    check(session, model, oracle, batch, 3)
    feed = inputs(model, batch, 2, 3, 1)
    for wrong in (
        {},
        {**feed, "past.0.key": np.zeros((batch, HEADS, 3, SIZE), np.float32)},
        {**feed, "x": feed["x"][:, :, 1:]},
    ):
        with pytest.raises(InputError):
            session.run(wrong)
    if "mask" in feed:  # its length is that of the states and of the tokens
        with pytest.raises(InputError):
            session.run({**feed, "mask": feed["mask"][..., 1:]})
    check(session, model, oracle, batch, 2, seed=1)
    check_state(session, oracle)


def test_states_can_be_given_and_taken(given: Any) -> None:
    """What one session holds, by names of outputs or of inputs, another one goes on with."""
    compiled, model, batch = given
    first, oracle = compiled.session(capacity=8), Oracle(model, batch)
    check(first, model, oracle, batch, 5)
    second = compiled.session(capacity=300)
    second.load(first.state())
    assert second.length == 5
    check(second, model, oracle, batch, 2, seed=1)
    third = compiled.session(capacity=9)
    third.load({NAMES[name]: array for name, array in second.state().items()})
    check(third, model, oracle, batch, 1, seed=2)
    state = third.state()
    with pytest.raises(InputError, match="7 positions don't fit"):
        compiled.session(capacity=6).load(second.state())
    with pytest.raises(InputError):
        third.load({name: array for name, array in state.items() if name != "present.1.key"})
    with pytest.raises(InputError):
        third.load({**state, "present.1.key": state["present.1.key"][:, :, :-1]})
    check_state(third, oracle)


def test_sessions_do_not_know_of_each_other(given: Any) -> None:
    compiled, model, batch = given
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            session, oracle = compiled.session(capacity=64), Oracle(model, batch)
            for i, tokens in enumerate([seed + 1, 1, 1, 2, 1, 9, 1]):
                check(session, model, oracle, batch, tokens, seed=100 * seed + i)
            check_state(session, oracle)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_run_moves_what_is_new_and_nothing_else() -> None:
    """No kernel writes as much as a state: fused attention reads the states where they are."""
    compiled = graphopt.compile(decoder(1, 1), "native", threads=1, state=NAMES)
    assert [spec.row_bytes for spec in compiled.states] == [4 * HEADS * SIZE] * 2 * LAYERS
    growing = set(compiled.program.sizing.states)
    for step in compiled.program.kernels:
        if step.template == "append":
            assert step.outputs[0] in growing
            assert all(b.static_bytes == 4 * HEADS * SIZE for b in step.inputs)
        else:
            assert all(b.static_bytes is not None for b in step.outputs), step.label
    session = compiled.session(capacity=4096)
    session.load({name: np.ones((1, HEADS, 4000, SIZE), np.float32) for name in NAMES})
    session.run({"x": np.ones((1, 1, WIDTH), np.float32)})
    names: list[str] = []

    def note(function: Any, name: str, before: bool, *_: Any) -> int:
        names.append(name)
        return 0

    session._arena.observe(note)
    session.run({"x": np.ones((1, 1, WIDTH), np.float32)})
    assert sum(n.startswith("append") for n in names) == 2 * 2 * LAYERS  # before and after each
    assert sum("alloc_tensor" in n for n in names) <= 4  # the result, and numbers of new extents


def test_an_artefact_has_sessions(given: Any, tmp_path: Path) -> None:
    compiled, model, batch = given
    compiled.save(tmp_path / "a.gopt")
    graphopt.load(tmp_path / "a.gopt").save(tmp_path / "b.gopt")
    loaded = graphopt.load(tmp_path / "b.gopt")
    assert [str(s) for s in loaded.states] == [str(s) for s in compiled.states]
    session, oracle = loaded.session(capacity=10), Oracle(model, batch)
    for i, tokens in enumerate([3, 1, 2]):
        check(session, model, oracle, batch, tokens, seed=i)


def test_all_levels() -> None:
    model = decoder(1, "tokens", layers=1)
    names = {p: q for p, q in NAMES.items() if ".0." in p}
    for level in (0, 3):
        compiled = graphopt.compile(model, "native", threads=1, level=level, state=names)
        session, past = (
            compiled.session(capacity=12),
            {q: np.zeros((1, HEADS, 0, SIZE), np.float32) for q in names.values()},
        )
        reference = onnxruntime.InferenceSession(model.SerializeToString())
        for i, tokens in enumerate([4, 1, 2]):
            feed = inputs(model, 1, tokens, session.length, i)
            outputs = ["y", *names]
            found = dict(zip(outputs, reference.run(outputs, {**feed, **past}), strict=True))
            past = {names[n]: found[n] for n in names}
            np.testing.assert_allclose(session.run(feed)["y"], found["y"], rtol=2e-5, atol=2e-5)


def test_states_of_sixteen_bits() -> None:
    """What is appended is stored in 16 bits, and read back so."""
    model = decoder(1, "tokens", TensorProto.FLOAT16, layers=1)
    compiled = graphopt.compile(model, "native", threads=1, state="auto")
    wide = decoder(1, "tokens", layers=1)
    options = onnxruntime.InferenceSession(wide.SerializeToString())
    session = compiled.session(capacity=8)
    past = {f"past.0.{part}": np.zeros((1, HEADS, 0, SIZE), np.float32) for part in ("key", "value")}
    for i, tokens in enumerate([3, 1]):
        feed = inputs(model, 1, tokens, session.length, i)
        got = session.run({n: a.astype(np.float16) for n, a in feed.items()})["y"]
        found = dict(zip([o.name for o in options.get_outputs()], options.run(None, {**feed, **past}), strict=True))
        past = {f"past.0.{part}": found[f"present.0.{part}"] for part in ("key", "value")}
        assert got.dtype == np.float16
        np.testing.assert_allclose(got.astype(np.float32), found["y"], rtol=2e-2, atol=2e-2)
    for name, array in session.state().items():
        assert array.dtype == np.float16
        np.testing.assert_allclose(
            array.astype(np.float32), past[name.replace("present", "past")], rtol=1e-2, atol=1e-2
        )


def test_running_without_a_session_is_refused(given: Any) -> None:
    compiled, model, batch = given
    with pytest.raises(InputError, match="session"):
        compiled.run(inputs(model, batch, 1, 0, 0))
    for capacity in (0, -1, 2.0, True):
        with pytest.raises(InputError, match="capacity"):
            compiled.session(capacity=capacity)
    with pytest.raises(InputError, match="no memory"):
        compiled.session(capacity=1 << 60)


def test_models_without_states_have_no_sessions() -> None:
    compiled = graphopt.compile(model_of({"x": "float[n]"}, "y = Relu(x)"), "native", threads=1)
    with pytest.raises(InputError, match="keeps nothing"):
        compiled.session(capacity=8)


_JOIN = {"x": "float[1,2,1,4]", "p": "float[1,2,n,4]"}


@pytest.mark.parametrize(
    ("declared", "body", "outputs", "state", "message"),
    [
        (_JOIN, "y = Concat <axis = 2> (p, x)", "y", {"z": "p"}, "output 'z', which the model doesn't have"),
        (_JOIN, "y = Concat <axis = 2> (p, x)", "y", {"y": "q"}, "input 'q', which the model doesn't have"),
        (_JOIN, "y = Relu(x)", "y", {"y": "p"}, "not the result of a Concat"),
        (_JOIN, "y = Concat <axis = 2> (x, p)", "y", {"y": "p"}, "does|not to|doesn't grow"),
        (_JOIN, "y = Concat <axis = 2> (p, x)\nz = Relu(p)", "y z", {"y": "p"}, "also read by other nodes"),
        ({**_JOIN, "p": "float[1,b,n,4]", "x": "float[1,b,1,4]"}, "y = Concat <axis = 2> (p, x)", "y", {"y": "p"}, "symbolic"),
        ({**_JOIN, "p": "float[1,2,5,4]"}, "y = Concat <axis = 2> (p, x)", "y", {"y": "p"}, "doesn't grow"),
        (
            {**_JOIN, "q": "float[1,2,m,4]"}, "y = Concat <axis = 2> (p, x)\nz = Concat <axis = 2> (q, x)", "y z",
            {"y": "p", "z": "q"}, "more than one length",
        ),
        (_JOIN, "y = Relu(x)", "y", "auto", "no output of the model"),
    ],
)  # fmt: skip
def test_what_can_not_be_kept_is_refused(declared: Any, body: str, outputs: str, state: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        graphopt.compile(model_of(declared, body, outputs), "native", threads=1, state=state)


def test_targets_without_memory_of_the_models_own_are_refused() -> None:
    with pytest.raises(UserError, match="keep no state"):
        graphopt.compile(decoder(1, 1), "cuda:sm_80", state="auto")


def test_observing_a_model_leaves_its_sessions_alone(given: Any) -> None:
    compiled, model, batch = given
    session, oracle = compiled.session(capacity=8), Oracle(model, batch)
    with observed(compiled, lambda *_: 0):
        check(session, model, oracle, batch, 2)
