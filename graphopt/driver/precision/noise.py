"""How far a converted graph is from float32, node by node and output by output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.driver.calibration import CompiledRunner
from graphopt.driver.precision.inner_values import Feed, first_result, portions
from graphopt.ir.graph import Array, Graph


@dataclass
class Noise:
    """Energies of a value in float32 and of what the conversion changed, over all data.

    Attributes:
        broken: something isn't finite in one of the two only.
    """

    signal: float = 0.0
    noise: float = 0.0
    broken: bool = False

    def add(self, want: Array, got: Array) -> None:
        """Take in one more pair of arrays; places that are not finite in float32 have to be the same and count no further."""
        a, b = want.astype(np.float64), got.astype(np.float64)
        finite = np.isfinite(a)
        self.broken |= not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all()
        if not self.broken:
            self.signal += float(np.square(a[finite]).sum())
            self.noise += float(np.square(b[finite] - a[finite]).sum())

    @property
    def error(self) -> float:
        """Relative L2 error; infinite where NaN or infinity came in, or there is no signal."""
        if self.broken:
            return math.inf
        if self.noise == 0.0:
            return 0.0
        return math.sqrt(self.noise / self.signal) if self.signal else math.inf

    @property
    def sqnr_db(self) -> float:
        """Signal to noise in dB."""
        error = self.error
        return math.inf if error == 0.0 else -20.0 * math.log10(error) if math.isfinite(error) else -math.inf


def layer_noise(graph: Graph, converted: Graph, feeds: Sequence[Feed], runner: CompiledRunner) -> dict[str, Noise]:
    """By the name of each node, how its first float result differs.

    Args:
        graph: in float32.
        converted: has the same nodes by name, and Casts.
        feeds: inputs of ``graph``.
    """
    pairs: dict[str, tuple[str, str]] = {}
    results = {node.name: node for node in converted.nodes}
    for node in graph.nodes:
        want = first_result(node)
        twin = results.get(node.name)
        got = None if want is None or twin is None else twin.outputs[node.outputs.index(want)]
        if want is not None and got is not None:
            pairs[node.name] = want.name, got.name
    found = {name: Noise() for name in pairs}
    for part in portions(graph, list(pairs), feeds[0]):
        for feed in feeds:
            want_of = runner(graph, [pairs[name][0] for name in part], feed)
            got_of = runner(converted, [pairs[name][1] for name in part], as_inputs(converted, feed))
            for name in part:
                found[name].add(want_of[pairs[name][0]], got_of[pairs[name][1]])
    return found


def output_noise(
    want: Sequence[Mapping[str, Array]], converted: Graph, feeds: Sequence[Feed], runner: CompiledRunner
) -> dict[str, Noise]:
    """By name, how the float outputs differ from those of float32.

    Args:
        want: outputs of the float32 graph, one mapping a feed.
    """
    names = [v.name for v in converted.outputs]
    found: dict[str, Noise] = {}
    for exact, feed in zip(want, feeds, strict=True):
        got = outputs_of(converted, feed, runner)
        for name in names:
            if exact[name].dtype.kind == "f":
                found.setdefault(name, Noise()).add(exact[name], got[name])
    return found


def outputs_of(graph: Graph, feed: Feed, runner: CompiledRunner) -> dict[str, Array]:
    """What the graph makes of float32 inputs."""
    found = runner(graph, [v.name for v in graph.outputs if v.data is None], as_inputs(graph, feed))
    return {**found, **{v.name: v.data for v in graph.outputs if v.data is not None}}


def as_inputs(graph: Graph, feed: Feed) -> dict[str, Array]:
    """The feed in the types of the graph's inputs."""
    return dict(_typed(graph, feed))


def _typed(graph: Graph, feed: Feed) -> Iterator[tuple[str, Array]]:
    for value in graph.inputs:
        array = np.asarray(feed[value.name])
        yield value.name, array.astype(value.dtype.numpy) if value.dtype.is_float else array
