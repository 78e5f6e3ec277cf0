"""Models on two threads in processes that fork, end, and start threads: nothing hangs or stays, results are the same bits.

Each test runs a program in a process of its own, which is ended with all of its children where it takes too long.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.driver.reference import make_reference
from tests.support.onnx_graphs import model_of, rand

LIMIT_S = 120
"""What a process may take that should need a second or two: enough for a loaded machine, and a hang never ends."""
LEFT_S = 20
"""Threads of a pool that has nothing to do may stay for some seconds; beyond that they are there for good."""

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
PROC = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")

_HEAD = f"""
import gc, os, sys, threading, time
import numpy as np
import graphopt

path, image, expected = sys.argv[1], np.load(sys.argv[2]), np.load(sys.argv[3])

def right(model):
    return model.run({{"image": image}})["y"].tobytes() == expected.tobytes()

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))

def no_more_threads_than(count):
    end = time.monotonic() + {LEFT_S}
    while status("Threads") > count and time.monotonic() < end:
        time.sleep(0.05)
    assert status("Threads") <= count, (status("Threads"), count)

def in_child(work):
    "Start a child that ends with 0 if work() is true, and return its number."
    child = os.fork()
    if child == 0:
        try:
            code = 0 if work() else 3
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            code = 4
        os._exit(code)
    return child

def done(children):
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not any(codes), codes
"""

Program = Callable[[str], None]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """An artefact of two threads, its input, and the output that it gives in this process."""
    folder = tmp_path_factory.mktemp("threads")
    body = """
        a = Conv<pads = [1, 1, 1, 1]>(image, w1)
        b = Relu(a)
        c = Conv<pads = [1, 1, 1, 1]>(b, w2)
        s = Softmax<axis = 1>(c)
        y = Mul(s, b)
    """
    weights = rand(32, 32, 3, 3) * np.float32(0.05)
    source = folder / "net.onnx"
    proto = model_of({"image": "float[1,32,28,28]"}, body, "y", w1=weights, w2=weights)
    onnx.save_model(proto, source)
    image = rand(1, 32, 28, 28)
    model = graphopt.compile(source, "native", threads=2)
    found = model.run({"image": image})["y"]
    np.testing.assert_allclose(found, make_reference(source)({"image": image})["y"], rtol=1e-3, atol=1e-5)
    artefact, inputs, expected = folder / "net.gopt", folder / "image.npy", folder / "expected.npy"
    model.save(artefact)
    np.save(inputs, image)
    np.save(expected, found)
    return artefact, inputs, expected


@pytest.fixture
def program(files: tuple[Path, Path, Path], tmp_path: Path) -> Program:
    """Runs a body after ``_HEAD``; it must end well, say nothing, and leave no process that lives."""
    script = tmp_path / "program.py"

    def run(body: str) -> None:
        script.write_text(_HEAD + body)
        # Python 3.12 warns of every fork of a process with threads, which is what these are about.
        command = [sys.executable, "-W", "ignore::DeprecationWarning", str(script), *map(str, files)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        try:
            said, _ = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            pytest.fail(f"it hangs; it said {said!r}")
        finally:
            process.kill()
            process.wait()
        assert (process.returncode, said) == (0, "")

    return run


@PROC
@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="one core needs no second thread"
)
def test_a_run_uses_a_second_thread(program: Program) -> None:
    """Without one the tests below would show nothing."""
    program("""
model = graphopt.load(path)
before = status("Threads")
assert right(model)
assert status("Threads") > before
""")


@FORKS
def test_children_run_the_model_of_their_parent(program: Program) -> None:
    """A child runs what the parent loaded and ran, and loads it anew; so does a child of the child; the parent goes on."""
    program("""
model = graphopt.load(path)
assert right(model)

def child():
    good = right(model) and right(graphopt.load(path)) and right(model)
    done([in_child(lambda: right(model) and right(graphopt.load(path)))])
    return good and right(model)

done([in_child(child)])
assert right(model)
""")


@FORKS
@pytest.mark.parametrize("warm", [True, False], ids=["ran", "loaded"])
def test_workers_of_a_server(program: Program, warm: bool) -> None:
    """Four workers forked by a parent that has loaded the model, and has run it or not; all run at once."""
    program(f"""
