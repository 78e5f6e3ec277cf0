"""Values that do harm: each either gives the reference's result or ends in an error, and never in a crash.

By hand, for more: ``python -m tests.hostile.worker SEED COUNT [CASE]``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

PEAK = 4 * 2**30
"""Bytes of memory that a process may have used at most."""


def _outcomes(seed: int, count: int, timeout: float) -> list[dict[str, Any]]:
    """What became of ``count`` values; freed memory is overwritten, so that what is read after that shows."""
    environment = {**os.environ, "MALLOC_PERTURB_": "165", "MALLOC_CHECK_": "3"}
    command = [sys.executable, "-m", "tests.hostile.worker", str(seed), str(count)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
    assert ran.returncode == 0, (
        f"the process ended with {ran.returncode} after {ran.stdout[-300:]}\n{ran.stderr[-3000:]}"
    )
    return [json.loads(line) for line in ran.stdout.splitlines()]


def _judge(outcomes: list[dict[str, Any]], count: int) -> None:
    *tried, end = outcomes
    wrong = [o for o in tried if o.get("wrong")]
    assert not wrong, f"{len(wrong)} of {len(tried)}: " + "\n".join(map(json.dumps, wrong[:10]))
    assert len(tried) == count
    kinds = Counter(o["outcome"] for o in tried)
    assert kinds["ok"] > count // 5, kinds  # the values are not all nonsense
    assert kinds["refused"] > count // 5, kinds
    assert end["peak"] < PEAK


def test_hostile_values_are_refused_or_right() -> None:
    _judge(_outcomes(seed=1, count=60, timeout=400), 60)


@pytest.mark.slow
def test_more_hostile_values_are_refused_or_right() -> None:
    _judge(_outcomes(seed=2, count=500, timeout=900), 500)
