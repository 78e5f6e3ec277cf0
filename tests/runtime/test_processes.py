"""Compiled models and the process around them: forks, and what stays mapped when models come and go."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.models import zoo
from graphopt.runtime import freed_memory
from tests.support.onnx_graphs import model_of

LOADS = 60
"""Enough that a mapping left by each would show among what else the process maps meanwhile."""
MAPS = Path("/proc/self/maps")

_FORK = """
import os, signal, sys
import numpy as np
import graphopt

source, path = sys.argv[1:]
image = {"image": np.ones((1, 1, 8, 8), np.float32)}
model = graphopt.load(path)
expected = model.run(image)["logits"]
child = os.fork()
if child == 0:
    signal.alarm(300)  # ends a child that waits for threads which only its parent has
    again = graphopt.load(path)
    assert np.array_equal(again.run(image)["logits"], expected)
    assert np.array_equal(model.run(image)["logits"], expected)
    compiled = graphopt.compile(source, threads=1, shapes={"image": "1x1x8x8"}, cache=False, jobs=1)
    assert np.allclose(compiled.run(image)["logits"], expected, rtol=1e-4, atol=1e-5)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0, "the child was ended"
"""


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network on one thread; `test_threads_of_processes` has two."""
    path = tmp_path_factory.mktemp("processes") / "digits.gopt"
    graphopt.compile(zoo.get("digits").path(), target="native", threads=1, shapes={"image": "1x1x8x8"}).save(path)
    return path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_loads_runs_and_compiles(artefact: Path) -> None:
    command = [sys.executable, "-c", _FORK, str(zoo.get("digits").path()), str(artefact)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def mappings() -> Counter[str]:
    """Number of mapped ranges by what is mapped; deleted libraries of any folder count as one."""
    found: Counter[str] = Counter()
    for line in MAPS.read_text().splitlines():
        name = line.split(maxsplit=5)[5:] or ["anonymous"]
        found[Path(name[0]).name] += 1
    return found


@pytest.mark.skipif(not MAPS.exists(), reason="this system has no /proc")
def test_released_models_leave_no_mapping(artefact: Path) -> None:
    def cycle() -> None:
        model = graphopt.load(artefact)
        model.run({"image": np.zeros((1, 1, 8, 8), np.float32)})

    for _ in range(3):  # what a process maps once
        cycle()
    gc.collect()
    before = mappings()
    for _ in range(LOADS):
        cycle()
    gc.collect()
    after = mappings()
    assert not [name for name in after - before if "library" in name or "gopt" in name], after - before
    assert sum((after - before).values()) < LOADS / 2, after - before


@pytest.mark.skipif(not MAPS.exists(), reason="this system has no /proc")
def test_results_outlive_their_model(artefact: Path) -> None:
    """The library is gone then; an output must not need it."""
    image = {"image": np.ones((1, 1, 8, 8), np.float32)}
    gc.collect()
    before = mappings()["library.so (deleted)"]
    model = graphopt.load(artefact)
    assert mappings()["library.so (deleted)"] > before
    run, first = model.run, model.run(image)["logits"]
    del model
    gc.collect()
    assert np.array_equal(run(image)["logits"], first)
    del run
    gc.collect()
    assert mappings()["library.so (deleted)"] == before
    assert np.isfinite(first).all()


def resident() -> int:
    """Bytes of memory that the process uses."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not MAPS.exists(), reason="this system has no /proc")
def test_ever_new_shapes_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor results of ever new sizes, and a model that is released leaves nothing behind."""
    monkeypatch.setattr(freed_memory, "KEPT_BYTES", 64 << 20)
    made = model_of({"x": "float[n]"}, "a = Exp(x)\nb = Concat<axis=0>(a, x)\ny = CumSum(b, k)", k=0)
    model = graphopt.compile(made, "native", threads=1)
    counted = graphopt.compile(model_of({"x": "bool[500000]"}, "y = NonZero(x)", "y:int64"), "native", threads=1)
    before = resident()

    for i in range(40):
        model.run({"x": np.ones(200_000 + 1024 * i, np.float32)})
        counted.run({"x": np.arange(500_000) < 100_000 + 1024 * i})
    used = resident()
    for i in range(40, 160):
        model.run({"x": np.ones(200_000 + 1024 * i, np.float32)})
        counted.run({"x": np.arange(500_000) < 100_000 + 1024 * i})
    assert resident() - used < 250 << 20  # 900 MB if all were kept
    del model, counted
    assert resident() - before < 40 << 20


@pytest.mark.slow
@pytest.mark.skipif(not MAPS.exists(), reason="this system has no /proc")
def test_a_thousand_models_run_by_threads_leave_no_memory(artefact: Path) -> None:
    """Arenas of all threads go with their model."""
    image = {"image": np.zeros((1, 1, 8, 8), np.float32)}

    def cycle() -> None:
        model = graphopt.load(artefact)
        list(pool.map(lambda _: model.run(image), range(8)))

    with ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            cycle()
        before = resident()
        for _ in range(1000):
            cycle()
        assert resident() - before < 4 << 20  # 4 KB a cycle; an arena has more, and so has a library


@pytest.mark.slow
@pytest.mark.skipif(not MAPS.exists(), reason="this system has no /proc")
def test_a_thousand_loads(artefact: Path) -> None:
    """Each load makes six mappings: were they to stay, the 65,530 that Linux allows a process would be used up by 11,000."""
    graphopt.load(artefact)
    before = sum(mappings().values())
    for _ in range(1_000):
        graphopt.load(artefact)
    assert sum(mappings().values()) - before < 200
