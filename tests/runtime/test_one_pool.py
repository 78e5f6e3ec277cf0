"""The libraries of a process share one pool, which outlives the model that brought it; its size can be chosen when loading."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest

import graphopt
from graphopt.backends.base.host import default_threads

FEED = {"x": np.random.default_rng(0).standard_normal((64, 20_000)).astype(np.float32)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Artefacts of two models with loops of many chunks, for two threads."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("Sin", "Erf"):
        text = f'<ir_version: 9, opset_import: ["": 18]> g (float[64, 20000] x) => (float[64, 20000] y) {{ y = {name}(x) }}'
        graphopt.compile(onnx.parser.parse_model(text), "native", threads=2).save(folder / f"{name}.gopt")
    return [folder / "Sin.gopt", folder / "Erf.gopt"]


def _pool_threads(model: Any) -> int:
    return int(model._executor._loaded.module.get_function("graphopt_pool_threads", query_imports=True)())


def _child(code: Any) -> None:
    """Run ``code`` in a child, whose pool has no threads yet."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            code()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(default_threads() < 2, reason="one CPU")
def test_two_libraries_have_one_pool(files: list[Path]) -> None:
    def both() -> None:
        first, second = map(graphopt.load, files)
        assert [_pool_threads(first), _pool_threads(second)] == [0, 0]
        first.run(FEED)
        assert [_pool_threads(first), _pool_threads(second)] == [1, 1]
        second.run(FEED)
        assert _pool_threads(second) == 1

    _child(both)


def test_a_pool_outlives_the_model_that_brought_it(files: list[Path]) -> None:
    first, second = map(graphopt.load, files)
    expected = second.run(FEED)["y"]
    first.run(FEED)
    del first
    gc.collect()
    assert np.array_equal(second.run(FEED)["y"], expected)


@pytest.mark.skipif(default_threads() < 2, reason="one CPU")
def test_number_of_threads_is_chosen_when_loading(files: list[Path]) -> None:
    def one_then_two() -> None:
        alone = graphopt.load(files[0], threads=1)
        expected = alone.run(FEED)["y"]
        assert _pool_threads(alone) == 0
        many = graphopt.load(files[0], threads=1000)
        assert np.array_equal(many.run(FEED)["y"], expected)
        assert _pool_threads(many) == default_threads() - 1

    _child(one_then_two)


@pytest.mark.parametrize("threads", [0, -3, 2.5, "2", True, [1]])
def test_what_is_no_number_of_threads_is_refused(files: list[Path], threads: Any) -> None:
    message = f"threads must be (at least 1|a whole number), not {re.escape(repr(threads))}"
    with pytest.raises(graphopt.TargetError, match=message):
        graphopt.load(files[0], threads=threads)
    with pytest.raises(graphopt.TargetError, match=message):
        graphopt.compile(b"", "native", threads=threads)


def test_numbers_of_other_libraries_are_numbers(files: list[Path]) -> None:
    assert graphopt.load(files[0], threads=np.int64(1)).run(FEED)["y"].shape == (64, 20_000)


def test_libraries_load_with_older_c_libraries(files: list[Path]) -> None:
    """They ask for functions of the C library by name alone, whatever the one of the machine that linked them."""
    versions = re.findall(rb"GLIBC_2\.([0-9]+)", graphopt.load(files[0]).artifact.library)
    assert all(int(version) < 30 for version in versions), versions
