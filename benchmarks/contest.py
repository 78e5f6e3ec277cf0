"""One model against its peers, interleaved in one process with the same threads and inputs."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.driver.accuracy import compare_all
from graphopt.driver.bench.agreement import check_agreement, tolerance_of
from graphopt.driver.bench.measure import Contender, Latency, measure
from graphopt.driver.bench.peers.prepare import peer
from graphopt.driver.compiling import compile as compile_model
from graphopt.driver.importing import import_onnx
from graphopt.driver.reference import make_reference
from graphopt.errors import AccuracyError, CompileError

PEERS = ("onnxruntime", "openvino", "mnn")
NOISE = 0.03
"""A ratio this much below 1 is no loss: such differences come and go with the machine's load."""
LOOSE = 0.01
"""A peer whose error is outside the tolerance table but below this still counts: it computes the same, with less precision."""


@dataclass
class Outcome:
    """What came out.

    Attributes:
        ours: our latency.
        peers: latencies by peer.
        absent: why a peer has none.
        error: ours against the reference, relative to the largest magnitude; None when not checked.
    """

    ours: Latency
    peers: dict[str, Latency]
    absent: dict[str, str] = field(default_factory=dict)
    error: float | None = None

    @property
    def best(self) -> Latency | None:
        """The fastest peer that computes the same, if with less precision."""
        return min((p for p in self.peers.values() if computes_the_same(p)), key=lambda p: p.median_ms, default=None)

    @property
    def ratio(self) -> float | None:
        """Best peer over ours: above 1 we are faster than all of them."""
        return self.best.ratio if self.best is not None else None

    def cell(self, name: str) -> str:
        """Milliseconds of a peer for a table, with what is wrong with it."""
        if name in self.peers:
            latency = self.peers[name]
            if latency.problem is None:
                return f"{latency.median_ms:.2f}"
            return (
                f"{latency.median_ms:.2f} ({f'error {latency.error:.0e}' if computes_the_same(latency) else 'wrong'})"
            )
        return "fails" if name in self.absent else ""


def computes_the_same(latency: Latency) -> bool:
    """Whether a peer's outputs are ours, if with less precision than the tolerance table asks for."""
    return latency.problem is None or (latency.error is not None and latency.error < LOOSE)


def contest(
    path: Path,
    feed: Mapping[str, np.ndarray[Any, Any]],
    threads: int,
    repeat: int,
    *,
    peers: Sequence[str] = PEERS,
    check: bool = True,
    budget_s: float = 60.0,
) -> Outcome:
    """Compile for the shapes of the inputs, verify, and time.

    Args:
        path: the ONNX model.
        feed: inputs.
        threads: CPU threads of all contenders.
        repeat: rounds at most.
        peers: names, as for ``graphopt bench --compare``.
        check: compare with ONNX Runtime without optimisation, too.
        budget_s: no round starts later.

    Raises:
        AccuracyError: our result is outside the tolerance table.
    """
    shapes = {name: array.shape for name, array in feed.items()}
    start = time.perf_counter()
    compiled = compile_model(path, "native", threads=threads, shapes=shapes)
    seconds = time.perf_counter() - start
    expected = {name: array.copy() for name, array in compiled.run(feed).items()}
    tolerance = tolerance_of(import_onnx(path, shapes=shapes))
    error = None
    if check:
        checks = compare_all(expected, make_reference(path)(feed), **tolerance)
        wrong = [f"{c.name}: {c.problem}" for c in checks if not c.ok]
        if wrong:
            raise AccuracyError(f"{path.name}: {'; '.join(wrong)}")
        error = max(c.error for c in checks)
    contenders = [Contender("graphopt", lambda: compiled.run(feed), seconds)]
    absent = {}
    for name in peers:
        try:
            contenders.append(check_agreement(peer(name, path, feed, threads), expected, **tolerance))
        except CompileError as failure:
            absent[name] = failure.message
    ours, *others = measure(contenders, repeat, budget_s)
    del contenders
    gc.collect()
    return Outcome(ours, {latency.name: latency for latency in others}, absent, error)
