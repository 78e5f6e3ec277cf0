"""What ONNX Runtime's and MNN's aarch64 wheels run for one inference, counted under emulation."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
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


_MNN_SCHEME = {"feature_quantize_method": "KL", "weight_quantize_method": "MAX_ABS", "quant_bits": 8}
"""Of its own quantizer, as its manual has it."""
_QUANTIZE = """
import sys
import _tools
_tools.mnnquant(["mnnquant", *sys.argv[1:]])
"""


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
    scheme = _MNN_SCHEME if runtime == "mnn" and subject.wide else {}
    what = repr((runtime, subject.key, cpu, precision, versions(), sources, *scheme.items()))
    name = f"peers/{runtime}-{subject.path.stem}-{hashlib.sha256(what.encode()).hexdigest()[:12]}"
    found = kept(name, lambda plugin, result: _run(runtime, subject, cpu, precision, plugin, result))
    return PeerCounted(traces(found.counts, Disassembler()), found.outputs)


def _run(runtime: str, subject: Subject, cpu: str, precision: str, plugin: str, result: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        model, feed = subject.path, Path(name) / "feed.npz"
        if runtime == "mnn":
            model = _for_mnn(subject, Path(name))
        write_outputs(feed, subject.feed)
        arguments = (runtime, str(model), str(feed), str(result), precision)
        command = guest(cpu).command(cpu, _SCRIPT, *arguments, plugin=plugin)
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
        if done.returncode != 0:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise RuntimeError((lines or [""])[-1] or f"exit status {done.returncode}")


def _for_mnn(subject: Subject, folder: Path) -> Path:
    """MNN's file of a model.

    Its converter takes no QuantizeLinear around convolutions. A quantized model is made of the float32 one by its own quantizer,
    on the same calibration inputs.

    Raises:
        RuntimeError: MNN can't convert or quantize it.
    """
    model, quantized = folder / "model.mnn", folder / "quantized.mnn"
    convert(subject.wide or subject.path, model)
    if not subject.wide:
        return model
    inputs = folder / "inputs"
    for index, feed in enumerate(subject.calibration):
        ((name, array),) = feed.items()
        sample = inputs / str(index)
        (sample / name).parent.mkdir(parents=True)  # names may have slashes in them
        described = {"inputs": [{"name": name, "shape": list(array.shape)}], "outputs": []}
        (sample / "input.json").write_text(json.dumps(described))
        np.savetxt(sample / f"{name}.txt", array.ravel(), fmt="%.7g")
    height, width = array.shape[2:]
    settings = {
        **_MNN_SCHEME, "format": "RGB", "mean": [0.0] * 3, "normal": [1.0] * 3, "width": width, "height": height,
        "path": f"{inputs}/", "used_sample_num": len(subject.calibration), "input_type": "sequence", "batch_size": 1,
    }  # fmt: skip
    config = folder / "config.json"
    config.write_text(json.dumps(settings))
    command = [sys.executable, "-c", _QUANTIZE, str(model), str(quantized), str(config)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
    if done.returncode != 0 or not quantized.exists():
        raise RuntimeError(f"its quantizer fails: {(done.stderr or done.stdout).strip()[-200:]}")
    return quantized
