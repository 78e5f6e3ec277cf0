"""A repeatable number of hostile files, artefacts and arrays; ``python -m tests.fuzz`` tries more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import graphopt
from tests.fuzz.feed_case import check_feed, feeds
from tests.fuzz.manifest_case import artifacts, check_artifact
from tests.fuzz.model_case import check_model
from tests.fuzz.model_mutations import mutated_models
from tests.support.onnx_cases import onnx_cases


def bounded(count: int) -> Callable[[Any], Any]:
    """So many cases, the same every time."""
    return settings(
        max_examples=count, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


LEVELS = st.sampled_from([None, None, None, None, 0, 2])


@bounded(60)
@given(mutated_models(), LEVELS)
def test_files(blob: bytes, level: int | None) -> None:
    check_model(blob, level)


@bounded(150)
@given(feeds())
def test_feeds(case: Any) -> None:
    check_feed(case)


@bounded(60)
@given(artifacts())
def test_artifacts(blob: bytes) -> None:
    check_artifact(blob)


def test_where_onnx_runtime_fails_a_test_of_onnx() -> None:
    """Resize by a scale takes the length that the scale gives, 2.4, not that of the output, 2."""
    cases = {case.name: case.with_constant_operands() for case in onnx_cases("node")}
    for name in ("linear", "cubic"):
        case = cases[f"test_resize_downsample_scales_{name}_align_corners"]
        assert check_model(case.model.SerializeToString(), 2) == "agreed with the reference alone"


def test_outputs_that_differ_from_both(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in onnx_cases("node") if case.name == "test_relu")
    blob = case.model.SerializeToString()
    assert check_model(blob, 2) == "agreed"
    monkeypatch.setattr(graphopt.CompiledModel, "run", lambda self, feed: {"y": feed["x"]})
    with pytest.raises(AssertionError, match="outputs differ: y: error"):
        check_model(blob, 2)


@pytest.mark.slow
@bounded(500)
@given(mutated_models(), LEVELS)
def test_many_files(blob: bytes, level: int | None) -> None:
    check_model(blob, level)


@pytest.mark.slow
@bounded(500)
@given(artifacts())
def test_many_artifacts(blob: bytes) -> None:
    check_artifact(blob)


@pytest.mark.slow
@bounded(1000)
@given(feeds())
def test_many_feeds(case: Any) -> None:
    check_feed(case)
