"""Real models, optimised, exported and run in ONNX Runtime (its own optimisation off), against the original file."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import export_onnx, optimize
from graphopt.models import zoo
from tests.support.evaluate import difference
from tests.support.ort import run_ort
from tests.support.tolerance import assert_close, bound

FAST = ("digits", "squeezenet", "ppocr_cls", "silero_vad")
SLOW = tuple(n for n in zoo.names() if n not in FAST)
REDUCTION, DEPTH = 4608, 12
"""512 channels of 3x3 is the longest common sum; errors of dozens of layers mostly cancel out."""


@functools.lru_cache(maxsize=1)
def original(name):
    model = zoo.get(name)
    proto, feeds = model.proto(), model.inputs(seed=3)
    return import_onnx(proto), feeds, run_ort(proto, feeds)


def check(name, level, for_export):
    graph, feeds, want = original(name)
    optimised = optimize(graph, level, verify_each=True, for_export=for_export)
    model = export_onnx(optimised)
    if for_export:
        assert model.opset_import[0].version <= max(22, graph.opset)
    got = run_ort(model, feeds)
    for value, a, b in zip(graph.outputs, got, want):
        assert_close(a, b, reduction=REDUCTION, depth=DEPTH, what=f"{name} O{level} %{value.name}")
    return graph, optimised


@pytest.mark.parametrize(
    ("name", "level"),
    [
        pytest.param(name, level, marks=pytest.mark.slow if level == 1 and name != "digits" else ())
        for name in FAST
        for level in (1, 2, 3)
    ],
)
def test_levels(name, level):
    check(name, level, True)


@pytest.mark.parametrize("name", FAST)
def test_with_the_newest_operators(name):
    check(name, 3, False)


@pytest.mark.slow
@pytest.mark.parametrize("level", [1, 3])
@pytest.mark.parametrize("name", SLOW)
def test_other_models(name, level):
    check(name, level, True)


@pytest.mark.parametrize("name", FAST)
def test_the_models_are_sensitive_to_their_input(name):
    """Otherwise the tests above would pass whatever the passes do."""
    _, feeds, want = original(name)
    other = zoo.get(name).inputs(seed=4)
    got = run_ort(zoo.get(name).proto(), {**feeds, **other})
    limit = bound(np.float32, REDUCTION, DEPTH)
    assert any(difference(a, b, limit) for a, b in zip(want, got) if a.dtype.kind == "f")


def test_batch_norms_are_gone_at_level_2():
    for name in ("digits", "ppocr_cls"):
        graph, optimised = check(name, 2, True)
        assert "BatchNormalization" not in {n.op for n in optimised.walk()}
        assert len(optimised.nodes) < len(graph.nodes)
