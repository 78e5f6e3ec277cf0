"""What ONNX Runtime's and MNN's aarch64 wheels run for one inference, counted under emulation."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from arm_code import Disassembler, Trace, traces
from arm_emulation import COUNTER, kept, write_outputs
from arm_ours import TIMEOUT_S
from arm_subjects import Subject
from arm_sysroot import guest, versions

from graphopt.driver.bench.peers.mnn import convert

_SCRIPT = Path(__file__).with_name("arm_guest.py")
_LAST_LINES = 3


@dataclass(frozen=True)
class PeerCounted:
    """One inference of a peer.

    Attributes:
        found: what ran, the few thousand instructions of Python around the call too.
        outputs: results by name.
    """

    found: list[Trace]
    outputs: dict[str, np.ndarray[Any, Any]]


def count_peer(runtime: str, subject: Subject, cpu: str, precision: str = "high") -> PeerCounted:
    """Run a model twice in a peer and count what the second time takes; results are kept.

    Args:
        runtime: ``onnxruntime`` or ``mnn``.
        subject: the model and its inputs.
        cpu: one of `CPUS`.
        precision: MNN's.

    Raises:
        RuntimeError: the peer can't convert or run it; with its last words.
    """
    sources = [path.read_bytes() for path in (_SCRIPT, COUNTER)]
    what = repr((runtime, subject.key, cpu, precision, versions(), sources))
    name = f"peers/{runtime}-{subject.path.stem}-{hashlib.sha256(what.encode()).hexdigest()[:12]}"
    found = kept(name, lambda plugin, result: _run(runtime, subject, cpu, precision, plugin, result))
    return PeerCounted(traces(found.counts, Disassembler()), found.outputs)


def _run(runtime: str, subject: Subject, cpu: str, precision: str, plugin: str, result: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        model, feed = subject.path, Path(name) / "feed.npz"
        if runtime == "mnn":
            model = Path(name) / "model.mnn"
            convert(subject.path, model)
        write_outputs(feed, subject.feed)
        arguments = (runtime, str(model), str(feed), str(result), precision)
        command = guest(cpu).command(cpu, _SCRIPT, *arguments, plugin=plugin)
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
        if done.returncode != 0:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise RuntimeError(" ".join(lines[-_LAST_LINES:]) or f"exit status {done.returncode}")
