"""One model against its peers, in processes of their own that take turns, with the same threads and inputs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.backends.base.scratch import scratch_folder
from graphopt.driver.accuracy import compare_all
from graphopt.driver.bench.agreement import tolerance_of
from graphopt.driver.bench.compete import compete
from graphopt.driver.bench.entrants import open_axes_of, own_entrant, peer_entrant
from graphopt.driver.bench.measure import Latency
from graphopt.driver.bench.per_layer import PerLayer, measure_layers
from graphopt.driver.compiling import compile as compile_model
from graphopt.driver.importing import import_onnx
from graphopt.driver.reference import make_reference
from graphopt.errors import AccuracyError, UserError

PEERS = ("onnxruntime", "openvino", "mnn")
NOISE = 0.03
"""A ratio this much below 1 is no loss: such differences come and go with the machine's load."""
LAYERS_S = 1.0
"""How long kernels are timed one by one, where they are."""
LOOSE = 0.01
"""A peer whose error is outside the tolerance table but below this still counts: it computes the same, with less precision."""


@dataclass(frozen=True)
class Slow:
    """A kernel call that takes long.

    Attributes:
        label: its node.
        template: what made the kernel.
        share: of the time of all kernels.
    """

    label: str
    template: str
    share: float


@dataclass
class Outcome:
    """What came out.

    Attributes:
        ours: our latency.
        peers: latencies by peer.
        absent: why a peer has none.
        error: ours against the reference, relative to the largest magnitude; None when not checked.
        slowest: our kernels that take longest, as many as were asked for.
    """

    ours: Latency
    peers: dict[str, Latency]
    absent: dict[str, str] = field(default_factory=dict)
    error: float | None = None
    slowest: list[Slow] = field(default_factory=list)

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
    dynamic: bool = False,
    layers: int = 0,
) -> Outcome:
    """Compile, verify, and time.

    Args:
        path: the ONNX model.
        feed: inputs.
        threads: CPU threads of all contenders.
        repeat: rounds at most.
        peers: names, as for ``graphopt bench --compare``.
        check: compare with ONNX Runtime without optimisation, too.
        budget_s: no round starts later.
        dynamic: all runtimes have to leave the model's open dimensions open, rather than fix them to the shapes of the inputs.
        layers: how many of our slowest kernels to name.

    Raises:
        AccuracyError: our result is outside the tolerance table.
    """
    sizes = {name: array.shape for name, array in feed.items()}
    shapes = {} if dynamic else sizes
    start = time.perf_counter()
    compiled = compile_model(path, "native", threads=threads, shapes=shapes)
    seconds = time.perf_counter() - start
    expected = {name: array.copy() for name, array in compiled.run(feed).items()}
    tolerance = tolerance_of(import_onnx(path, shapes=sizes))
    error = None
    if check:
        checks = compare_all(expected, make_reference(path)(feed), **tolerance)
        wrong = [f"{c.name}: {c.problem}" for c in checks if not c.ok]
        if wrong:
            raise AccuracyError(f"{path.name}: {'; '.join(wrong)}")
        error = max(c.error for c in checks)
    left = open_axes_of(compiled.signature)
    slow = slowest(measure_layers(compiled, feed, budget_s=LAYERS_S), layers) if layers else []
    with scratch_folder() as folder:
        entrants = [own_entrant(compiled, folder, feed, seconds)]
        del compiled  # its memory is the contenders'
        absent: dict[str, str] = {}
        for name in peers:
            try:
                entrants.append(peer_entrant(name, path, folder, feed, threads, left))
            except UserError as failure:
                absent[name] = failure.message
        found = compete(entrants, repeat, expected=expected, tolerance=tolerance, budget_s=budget_s)
    ours, *others = found.latencies
    return Outcome(ours, {latency.name: latency for latency in others}, {**absent, **dict(found.absent)}, error, slow)


def slowest(found: PerLayer, count: int) -> list[Slow]:
    """The calls that take longest, first the longest."""
    ordered = sorted(found.layers, key=lambda layer: -layer.ms)[:count]
    return [Slow(layer.label, layer.template, layer.ms / found.kernels_ms) for layer in ordered]
