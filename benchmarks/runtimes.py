"""Runtimes that serve one model to several callers, each on inputs of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import onnx
from numpy.typing import NDArray

Array = NDArray[Any]
Feed = dict[str, Array]
Run = Callable[[], Mapping[str, Array]]


class Served(Protocol):
    """A model that is ready to run."""

    def caller(self, feed: Feed) -> Run:
        """What one caller runs; those of several callers may be called at once, each by one thread."""


class Graphopt:
    """Compiled, or loaded if it is an artefact."""

    def __init__(self, source: Path, feed: Feed, threads: int | None) -> None:
        import graphopt

        if source.suffix == ".gopt":
            self.model = graphopt.load(source)
        else:
            shapes = {name: array.shape for name, array in feed.items()}
            self.model = graphopt.compile(source, "native", threads=threads, shapes=shapes)

    def caller(self, feed: Feed) -> Run:
        """All callers share the model."""
        return lambda: self.model.run(feed)


class OnnxRuntime:
    """One session."""

    def __init__(self, source: Path, feed: Feed, threads: int | None) -> None:
        from graphopt.driver.bench.peers import onnxruntime

        self._peer = onnxruntime
        self._session = onnxruntime.open_session(source, head(source), feed, threads)

    def caller(self, feed: Feed) -> Run:
        """All callers share the session."""
        return self._peer.session_run(self._session, feed)


class OpenVino:
    """One compiled model, with the performance hint for latency as in every other comparison."""

    def __init__(self, source: Path, feed: Feed, threads: int | None) -> None:
        from graphopt.driver.bench.peers import openvino

        self._peer, self._head = openvino, head(source)
        self._compiled = openvino.compile_network(source, feed, threads)

    def caller(self, feed: Feed) -> Run:
        """Every caller has an infer request of the one compiled model."""
        return self._peer.request_run(self._compiled, self._head, feed)


class Mnn:
    """A converted model whose sessions serve one caller at a time."""

    def __init__(self, source: Path, feed: Feed, threads: int | None) -> None:
        from graphopt.driver.bench.peers import mnn

        if threads is None:
            raise RuntimeError("it does not choose a number of threads by the machine")
        self._peer, self._source, self._threads = mnn, source, threads

    def caller(self, feed: Feed) -> Run:
        """Every caller has a session of its own."""
        return self._peer.prepare(self._source, head(self._source), feed, self._threads)


RUNTIMES: dict[str, Callable[[Path, Feed, int | None], Served]] = {
    "graphopt": Graphopt,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "mnn": Mnn,
}


def head(source: Path) -> Any:
    """The model without large tensors that lie in other files."""
    return onnx.load_model(source, load_external_data=False)
