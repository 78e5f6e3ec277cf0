"""A peer by name: installed, and prepared on a model for the shapes of given inputs."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from graphopt.driver.bench.child import reason
from graphopt.driver.bench.measure import Contender, OpenAxes, Run
from graphopt.driver.bench.peers import mnn, onnxruntime, openvino, tvm
from graphopt.errors import CompileError, GraphOptError, UserError, did_you_mean
from graphopt.ir.graph import Array

Prepare = Callable[[Path, Any, Mapping[str, Array], int, OpenAxes], Run]
"""Path of the model, the model for a look at its inputs and outputs, inputs, threads, axes of inputs that stay open."""


@dataclass(frozen=True)
class Peer:
    """A runtime to compare with.

    Attributes:
        title: how it is spelt.
        module: what to import.
        package: its name for pip.
        prepare: makes a run; may raise anything.
    """

    title: str
    module: str
    package: str
    prepare: Prepare

    @property
    def version(self) -> str | None:
        """Installed version, None when it is not installed."""
        if importlib.util.find_spec(self.module) is None:
            return None
        return metadata.version(self.package)


_TABLE = {
    "onnxruntime": Peer("ONNX Runtime", "onnxruntime", "onnxruntime", onnxruntime.prepare),
    "openvino": Peer("OpenVINO", "openvino", "openvino", openvino.prepare),
    "mnn": Peer("MNN", "MNN", "MNN", mnn.prepare),
    "tvm": Peer("TVM's default pipeline", "tvm", "apache-tvm", tvm.prepare),
}
PEERS = tuple(_TABLE)


def peer_info(name: str) -> Peer:
    """What is known of a peer.

    Raises:
        UserError: there is none of that name, or it is not installed.
    """
    if name not in _TABLE:
        raise UserError(
            f"unknown peer {name!r}",
            code="unknown-peer",
            hint=did_you_mean(name, PEERS) or f"one of {', '.join(PEERS)}",
        )
    found = _TABLE[name]
    if found.version is None:
        raise UserError(
            f"{found.title} is not installed",
            code="no-peer",
            hint=f'pip install {found.package} (or "graphopt[bench]" for all peers), or leave it out of --compare',
        )
    return found


def peer(name: str, source: str | Path, feed: Mapping[str, Array], threads: int) -> Contender:
    """A peer prepared on the model as it came, its symbolic dimensions fixed to those of the inputs.

    Args:
        name: one of ``PEERS``.
        source: path of the ONNX file.
        feed: inputs to run on.
        threads: CPU threads, the same for all.

    Raises:
        UserError: unknown or not installed.
        CompileError: the peer can't take the model.
    """
    import onnx

    info = peer_info(name)
    model = onnx.load_model(source, load_external_data=False)
    start = time.perf_counter()
    try:
        run = info.prepare(Path(source), model, feed, threads, {})
        ready = time.perf_counter() - start
        run()
    except GraphOptError:
        raise
    except Exception as error:  # peers raise any class
        raise CompileError(
            f"{info.title} can't take the model: {type(error).__name__}: {reason(str(error))}",
            code="peer-failed",
            hint=f"leave out --compare {name}",
        ) from error
    return Contender(name, run, ready)
