"""What a conversion to 16 bits did: node by node, and how far results moved."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from graphopt.ir.precision_choices import PrecisionChoices


@dataclass(frozen=True)
class NodeRow:
    """One node that reads or makes floats.

    Attributes:
        node: its name.
        op: its operator.
        precision: what it computes in, ``float16``, ``bfloat16`` or ``float32``.
        why: for float32: ``asked``, ``data``, ``sensitivity``, ``plan``, ``rule`` or ``schema``; "" otherwise.
        reason: in words.
        sqnr_db: signal to noise of its first float result against float32, in dB, over all inputs tried; infinite where
            nothing changed, None without data and for what can't be compared.
    """

    node: str
    op: str
    precision: str
    why: str = ""
    reason: str = ""
    sqnr_db: float | None = None


@dataclass(frozen=True)
class OutputRow:
    """One float output of the graph.

    Attributes:
        name: of the output.
        sqnr_db: signal to noise against float32 in dB, infinite where nothing changed.
        error: relative L2 error against float32.
    """

    name: str
    sqnr_db: float | None
    error: float


@dataclass(frozen=True)
class ConversionReport:
    """The result of ``graphopt.convert`` besides the graph.

    Attributes:
        source: of the model.
        precision: what was asked for, ``fp16`` or ``bf16``.
        io: whether inputs and outputs kept float32.
        nodes: one row a node that reads or makes floats, in order.
        casts: Casts that were put in.
        bytes_before, bytes_after: of constants.
        data: what results were compared on, None where they were not.
        outputs: one row a float output; empty without data.
        max_error: the largest relative L2 error of an output that was asked for, None without.
        notes: remarks.
        level: at which the graph was optimised before.
        model: digest of the graph before that.
    """

    source: str
    precision: str
    io: str
    nodes: tuple[NodeRow, ...]
    casts: int
    bytes_before: int
    bytes_after: int
    data: str | None = None
    outputs: tuple[OutputRow, ...] = ()
    max_error: float | None = None
    notes: tuple[str, ...] = ()
    level: int | None = None
    model: str = ""

    @property
    def plan(self) -> PrecisionChoices:
        """What every node computes in, to be written to a file, edited and replayed without data."""
        from importlib.metadata import version

        nodes = {row.node: row.precision for row in self.nodes}
        return PrecisionChoices(nodes, self.precision, self.io, self.level, self.model, version("graphopt"))

    @property
    def converted(self) -> tuple[NodeRow, ...]:
        """Nodes in 16 bits."""
        return tuple(row for row in self.nodes if not row.why)

    @property
    def kept(self) -> tuple[NodeRow, ...]:
        """Nodes in float32."""
        return tuple(row for row in self.nodes if row.why)

    @property
    def error(self) -> float | None:
        """The largest relative L2 error of an output, None without data."""
        return max((row.error for row in self.outputs), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold; None stands for infinite and undefined ratios."""
        return {
            "source": self.source,
            "precision": self.precision,
            "io": self.io,
            "converted": len(self.converted),
            "kept": len(self.kept),
            "casts": self.casts,
            "bytes": {"before": self.bytes_before, "after": self.bytes_after},
            "data": self.data,
            "max_error": self.max_error,
            "outputs": [
                {"name": row.name, "sqnr_db": _finite(row.sqnr_db), "error": _finite(row.error)} for row in self.outputs
            ],
            "nodes": [
                {
                    "node": row.node,
                    "op": row.op,
                    "precision": row.precision,
                    "why": row.why or None,
                    "reason": row.reason or None,
                    "sqnr_db": _finite(row.sqnr_db),
                }
                for row in self.nodes
            ],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield (
            f"{self.source} in {self.precision}: {len(self.converted)} nodes converted, {len(self.kept)} kept in float32, "
            f"{self.casts} casts, {self.bytes_before} -> {self.bytes_after} bytes of constants"
        )
        for out in self.outputs:
            yield f"  output {out.name}: {_db(out.sqnr_db)}, relative error {out.error:.2e}"
        for row in self.nodes:
            tail = f" ({row.why}: {row.reason})" if row.why else ""
            sqnr = "" if row.sqnr_db is None else f", {_db(row.sqnr_db)}"
            yield f"  {row.node} ({row.op}): {row.precision}{sqnr}{tail}"
        yield from (f"  note: {note}" for note in self.notes)


def _db(value: float | None) -> str:
    return "no SQNR" if value is None else f"{value:.1f} dB"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
