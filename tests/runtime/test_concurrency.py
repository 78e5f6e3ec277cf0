"""Several threads on one model: results, errors, arenas, and what they leave to others."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.backends.base.host import default_threads
from graphopt.backends.build.call_clock import CallClock
from graphopt.backends.targets.grammar import parse_target
from graphopt.errors import DeviceError, InputError
from graphopt.runtime import executor as executor_module
from graphopt.runtime.executor import ARENA_BYTES, MOST_ARENAS, Executor, _most_arenas
from graphopt.runtime.observe import observed
from tests.hostile.cases import INT64, model, node
from tests.support.onnx_graphs import model_of

THREADS = 8
IF = """<ir_version: 9, opset_import: ["": 18]>
g (bool c, float[N,16] x) => (float[M,16] z) {
  s = Relu(x)
  y = If(c) <
    then_branch = t () => (float[P,16] a) { a0 = Mul(s, x)  a = Softmax(a0) },
    else_branch = e () => (float[Q,16] b) { b = Concat<axis = 0>(s, x) }>
  z = Add(y, y)
}"""


def together(work: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """What ``work(0)``, ``work(1)``, ... return, started at once in threads of their own."""
    start = threading.Barrier(count)

    def begin(i: int) -> Any:
        start.wait()
        return work(i)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def agree(compiled: Any, feeds: Sequence[dict[str, np.ndarray]], times: int = 30) -> None:
    """Each thread runs its own feed again and again, and gets what a run alone gives, bit by bit."""
    want = [compiled.run(feed) for feed in feeds]

    def work(i: int) -> int:
        wrong = 0
        for _ in range(times):
            got = compiled.run(feeds[i])
            wrong += not all(np.array_equal(got[name], want[i][name]) for name in want[i])
        return wrong

    assert not any(together(work, len(feeds)))
    assert compiled._executor.arenas <= (len(feeds) if compiled.signature.is_fixed else max(2, default_threads()))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def products() -> Any:
    """A chain long enough for threads to meet in it, of any number of rows."""
    body = "a = MatMul(x, w)\nb = Tanh(a)\nc = MatMul(b, w)\ny = Softmax(c)\nn = ReduceSum(b)"
    constants = {"w": normal(0, 96, 96) / 10}
    return graphopt.compile(model_of({"x": "float[rows,96]"}, body, "y n", **constants), "native", threads=1)


@pytest.mark.parametrize("threads", [1, 2])
def test_different_values_in_every_thread(threads: int) -> None:
    constants = {"w": normal(1, 64, 8, 3, 3)}
    body = "a = Conv<pads=[1,1,1,1]>(x, w)\nb = Relu(a)\nc = GlobalAveragePool(b)\ny = Flatten(c)"
    made = model_of({"x": "float[1,8,24,24]"}, body, "y b", **constants)
    compiled = graphopt.compile(made, "native", threads=threads)
    agree(compiled, [{"x": normal(i, 1, 8, 24, 24)} for i in range(THREADS)])


def test_different_shapes_in_every_thread(products: Any) -> None:
    agree(products, [{"x": normal(i, rows, 96)} for i, rows in enumerate([1, 2, 3, 7, 40, 41, 0, 200])])


def test_branches_and_results_of_unknown_size() -> None:
    compiled = graphopt.compile(onnx.parser.parse_model(IF), "native", threads=1)
    agree(compiled, [{"c": np.array(i % 3 == 0), "x": normal(i, 1 + i % 5, 16)} for i in range(THREADS)])
    body = "i = NonZero(x)\nt = Transpose<perm=[1,0]>(i)\ny = GatherND(x, t)"
    compiled = graphopt.compile(model_of({"x": "float[rows,32]"}, body, "i:int64 y"), "native", threads=1)
    agree(compiled, [{"x": np.maximum(normal(i, 5 + i, 32), 0)} for i in range(THREADS)])


def test_models_in_threads_of_their_own() -> None:
    models = []
    for size in (3, 17, 64, 130):
        weight = normal(size, size, 9)
        made = model_of({"x": f"float[20,{size}]"}, "a = MatMul(x, w)\ny = Sigmoid(a)", w=weight)
        models.append((graphopt.compile(made, "native", threads=1), {"x": normal(size, 20, size)}))
    want = [compiled.run(feed)["y"] for compiled, feed in models]

    def work(i: int) -> bool:
        compiled, feed = models[i]
        return all(np.array_equal(compiled.run(feed)["y"], want[i]) for _ in range(100))

    assert together(work, len(models)) == [True] * len(models)


def test_first_runs_load_a_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Executor] = []

    class Counted(Executor):
        def __init__(self, *args: Any, **options: Any) -> None:
            made.append(self)
            super().__init__(*args, **options)

    monkeypatch.setattr("graphopt.runtime.model.Executor", Counted)
    compiled = graphopt.compile(model_of({"x": "float[4]"}, "y = Exp(x)"), "native", threads=1)
    results = together(lambda i: compiled.run({"x": np.full(4, i, np.float32)})["y"])
    for i, y in enumerate(results):
        np.testing.assert_allclose(y, np.exp(np.full(4, i, np.float64)), rtol=1e-5)
    assert len(made) == 1


def test_errors_reach_the_thread_that_caused_them() -> None:
    """Refused by compiled code, which knows no Python thread; what fits runs on beside it."""
    ranges = model([node("Range", "a b d", "y")], dict.fromkeys("abd", (INT64, ())), {"y": (INT64, 1)})
    compiled = graphopt.compile(ranges, "native", threads=1)

    def work(i: int) -> int:
        right = 0
        for n in range(30):
            feed = {k: np.array(v, np.int64) for k, v in zip("abd", (0, 10 + i, 1))}
            if i % 2:
                feed["b"] = np.array(2**60 + 64 * i + n, np.int64)
                with pytest.raises(InputError) as caught:
                    compiled.run(feed)
                right += str(2**60 + 64 * i + n) in str(caught.value)
            else:
                right += compiled.run(feed)["y"].tolist() == list(range(10 + i))
        return right

    assert together(work) == [30] * THREADS
    executor = compiled._executor
    assert executor is not None
    assert len(executor._idle) == executor.arenas  # failed runs gave theirs back


@pytest.mark.parametrize(
    ("nbytes", "cpus", "most"),
    [
        (0, 2, MOST_ARENAS),
        (1000, 2, MOST_ARENAS),
        (ARENA_BYTES // 10, 2, 10),
        (ARENA_BYTES, 1, 2),
        (ARENA_BYTES, 16, 16),
    ],
)
def test_small_arenas_may_be_many(monkeypatch: pytest.MonkeyPatch, nbytes: int, cpus: int, most: int) -> None:
    monkeypatch.setattr(executor_module, "default_threads", lambda: cpus)
    assert _most_arenas(nbytes) == most


def test_arenas_are_made_when_needed_reused_and_bounded(products: Any) -> None:
    """Runs that wait for each other, inside of an observer, are in progress at the same time."""
    loaded = Executor(products.built.load(), products.constants, arenas=2)
    x = normal(0, 5, 96)
    for _ in range(3):
        want = loaded([x])
    assert loaded.arenas == 1
    inside = threading.Barrier(2, timeout=60)
    met = set()

    def meet(function: Any, name: str, before: bool, *_: Any) -> int:
        if before and threading.get_ident() not in met:
            inside.wait()
            met.add(threading.get_ident())
        return 0

    loaded.observe(meet)
    results = together(lambda _: loaded([x]), 2)
    loaded.observe(None)
    assert loaded.arenas == 2
    results += together(lambda _: loaded([x]))
    assert loaded.arenas == 2
    for y, n in results:
        np.testing.assert_array_equal(y, want[0])
        np.testing.assert_array_equal(n, want[1])
    last = loaded._idle[-1]
    loaded([x])
    assert loaded._idle[-1] is last


def test_callers_take_turns(products: Any) -> None:
    """A thread that runs a model again and again doesn't keep others waiting."""
    loaded = Executor(products.built.load(), products.constants, arenas=1)
    x = normal(0, 5, 96)
    loaded([x])
    inside, others_wait = threading.Event(), threading.Event()
    order: list[str] = []

    def note(function: Any, name: str, before: bool, *_: Any) -> int:
        who = threading.current_thread().name
        if order[-1:] != [who]:
            order.append(who)
            if len(order) == 1:
                inside.set()
                assert others_wait.wait(60)
        return 0

    def run(times: int) -> None:
        for _ in range(times):
            loaded([x])

    loaded.observe(note)
    greedy = threading.Thread(target=run, args=(5,), name="greedy")
    greedy.start()
    assert inside.wait(60)
    others = []
    for i in range(3):
        others.append(threading.Thread(target=run, args=(1,), name=str(i)))
        others[-1].start()
        while len(loaded._waiting) <= i:
            time.sleep(0.001)
    others_wait.set()
    for thread in (greedy, *others):
        thread.join()
    assert order == ["greedy", "0", "1", "2", "greedy"]


