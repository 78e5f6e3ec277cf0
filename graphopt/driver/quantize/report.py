"""What quantization did: node by node, value by value, and how far results moved."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from graphopt.driver.precision.report import OutputRow
from graphopt.driver.quantize.range_table import RangeTable


@dataclass(frozen=True)
class LayerRow:
    """One node that computes on integers, or could.

    Attributes:
        node: its name.
        op: its operator.
        stored: how its weight is stored, or its data; ``float32`` for a node that stays.
        why: for those that stay ``asked``, ``accuracy`` or ``rule``; "" otherwise.
        reason: in words: why it stays, or what was done beside the usual.
        sqnr_db: signal to noise of its first result against float in dB, None where it wasn't measured.
        alone_db: signal to noise of the outputs with nothing but this node in integers, None where it wasn't measured.
        alone_with: how many others were in integers then; for these ``alone_db`` is a lower bound.
    """

    node: str
    op: str
    stored: str
    why: str = ""
    reason: str = ""
    sqnr_db: float | None = None
    alone_db: float | None = None
    alone_with: int = 0


@dataclass(frozen=True)
class ValueRow:
    """One value in integers.

    Attributes:
        name: of the float value.
        low, high: the range that it was given.
        scale: of a step.
        zero_point: what stands for zero.
        shared: how many values have the same scale and zero point, itself among them.
    """

    name: str
    low: float
    high: float
    scale: float
    zero_point: int
    shared: int


@dataclass(frozen=True)
class GoalRow:
    """What was asked of the results, and what came of it.

    Attributes:
        metric: its name, "" without one.
        before, after: the metric in float and in integers, None without one.
        asked: in words, "" where it was only measured.
        in_float, wide: how many layers went back to float, and whose data to 16 bits.
        layers: of how many; 0 where none had to.
    """

    metric: str
    before: float | None
    after: float | None
    asked: str
    in_float: int
    wide: int
    layers: int

    def __str__(self) -> str:
        parts = [f"{self.metric} {self.before:.6g} in float, {self.after:.6g} in integers"] if self.metric else []
        if self.asked:
            treated = [f"{count} of {self.layers} layers {what}" for count, what in self._treated() if count]
            parts.append(f"asked for {self.asked}: {' and '.join(treated) or 'it holds with every layer in integers'}")
        return "; ".join(parts)

    def _treated(self) -> tuple[tuple[int, str], ...]:
        return (self.in_float, "are back in float"), (self.wide, "have data in 16 bits")


@dataclass(frozen=True)
class QuantizationReport:
    """The result of ``graphopt.quantize`` besides the graph.

    Attributes:
        source: of the model.
        method: that ranges were chosen by.
        activations, weights: how they are stored, in words.
        layers: one row a node that computes on integers or could, in order.
        values: one row a value in integers.
        bytes_before, bytes_after: of constants.
        table: ranges that were used, to be written to a file, edited and used again.
        data: what results were compared on, None where they were not.
        outputs: one row a float output; empty without a comparison.
        goal: what was asked of the results, None where nothing was.
        notes: remarks.
    """

    source: str
    method: str
    activations: str
    weights: str
    layers: tuple[LayerRow, ...]
    values: tuple[ValueRow, ...]
    bytes_before: int
    bytes_after: int
    table: RangeTable
    data: str | None = None
    outputs: tuple[OutputRow, ...] = ()
    goal: GoalRow | None = None
    notes: tuple[str, ...] = ()

    @property
    def quantized(self) -> tuple[LayerRow, ...]:
        """Nodes that compute on integers."""
        return tuple(row for row in self.layers if not row.why)

    @property
    def kept(self) -> tuple[LayerRow, ...]:
        """Nodes that could, and stay in float."""
        return tuple(row for row in self.layers if row.why)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold; None stands for infinite and undefined ratios."""
        return {
            "source": self.source,
            "method": self.method,
            "activations": self.activations,
            "weights": self.weights,
            "quantized": len(self.quantized),
            "kept": len(self.kept),
            "bytes": {"before": self.bytes_before, "after": self.bytes_after},
            "data": self.data,
            "outputs": [
                {"name": row.name, "sqnr_db": _finite(row.sqnr_db), "error": _finite(row.error)} for row in self.outputs
            ],
            "goal": None
            if self.goal is None
            else {**vars(self.goal), "before": _finite(self.goal.before), "after": _finite(self.goal.after)},
            "layers": [
                {
                    "node": row.node,
                    "op": row.op,
                    "stored": row.stored,
                    "why": row.why or None,
                    "reason": row.reason or None,
                    "sqnr_db": _finite(row.sqnr_db),
                    "alone_db": _finite(row.alone_db),
                    "alone_with": row.alone_with,
                }
                for row in self.layers
            ],
            "values": [vars(row) for row in self.values],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield (
            f"{self.source} in integers: {len(self.quantized)} nodes quantized, {len(self.kept)} kept in float32, "
            f"{self.bytes_before} -> {self.bytes_after} bytes of constants"
        )
        for out in self.outputs:
            yield f"  output {out.name}: {_db(out.sqnr_db)}, relative error {out.error:.2e}"
        if self.goal is not None:
            yield f"  {self.goal}"
        for row in self.layers:
            tail = f" ({row.why or 'note'}: {row.reason})" if row.reason else ""
            sqnr = "" if row.sqnr_db is None else f", {_db(row.sqnr_db)}"
            alone = "" if row.alone_db is None else f", alone {'over ' if row.alone_with else ''}{_db(row.alone_db)}"
            yield f"  {row.node} ({row.op}): {row.stored}{sqnr}{alone}{tail}"
        yield from (f"  note: {note}" for note in self.notes)


def _db(value: float | None) -> str:
    return "no SQNR" if value is None else f"{value:.1f} dB"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
