"""Models of the zoo for tests: the reference's answers, or a skip that says why the model can't be had."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy.typing as npt
import pytest

from graphopt.driver.accuracy import compare_all, longest_sum, summing_depth
from graphopt.driver.importing import import_onnx
from graphopt.errors import ModelError
from graphopt.models import zoo
from tests.support.ort import run_ort

Arrays = dict[str, npt.NDArray[Any]]

HEAVY = frozenset({"vgg19", "bvlc_alexnet", "zfnet512", "densenet121"})
"""Hundreds of megabytes of weights, or hundreds of kernels."""

FIXED: dict[str, dict[str, int]] = {"silero_vad": {"sr": 16000}}
"""Inputs that decide what shapes the rest may have: the 8 kHz branch can't take 16 kHz windows, so one is compiled."""


@dataclass(frozen=True)
class Budget:
    """What the tolerance table needs to know of a model: its longest sum and how many sums follow one another."""

    reduction: int
    depth: int


def zoo_model(name: str) -> zoo.ZooModel:
    """The model, its file at hand; else the test is skipped with the reason."""
    model = zoo.get(name)
    try:
        model.path()
    except ModelError as error:
        # a wrong hash is a failure of the pin, not of the network
        if error.code != "model-download":
            raise
        pytest.skip(f"{name} can't be had: {error}")
    return model


@cache
def budget(name: str) -> Budget:
    """The model's budget, derived from its graph as imported."""
    model = zoo_model(name)
    graph = import_onnx(model.path(), shapes=model.shapes or None, values=FIXED.get(name))
    return Budget(longest_sum(graph), summing_depth(graph))


def reference(model: zoo.ZooModel, feed: Arrays) -> Arrays:
    """ONNX Runtime's outputs, with graph optimisation disabled."""
    proto = model.proto()
    return dict(zip([o.name for o in proto.graph.output], run_ort(proto, feed), strict=True))


def assert_outputs(name: str, got: Arrays, want: Arrays, what: str = "") -> None:
    """Fail unless all outputs agree within the tolerance table."""
    allowed = budget(name)
    found = compare_all(got, want, reduction=allowed.reduction, depth=allowed.depth)
    wrong = [f"{c.name}: {c.problem}" for c in found if not c.ok]
    assert not wrong, f"{name} {what}: {wrong}"