def test_memory_for_one_more_arena_need_not_be_there(products: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers wait for the arenas that there are then. Where there is none at all, they hear of it."""

    def refuse(*_: Any) -> Any:
        raise MemoryError

    x = normal(0, 5, 96)
    loaded = Executor(products.built.load(), products.constants, arenas=4)
    want = loaded([x])[0]
    monkeypatch.setattr(executor_module, "Arena", refuse)
    for y, _ in together(lambda _: loaded([x])):
        np.testing.assert_array_equal(y, want)
    assert loaded.arenas == 1
    with pytest.raises(DeviceError, match="not enough memory"):
        Executor(products.built.load(), products.constants)


def test_an_arena_that_was_lost_is_replaced(products: Any) -> None:
    """As an interrupt between two instructions may lose one."""
    loaded = Executor(products.built.load(), products.constants, arenas=1)
    x = normal(0, 5, 96)
    want = loaded([x])[0]
    loaded._idle.pop()
    gc.collect()
    np.testing.assert_array_equal(loaded([x])[0], want)
    assert loaded.arenas == 1


@pytest.mark.parametrize("served", [False, True])
def test_an_interrupted_caller_loses_its_turn_only(
    products: Any, monkeypatch: pytest.MonkeyPatch, served: bool
) -> None:
    """Interrupted while it waits, or when its turn has just come."""
    loaded = Executor(products.built.load(), products.constants, arenas=1)
    x = normal(0, 5, 96)
    want = loaded([x])[0]
    busy = [loaded._idle.pop()]

    class Turn(executor_module._Turn):
        def __init__(self) -> None:
            super().__init__()
            self.came.release()
            self.came = self  # type: ignore[assignment]

        def acquire(self) -> None:
            if served:
                loaded._idle.append(busy.pop())
                loaded._serve()
            raise KeyboardInterrupt

        def release(self) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(executor_module, "_Turn", Turn)
        with pytest.raises(KeyboardInterrupt):
            loaded([x])
    loaded._idle.extend(busy)
    assert not loaded._waiting
    assert loaded.arenas == 1
    np.testing.assert_array_equal(loaded([x])[0], want)


def test_observers_see_runs_of_every_thread(products: Any) -> None:
    """One kernel's calls are counted: an arena's first run makes others too, and who gets a new arena depends on the system."""
    feed = {"x": normal(0, 5, 96)}
    seen: list[int] = []

    def see(_function: Any, name: str, is_before: bool, *_: Any) -> int:
        if is_before and name == "softmax":
            seen.append(threading.get_ident())
        return 0

    together(lambda _: products.run(feed))
    with observed(products, see):
        products.run(feed)
        assert len(seen) == 1
        together(lambda _: products.run(feed))
        products._executor._idle.append(products._executor._made())  # which has run nothing yet
        together(lambda _: products.run(feed))
    assert len(seen) == 2 * THREADS + 1
    together(lambda _: products.run(feed))
    assert len(seen) == 2 * THREADS + 1


def test_other_threads_go_on_while_a_model_runs(products: Any) -> None:
    """This thread reads a clock that compiled code of the other one advances: in the middle of a run, only if both go on."""
    feed = {"x": normal(0, 4000, 96)}
    calls: list[str] = []
    with observed(products, lambda function, name, *_: calls.append(name) or 0):
        products.run(feed)
    clock = CallClock(len(calls), parse_target("native", 1))
    found: set[int] = set()
    with observed(products, clock.function):
        for _ in range(100):  # once is enough, unless the system runs this thread only before and after
            clock.clear()
            thread = threading.Thread(target=products.run, args=(feed,))
            thread.start()
            while thread.is_alive():
                found.add(int(clock._words[0, 0]))
            thread.join()
            if found - {0, len(calls)}:
                return
    raise AssertionError(f"no progress while the model ran: {found}")


_FORK = """
import os, signal, threading
import numpy as np
import onnx.parser
import graphopt
from graphopt.runtime.observe import observed

model = onnx.parser.parse_model('<ir_version: 9, opset_import: ["": 18]> g (float[4] x) => (float[4] y) { y = Neg(x) }')
compiled = graphopt.compile(model, "native", threads=1, cache=False, jobs=1)
x = np.ones(4, np.float32)
compiled.run({"x": x})
compiled._executor._most = 2
inside, ended = threading.Barrier(3), threading.Event()

def hold(*_):
    if threading.current_thread() is not threading.main_thread() and not ended.is_set():
        inside.wait()
        ended.wait()
    return 0

with observed(compiled, hold):
    threads = [threading.Thread(target=compiled.run, args=({"x": x},)) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait()  # both arenas are in use
    child = os.fork()
    if child == 0:
        signal.alarm(120)  # ends a child that waits for threads which only its parent has
        for _ in range(3):
            assert compiled.run({"x": x})["y"].tolist() == [-1] * 4
        os._exit(0)
    ended.set()
    for thread in threads:
        thread.join()
assert os.waitpid(child, 0)[1] == 0, "the child was ended"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_during_runs_has_arenas_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", _FORK], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
