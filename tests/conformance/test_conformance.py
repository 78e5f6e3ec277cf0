"""The conformance suite under pytest: a sample by default, everything where slow tests run."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from tests.conformance.cases import all_cases
from tests.conformance.check import Outcome
from tests.conformance.pool import WORKER, check
from tests.conformance.report import render
from tests.conformance.run import evaluate
from tests.support.servers import Server

SAMPLE = 100
PASS_SHARE = 0.7


def sample(count: int) -> list[str]:
    """The same cases every time, spread over the suite whatever its order."""
    return sorted(all_cases(), key=lambda name: hashlib.sha256(name.encode()).digest())[:count]


def assert_no_bugs(outcomes: list[Outcome]) -> None:
    bugs = [f"{o.status} {o.name} ({o.form}): {o.reason}" for o in outcomes if o.status in ("wrong", "crash")]
    assert not bugs, "\n".join(bugs)


def pass_share(outcomes: list[Outcome], form: str) -> float:
    counts = Counter(o.status for o in outcomes if o.form == form)
    return counts["pass"] / sum(counts.values())


def test_sample_has_no_bugs() -> None:
    outcomes = evaluate(sample(SAMPLE), ("constants",))
    assert_no_bugs(outcomes)


@pytest.mark.slow
def test_whole_suite() -> None:
    outcomes = evaluate(list(all_cases()))
    assert_no_bugs(outcomes)
    assert pass_share(outcomes, "inputs") >= PASS_SHARE
    assert pass_share(outcomes, "constants") >= PASS_SHARE


def test_a_dead_worker_is_a_crash_and_the_next_case_runs() -> None:
    server = Server(WORKER)
    try:
        process = server._running()
        process.kill()
        process.wait()
        died = check(server, "test_relu", "inputs", 60.0)
        assert died.status == "crash"
        assert check(server, "test_relu", "inputs", 60.0).status == "pass"
        assert check(server, "test_relu", "inputs", 0.0).reason == "no result after 0 s"
    finally:
        server.stop()


def test_report_counts_and_lists() -> None:
    outcomes = [
        Outcome("test_relu", "inputs", "pass"),
        Outcome("test_relu", "constants", "pass"),
        Outcome("test_add", "inputs", "unsupported", "no kernels for element type f8", "unsupported-dtype"),
        Outcome("test_add", "constants", "wrong", "output 0 differs"),
    ]
    text = render(outcomes)
    assert "| as is | 2 | 1 (50.0%) | 0 (0.0%) | 1 (50.0%) | 0 (0.0%) | 0 (0.0%) |" in text
    assert "- test_add (other inputs constant): wrong: output 0 differs" in text
    assert "no kernels for element type f8" in text
