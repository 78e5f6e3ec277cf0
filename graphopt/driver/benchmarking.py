"""Latency, measured side by side with peers so that ratios mean something on a busy machine too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.driver.reference import has_onnxruntime
from graphopt.errors import UserError, did_you_mean
from graphopt.ir.graph import Array

PEERS = ("onnxruntime", "tvm")
_BUDGET_S = 20.0
"""Rounds stop after this long (each contender has then run at least once more after warming up)."""

SETTLE_S = 0.05
"""Pause between contenders: thread pools spin some milliseconds before they sleep."""
WARM_S = 0.01
"""How long a contender runs untimed after the pause, at least once."""

Run = Callable[[], Any]


@dataclass(frozen=True)
class Latency:
    """Wall time of one contender.

    Attributes:
        compile_s: seconds from model to first possible run, None when it was loaded compiled.
        ratio: its median over ours: above 1 we are faster.
    """

    name: str
    median_ms: float
    min_ms: float
    p90_ms: float
    runs: int
    compile_s: float | None
    ratio: float


@dataclass(frozen=True)
class Contender:
    """Something to time: its name, one run, and how long it took to prepare."""

    name: str
    run: Run
    compile_s: float | None = None


def measure(contenders: Sequence[Contender], repeat: int = 20, budget_s: float = _BUDGET_S) -> list[Latency]:
    """Time the contenders in alternation, so that drift of the machine hits all of them alike.

    Args:
        contenders: ours first; ratios are relative to it.
        repeat: rounds at most; each times every contender once, after a pause and a run to wake its threads.
        budget_s: no round starts later than this.

    Raises:
        UserError: ``repeat`` is not positive.
    """
    if repeat < 1:
        raise UserError(f"--repeat must be at least 1, not {repeat}", code="bad-option")
    for contender in contenders:
        contender.run()
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    start = time.perf_counter()
    for _ in range(repeat):
        for contender in contenders:
            # threads of the one before spin for a while; on as many cores as threads they would be measured with this one
            time.sleep(SETTLE_S)
            woken = time.perf_counter() + WARM_S
            contender.run()
            while time.perf_counter() < woken:
                contender.run()
            before = time.perf_counter()
            contender.run()
            times[contender.name].append(1e3 * (time.perf_counter() - before))
        if time.perf_counter() - start > budget_s:
            break
    ours = statistics.median(times[contenders[0].name])
    return [_latency(c, sorted(times[c.name]), ours) for c in contenders]


def _latency(contender: Contender, times: list[float], ours: float) -> Latency:
    median = statistics.median(times)
    p90 = times[min(len(times) - 1, int(0.9 * len(times)))]
    return Latency(contender.name, median, times[0], p90, len(times), contender.compile_s, median / ours)


def peer(name: str, source: Any, feed: Mapping[str, Array], threads: int) -> Contender:
    """A peer prepared on the model as it came.

    Args:
        name: one of ``PEERS``.
        source: path of the ONNX file.
        feed: inputs to run on.
        threads: CPU threads, the same for all.

    Raises:
        UserError: unknown or not installed.
        CompileError: the peer can't take the model.
    """
    if name not in PEERS:
        raise UserError(
            f"unknown peer {name!r}",
            code="unknown-peer",
            hint=did_you_mean(name, PEERS) or f"one of {', '.join(PEERS)}",
        )
    start = time.perf_counter()
    run = _onnxruntime(source, feed, threads) if name == "onnxruntime" else _tvm(source, feed, threads)
    return Contender(name, run, time.perf_counter() - start)


def _onnxruntime(source: Any, feed: Mapping[str, Array], threads: int) -> Run:
    if not has_onnxruntime():
        raise UserError(
            "onnxruntime is not installed", code="no-peer", hint='pip install "graphopt[bench]", or leave out --compare'
        )
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    wanted = {item.name for item in session.get_inputs()}
    inputs = {name: array for name, array in feed.items() if name in wanted}
    return lambda: session.run(None, inputs)


def _tvm(source: Any, feed: Mapping[str, Array], threads: int) -> Run:
    import onnx

    from graphopt.backends.base.tvm_default import compile_with_tvm

    run = compile_with_tvm(onnx.load_model(str(source)), feed, threads)
    return lambda: run(feed)
