"""The conformance suite under pytest: a sample by default, everything where slow tests run."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from tests.conformance.cases import FORMS, Case, all_cases
from tests.conformance.check import Outcome
from tests.conformance.narrow import NARROW, narrow_cases, operators
from tests.conformance.pool import WORKER, check
from tests.conformance.report import render
from tests.conformance.roundings import explained
from tests.conformance.run import evaluate
from tests.support.servers import Server

SAMPLE = 50
NARROW_SAMPLE = 24
PER_OPERATOR = 5
"""Cases of each operator that the slow test derives in a type of 16 bits; ``python -m tests.conformance.run --type`` takes all."""
PASS_SHARE = 0.7


def sample(count: int) -> list[Case]:
    """The same cases every time, spread over the suite whatever its order."""
    return sorted(all_cases().values(), key=lambda case: hashlib.sha256(case.name.encode()).digest())[:count]


def in_turn(names: list[str]) -> list[Case]:
    """Cases derived in one type of 16 bits and the other."""
    types = list(NARROW)
    return [case for i, name in enumerate(names) for case in narrow_cases(types[i % 2], [name])]


def assert_no_bugs(outcomes: list[Outcome]) -> None:
    bugs = [
        f"{o.status} {o.name} ({o.form}): {o.reason}"
        for o in outcomes
        if o.status in ("wrong", "crash") or (o.status == "rounding" and not explained(o.name))
    ]
    assert not bugs, "\n".join(bugs)


def pass_share(outcomes: list[Outcome], form: str) -> float:
    counts = Counter(o.status for o in outcomes if o.form == form)
    return counts["pass"] / sum(counts.values())


def test_sample_has_no_bugs() -> None:
    first = [names[0] for names in operators().values()]
    outcomes = evaluate([*sample(SAMPLE), *in_turn(first[:: -(-len(first) // NARROW_SAMPLE)])], ("constants",))
    assert_no_bugs(outcomes)


@pytest.mark.slow
def test_whole_suite() -> None:
    outcomes = evaluate(list(all_cases().values()))
    assert_no_bugs(outcomes)
    assert pass_share(outcomes, "inputs") >= PASS_SHARE
    assert pass_share(outcomes, "constants") >= PASS_SHARE


@pytest.mark.slow
def test_operators_in_16_bits() -> None:
    names = [name for of_operator in operators().values() for name in of_operator[:PER_OPERATOR]]
    cases = in_turn(names)
    assert len(cases) > len(names) / 2, "few cases could be derived"
    outcomes = [o for i in range(2) for o in evaluate(cases[i::2], (FORMS[i],))]
    assert_no_bugs(outcomes)
    assert pass_share(outcomes, "inputs") >= PASS_SHARE
    assert pass_share(outcomes, "constants") >= PASS_SHARE


def test_a_dead_worker_is_a_crash_and_the_next_case_runs() -> None:
    server = Server(WORKER)
    try:
        process = server._running()
        process.kill()
        process.wait()
        relu = all_cases()["test_relu"]
        died = check(server, relu, "inputs", 60.0)
        assert died.status == "crash"
        assert check(server, relu, "inputs", 60.0).status == "pass"
        assert check(server, relu, "inputs", 0.0).reason == "no result after 0 s"
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
