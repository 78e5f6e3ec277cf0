"""A batch of cases in a process of its own: ``python -m tests.fuzz.worker KIND SEED COUNT FOLDER``.

Before each case it is written to ``FOLDER/current-KIND-SEED`` with what is about to be done, so that whoever watches can tell what
a dead or silent process was at. Findings go to ``FOLDER/findings``: the smallest case that hypothesis finds, and the traceback.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import graphopt
from tests.cli.conftest import small_model

KINDS = ("files", "values", "manifests")
ADDRESS_SPACE = 12 << 30
"""Bytes; a backstop: the resident size is what is watched."""


def key_of(error: BaseException) -> str:
    """What tells one kind of finding from another: the class and the innermost place in graphopt."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/graphopt/" in f.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].name}:{frames[-1].lineno}" if frames else "?"
    node = (getattr(error, "node", None) or "").rpartition("(")[2]
    return f"{type(error).__name__} at {place} {node}" if frames else f"{type(error).__name__} {str(error)[:60]}"


class Batch:
    """Runs cases and keeps what they find."""

    def __init__(self, kind: str, seed: int, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.current = folder / f"current-{kind}-{seed}"
        self.findings = folder / "findings"
        self.findings.mkdir(parents=True, exist_ok=True)
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.known = {p.name for p in self.findings.iterdir()}
        self.blob = b""

    def phase(self, name: str) -> None:
        """Say what comes next."""
        with contextlib.suppress(OSError):
            self.current.write_bytes(
                json.dumps({"phase": name, "at": time.time(), "cpu": time.process_time()}).encode() + b"\n" + self.blob
            )

    def case(self, blob: bytes, check: Callable[[], str]) -> None:
        """Run one case; a finding of a new kind is raised for hypothesis to make it small."""
        self.blob = blob
        self.phase("start")
        try:
            outcome = check()
        except Exception as error:
            key = key_of(error)
            name = f"{self.kind}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
            self.outcomes["found"] += 1
            if name in self.known:
                return
            (self.findings / f"{name}.tmp").write_bytes(blob)  # overwritten by smaller ones while hypothesis shrinks
            (self.findings / f"{name}.tmp.txt").write_text(f"{key}\n\n{traceback.format_exc()}")
            raise
        self.outcomes[outcome] += 1

    def finish(self) -> None:
        """The smallest cases are kept under their final names."""
        for path in [p for p in self.findings.iterdir() if ".tmp" in p.name]:
            path.rename(path.with_name(path.name.replace(".tmp", "")))
        self.current.unlink(missing_ok=True)


def run(kind: str, seed: int, count: int, folder: Path) -> collections.Counter[str]:
    """Run ``count`` cases and return how often each outcome came."""
    batch = Batch(kind, seed, folder)
    test = settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate, Phase.shrink], report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck), verbosity=hypothesis.Verbosity.quiet,
    )(hypothesis.seed(seed)(cases(kind, batch)))  # fmt: skip
    with contextlib.suppress(Exception):  # it is kept already
        test()
    batch.finish()
    return batch.outcomes


def cases(kind: str, batch: Batch) -> Callable[[], None]:
    """The property of a kind of case."""
    if kind == "files":
        from tests.fuzz.model_case import check_model
        from tests.fuzz.model_mutations import mutated_models

        @given(mutated_models(), st.sampled_from([None, None, 0, 2]))
        def files(blob: bytes, level: int | None) -> None:
            batch.case(blob, lambda: check_model(blob, level, batch.phase))

        return files
    if kind == "values":
        from tests.fuzz.feed_case import check_feed, feeds

        @given(feeds())
        def values(case: Any) -> None:
            batch.case(repr(case).encode(), lambda: check_feed(case))

        return values
    from tests.fuzz.manifest_case import artifacts, check_artifact

    @given(artifacts())
    def manifests(blob: bytes) -> None:
        batch.case(blob, lambda: check_artifact(blob, batch.phase))

    return manifests


def main(kind: str, seed: str, count: str, folder: str) -> None:
    """Run a batch and print its outcomes as JSON on the last line."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    graphopt.compile(small_model(), level=2, threads=1, jobs=1)  # loads what takes seconds to load
    print(json.dumps(run(kind, int(seed), int(count), Path(folder))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
