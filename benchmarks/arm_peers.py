"""What ONNX Runtime's and MNN's aarch64 wheels run for one inference, counted under emulation."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from arm_code import Disassembler, Trace, traces
from arm_emulation import counted
from arm_ours import TIMEOUT_S, Feed
from arm_sysroot import guest

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


def count_peer(runtime: str, source: Path, feed: Feed, cpu: str, folder: Path, precision: str = "high") -> PeerCounted:
    """Run a model twice in a peer and count what the second time takes.

    Args:
        runtime: ``onnxruntime`` or ``mnn``.
        source: ONNX file whose shapes are static.
        feed: inputs.
        cpu: qemu's processor.
        folder: for files in between.
        precision: MNN's.

    Raises:
        RuntimeError: the peer can't convert or run it; with its last words.
    """
    model = source
    if runtime == "mnn":
        model = folder / f"{source.stem}.mnn"
        if not model.exists():
            convert(source, model)
    arrays, result = folder / "feed.npz", folder / "result.npz"
    result.unlink(missing_ok=True)
    np.savez(arrays, **{"x" + name.encode().hex(): array for name, array in feed.items()})  # type: ignore[arg-type]

    def run(plugin: str) -> None:
        command = guest(cpu).command(
            cpu, _SCRIPT, runtime, str(model), str(arrays), str(result), precision, plugin=plugin
        )
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
        if done.returncode != 0:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise RuntimeError(" ".join(lines[-_LAST_LINES:]) or f"exit status {done.returncode}")

    found = traces(counted(run), Disassembler())
    with np.load(result) as loaded:
        outputs = {bytes.fromhex(key[1:]).decode(): loaded[key] for key in loaded.files}
    return PeerCounted(found, outputs)
