"""Graphopt as a contender in a process of its own: a compiled model out of its file, as one that is served."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import graphopt.backends.build.whole_module  # noqa: F401 (what loading imports, before memory is counted)
from graphopt.driver.bench.measure import OpenAxes, Run
from graphopt.ir.graph import Array
from graphopt.runtime.load import load


def prepare(source: Path, head: Any, feed: Mapping[str, Array], threads: int, open_axes: OpenAxes) -> Run:
    """A run of the artefact, on the threads that it was compiled for."""
    model = load(source)
    return lambda: model.run(feed)
