"""Every model of the zoo, compiled for x86, gives what ONNX Runtime gives without graph optimisation."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.driver.accuracy import compare_all
from graphopt.models import zoo
from graphopt.runtime.model import CompiledModel
from tests.support.zoo_models import FIXED, HEAVY, Arrays, assert_outputs, budget, reference, zoo_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed (extra 'bench')"
)

SMALL = ("digits", "squeezenet", "ppocr_cls", "silero_vad_openvino_16k")
LONG = HEAVY | {
    "resnet50", "inception_v1", "inception_v2", "ppocr_det", "ppocr_rec", "nudenet", "shufflenet", "opennsfw", "mobilenet_v2",
    "silero_vad_op18_ifless", "silero_vad_16k_sequence",
}  # fmt: skip
"""Models that take seconds to compile and whose operators and templates others have too."""


def _models(names: Iterable[str], slow: Collection[str] = ()) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in names]


DYNAMIC = [name for name in zoo.names() if zoo.get(name).dynamic_shapes]


def _fed(compiled: CompiledModel, feed: Arrays) -> Arrays:
    return {spec.name: feed[spec.name] for spec in compiled.inputs}


@pytest.mark.parametrize("name", _models(zoo.names(), LONG | {"ppocr_cls", "silero_vad"}))
@pytest.mark.few(4)
def test_static_shapes(name: str) -> None:
    model = zoo_model(name)
    compiled = graphopt.compile(model.path(), "x86", shapes=model.shapes or None, values=FIXED.get(name))
    for seed in (0, 1):
        feed = model.inputs(seed)
        assert_outputs(name, compiled.run(_fed(compiled, feed)), reference(model, feed), f"seed {seed}")


@pytest.mark.parametrize(
    "name", _models(DYNAMIC, LONG | {"ppocr_cls", "opennsfw", "silero_vad", "silero_vad_16k_op15"})
)
@pytest.mark.few(1)
def test_one_compilation_for_all_shapes(name: str) -> None:
    model = zoo_model(name)
    compiled = graphopt.compile(model.path(), "x86", values=FIXED.get(name))
    for shapes in ({}, *model.dynamic_shapes[:2]):
        feed = model.inputs(2, shapes)
        assert_outputs(
            name, compiled.run(_fed(compiled, feed)), reference(model, feed), str(shapes or "standard shapes")
        )


@pytest.mark.parametrize("level", [0, 1, 3])
@pytest.mark.parametrize("name", _models([*SMALL, "resnet50"], {"squeezenet", "ppocr_cls", "resnet50"}))
def test_levels_agree(name: str, level: int) -> None:
    """Level 0 has neither passes nor templates nor fusion, so it is a reference made of other code."""
    model = zoo_model(name)
    feed = model.inputs(3)
    exact, other = (
        graphopt.compile(model.path(), "x86", shapes=model.shapes or None, level=n).run(feed) for n in (2, level)
    )
    assert_outputs(name, exact, other, f"level 2 against {level}")


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_does_not_matter(threads: int) -> None:
    model = zoo_model("squeezenet")
    feed = model.inputs()
    compiled = graphopt.compile(model.path(), "x86", threads=threads)
    assert_outputs("squeezenet", compiled.run(feed), reference(model, feed), f"{threads} threads")


@pytest.mark.parametrize("name", SMALL)
def test_another_input_is_told_apart(name: str) -> None:
    """The comparison would notice if a compiled model ignored what it is fed."""
    model = zoo_model(name)
    one, other = (reference(model, model.inputs(seed)) for seed in (0, 1))
    allowed = budget(name)
    found = compare_all(one, other, reduction=allowed.reduction, depth=allowed.depth)
    assert not all(c.ok for c in found)


def test_repeated_runs_do_not_disturb_each_other() -> None:
    """Results stay as they were when the model runs again, and inputs are not written."""
    model = zoo_model("digits")
    compiled = graphopt.compile(model.path(), "x86")
    first = model.inputs(0)
    kept = {key: array.copy() for key, array in first.items()}
    before = compiled.run(first)
    copies = {key: array.copy() for key, array in before.items()}
    compiled.run(model.inputs(1, model.dynamic_shapes[0]))
    assert all(np.array_equal(before[key], copies[key]) for key in before)
    assert all(np.array_equal(first[key], kept[key]) for key in first)
    again = compiled.run(first)
    assert all(np.array_equal(again[key], copies[key]) for key in copies)
