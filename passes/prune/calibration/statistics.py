"""Second moments of what every layer's weights multiply, gathered on calibration data in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from zlib import crc32

import numpy as np
import numpy.typing as npt

from graphopt.errors import UserError
from graphopt.ir.graph import Array, Graph, Use
from graphopt.passes.prune.calibration.linear_layer import LinearLayer, linear_layers
from graphopt.passes.prune.calibration.moments import Moments, blocks, finite_rows, pick_rows

Runner: TypeAlias = Callable[[Graph, Sequence[str], Mapping[str, Array]], dict[str, Array]]
"""Runs a graph on a feed and returns the named values of it, inner ones included; handed in by the driver."""

MAX_COLUMNS = 4608
"""Longest rows (3x3 taps on 512 channels) whose products are kept."""
MAX_MEMORY = 2 << 30
"""Bytes of all products together."""
MIN_ROWS = 8192
ROWS_PER_COLUMN = 4
"""Rows that are enough for a layer: so many for every column, but at least ``MIN_ROWS``."""
USUAL_FEEDS = 16


@dataclass
class Statistics:
    """Moments of rows by weight operand. Layers with G groups have a leading axis of G in every array, others none.

    Attributes:
        graph: that the data went through.
        samples: feeds seen.
    """

    graph: Graph
    samples: int = 0
    _moments: dict[Use, Moments] = field(default_factory=dict)

    def __contains__(self, use: object) -> bool:
        return isinstance(use, Use) and self.rows(use) > 0

    def rows(self, use: Use) -> int:
        """How many rows went into the moments of a layer; 0 for one that was not seen."""
        return self._moments[use].count if use in self._moments else 0

    def mean(self, use: Use) -> npt.NDArray[np.float64]:
        """E[x]: [K], or [G, K] (KeyError for layers not seen)."""
        moments = self._moments[use]
        return _ungrouped(moments.x / max(moments.count, 1))

    def energy(self, use: Use) -> npt.NDArray[np.float64]:
        """E[x^2]: [K], or [G, K] (KeyError for layers not seen)."""
        moments = self._moments[use]
        return _ungrouped(moments.energy / max(moments.count, 1))

    def gram(self, use: Use) -> npt.NDArray[np.float64] | None:
        """E[x x^T]: [K, K], or [G, K, K]; None for layers not seen and where it would take too much memory."""
        moments = self._moments.get(use)
        if moments is None or moments.xx is None or not moments.count:
            return None
        return _ungrouped(moments.xx / moments.count)


def gather(
    graph: Graph,
    feeds: Iterable[Mapping[str, Array]],
    runner: Runner,
    *,
    layers: Iterable[str] | None = None,
    max_columns: int = MAX_COLUMNS,
    max_memory: int = MAX_MEMORY,
    max_rows: int | None = None,
    seed: int = 0,
) -> Statistics:
    """Run the graph on calibration data and sum up what its layers' weights multiply.

    Args:
        feeds: arrays by input name; may be a generator, one feed is held at a time.
        layers: names of nodes to look at; all linear layers when None.
        max_columns: products are left out for layers with longer rows.
        max_memory: bytes of products; the longest rows go without first.
        max_rows: of a layer and feed; by default so many that all feeds together give enough, and of feeds whose number
            is not known that ``USUAL_FEEDS`` do.
        seed: of the choice of rows where there are more.

    Raises:
        UserError: there are no feeds, or NaN and infinity turn up; the layer is named.
    """
    found = linear_layers(graph)
    wanted = found if layers is None else {name: found[name] for name in layers if name in found}
    statistics = Statistics(graph)
    for name, products in _with_products(wanted, max_columns, max_memory).items():
        layer = wanted[name]
        statistics._moments[layer.weight] = Moments(layer.groups, layer.ins, products=products)
    names = list(dict.fromkeys(layer.x.name for layer in wanted.values()))
    share = max(1, len(feeds)) if isinstance(feeds, Sequence) else USUAL_FEEDS
    for index, feed in enumerate(feeds):
        values = runner(graph, names, feed) if names else {}
        for name, layer in wanted.items():
            array = values[layer.x.name]
            limit = -(-enough_rows(layer) // share) if max_rows is None else max_rows
            picks = pick_rows(layer.count(array), limit, (seed, crc32(name.encode()), index))
            for part in blocks(picks):
                statistics._moments[layer.weight].add(finite_rows(layer, array, part, f"%{layer.x.name}"))
        statistics.samples += 1
    if not statistics.samples:
        raise UserError("there are no calibration samples", code="empty-calibration", hint="pass at least one")
    return statistics


def enough_rows(layer: LinearLayer) -> int:
    """How many rows of a layer settle its moments well enough for least squares."""
    return max(MIN_ROWS, ROWS_PER_COLUMN * layer.ins)


def _with_products(layers: Mapping[str, LinearLayer], max_columns: int, max_memory: int) -> dict[str, bool]:
    """Whether each layer's products fit; short rows first, as they are many and cheap."""
    chosen, left = dict.fromkeys(layers, False), max_memory
    for name, layer in sorted(layers.items(), key=lambda item: item[1].ins):
        need = Moments.bytes(layer.groups, layer.ins)
        if layer.ins <= max_columns and need <= left:
            chosen[name], left = True, left - need
    return chosen


def _ungrouped(array: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return array[0] if len(array) == 1 else array
