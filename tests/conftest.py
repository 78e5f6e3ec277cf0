"""What concerns all tests: two runs in turn, tests side by side, and cases that are the same every time.

Two runs in turn prove everything once: what the first has passed, the second can leave out. ``--write-passed=FILE`` writes
which tests passed. ``--leave-out=FILE`` leaves exactly those out, so that a test which the first run skipped, failed, didn't
select or didn't know runs in the second. ``.ci/run`` uses both: its first run has no more than README.md installs, its second
has every extra and system package, and the slow tests. The equals sign is needed: pytest looks for this file before it knows
the options in it, and takes a path that stands alone for the place of the tests.

The cases that Hypothesis draws are the same in every run, whatever ran before: ``--hypothesis-profile=exploring`` draws others.
So are the random numbers of a test: the generator ``RNG`` of its module begins anew.
"""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis.internal.conjecture import providers

from tests.support.covering import mark_the_others_slow

hypothesis.settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("exploring", derandomize=False, database=None, deadline=None)
hypothesis.settings.load_profile("repeatable")
# One draw of twenty is a constant, and among those are the constants of all modules of this project that happen to be imported:
# which cases a test got depended on the tests that the same process ran before. Nothing public switches that off, so
# test_repeatable.py checks that this does.
providers._get_local_constants = lambda: providers._local_constants


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("runs in turn")
    group.addoption("--write-passed", type=Path, metavar="FILE", help="write the names of the tests that passed")
    group.addoption("--leave-out", type=Path, metavar="FILE", help="leave out tests that --write-passed wrote")


class _Passed:
    """Writes down the tests that passed in every phase."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passed: set[str] = set()
        self.others: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.others.add(report.nodeid)
        elif report.when == "call":
            self.passed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(sorted(self.passed - self.others), indent=0), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    if getattr(config, "workerinput", {}).get("workercount", 1) > 1:
        # The CPUs are busy with other tests: a process that helps to compile would cost its start and win nothing.
        os.environ.setdefault("GRAPHOPT_JOBS", "1")
    if (left_out := config.getoption("--leave-out")) is not None and not left_out.is_file():
        raise pytest.UsageError(f"--leave-out: there is no file {left_out}")
    path = config.getoption("--write-passed")
    is_worker = hasattr(config, "workerinput")  # of pytest-xdist, which reports to the process that writes
    if path is not None and not is_worker:
        config.pluginmanager.register(_Passed(path.absolute()))


@pytest.hookimpl(tryfirst=True)  # before what is slow is left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mark_the_others_slow(items)
    path = config.getoption("--leave-out")
    if path is None:
        return
    passed = set(json.loads(path.read_text(encoding="utf-8")))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
    items[:] = [item for item in items if item.nodeid not in passed]


_BEGINNINGS: dict[str, dict[str, Any]] = {}
"""States of the generators of modules before any of their tests drew."""


def _begin_anew(item: pytest.Item) -> None:
    module = getattr(item, "module", None)
    generator = getattr(module, "RNG", None)
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        bits.state = _BEGINNINGS.setdefault(module.__name__, bits.state)  # type: ignore[union-attr,arg-type]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    _begin_anew(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    _begin_anew(item)  # once more: of fixtures that several tests share, only the first one's has drawn


def pytest_collection_finish() -> None:
    # Thousands of tests and what they import stay to the end; the garbage collector would look at them time and again.
    gc.freeze()