model = graphopt.load(path)
assert not {warm} or right(model)
children = [in_child(lambda: all([right(model) for _ in range(50)])) for _ in range(4)]
assert all([right(model) for _ in range(50)])
done(children)
assert right(model)
""")


@FORKS
def test_fork_in_the_middle_of_runs(program: Program) -> None:
    """Other threads are anywhere in a run when the process forks: what they hold is nobody's in the child."""
    program("""
model = graphopt.load(path)
assert right(model)
stop, wrong = threading.Event(), []

def work():
    while not stop.is_set():
        if not right(model):
            wrong.append(1)

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(30):
    done([in_child(lambda: right(model) and right(model))])
stop.set()
for thread in threads:
    thread.join()
assert not wrong
""")


@FORKS
def test_a_child_ends_as_any_program(program: Program) -> None:
    """Not by ``os._exit``: what a process does at its end must not wait for threads of its parent."""
    program("""
model = graphopt.load(path)
assert right(model)
child = os.fork()
if child == 0:
    sys.exit(0 if len(sys.argv) == 4 and right(model) else 3)
idle = os.fork()
if idle == 0:
    sys.exit(0)
done([child, idle])
""")


_POOL = """
model = None

def work(seed):
    global model
    if model is None:
        model = graphopt.load(path)
    return model.run({"image": image + np.float32(seed)})["y"].tobytes()

if __name__ == "__main__":
    model = graphopt.load(path)
    assert right(model)
    wanted = [work(seed) for seed in range(12)]
"""


@pytest.mark.parametrize("method", [pytest.param("fork", marks=FORKS), pytest.param("spawn", marks=pytest.mark.slow)])
def test_multiprocessing(program: Program, method: str) -> None:
    """Forked workers use the model of their parent, spawned ones load it."""
    program(
        _POOL
        + f"""
    import multiprocessing
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        assert pool.map(work, range(12), chunksize=1) == wanted
        pool.close()
        pool.join()
    assert right(model)
"""
    )


@FORKS
def test_forked_executor_beside_runs(program: Program) -> None:
    """As a loader of data does: workers answer while the parent runs, and are started anew for each pass over the data."""
    program(
        _POOL
        + """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    for _ in range(2):
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
            answers = [pool.submit(work, seed) for seed in range(12)]
            assert all([right(model) for _ in range(20)])
            assert [answer.result() for answer in answers] == wanted
"""
    )


@PROC
def test_short_lived_threads_leave_none(program: Program) -> None:
    """Two hundred threads, eight at a time, run once each; the model stays."""
    program("""
model = graphopt.load(path)
before = status("Threads")
wrong = []

def work():
    if not right(model):
        wrong.append(1)

for _ in range(25):
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
assert not wrong
no_more_threads_than(before)
assert right(model)
""")


@pytest.mark.slow
@PROC
def test_a_thousand_models_come_and_go(program: Program) -> None:
    """Load, run and release: no thread, no mapping, no memory stays."""
    program("""
def cycles(count):
    for _ in range(count):
        assert right(graphopt.load(path))
    gc.collect()
    return len(open("/proc/self/maps").read().splitlines()), status("VmRSS")

before = status("Threads")
cycles(200)
maps, kilobytes = cycles(1)
later_maps, later_kilobytes = cycles(1000)
assert later_maps < maps + 100, (maps, later_maps)
assert later_kilobytes < kilobytes + 8192, (kilobytes, later_kilobytes)
no_more_threads_than(before)
""")


@pytest.mark.parametrize("released", [True, False], ids=["released", "held"])
def test_silent_at_the_end(program: Program, released: bool) -> None:
    """The program ends right after a run, when workers still look for work, with the model and without."""
    program(f"""
model = graphopt.load(path)
assert right(model)
if {released}:
    del model
    gc.collect()
""")


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_silent_at_the_end_in_the_middle_of_runs(program: Program, threads: int) -> None:
    """Daemon threads are in the middle of runs when the program ends, or wait for others that are."""
    program(f"""
model = graphopt.load(path)
ran = threading.Semaphore(0)

def work():
    while True:
        model.run({{"image": image}})
        ran.release()

for _ in range({threads}):
    threading.Thread(target=work, daemon=True).start()
for _ in range(20):
    ran.acquire()
""")


def test_runs_at_the_end(program: Program) -> None:
    """What a program does when it ends may run a model, in a thread of its own, too, while daemon threads wait for one."""
    program("""
import atexit

def at_end():
    found = []
    thread = threading.Thread(target=lambda: found.append(right(model)))
    if sys.version_info < (3, 12):  # later ones start no thread any more
        thread.start()
        thread.join()
        assert found == [True]
    assert right(model)

# Before what graphopt registers, so it is called after that.
assert "graphopt.runtime.executor" not in sys.modules
atexit.register(at_end)
model = graphopt.load(path)
assert right(model)

def work():
    while True:
        model.run({"image": image})

for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
""")
