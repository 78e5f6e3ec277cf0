"""Ranges of values that can be written down, edited and used again without data."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.errors import UserError, did_you_mean
from graphopt.ir.graph import Graph
from graphopt.ir.plan_file import RANGE_TABLES, plan_text, write_plan
from graphopt.passes.quant.ranges import Range


@dataclass(frozen=True, eq=False)
class RangeTable:
    """Ranges by the name of the value.

    Attributes:
        ranges: each holds zero once it is used.
        method: that they were chosen by; empty where nobody says.
        level: of optimisation, after which values have these names; None where nobody says.
        version: of graphopt, when the table was written.
    """

    ranges: Mapping[str, Range]
    method: str = ""
    level: int | None = None
    version: str = ""

    def to_json(self) -> str:
        """The table as text, a value a line."""
        head = {"format": RANGE_TABLES.format, "graphopt": self.version, "method": self.method, "level": self.level}
        given = {name: value for name, value in head.items() if value not in ("", None)}
        rows = {name: json.dumps({"low": r.low, "high": r.high}) for name, r in self.ranges.items()}
        return plan_text(given, "values", rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table, complete or not at all.

        Raises:
            UserError: the file can't be written.
        """
        write_plan(path, self.to_json())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> RangeTable:
        """The table in a file.

        Raises:
            UserError: there is no such file, or it holds no table of ranges.
        """
        return RangeTable.from_json(RANGE_TABLES.read(path), str(path))

    @staticmethod
    def from_json(text: str, source: str = "the table") -> RangeTable:
        """What ``to_json`` wrote, or a user made of it.

        Raises:
            UserError: it is no table of ranges, or a range has no finite bounds in order.
        """
        known = {"format": str, "graphopt": str, "method": str, "level": int, "values": dict}
        data = RANGE_TABLES.fields(text, source, known)
        ranges = {name: _range(name, entry, source) for name, entry in data.get("values", {}).items()}
        return RangeTable(ranges, data.get("method", ""), data.get("level"), data.get("graphopt", ""))

    def require_fit(self, graph: Graph, level: int) -> None:
        """Refuse a table for another level of optimisation, and names that no value of the graph has.

        Raises:
            UserError: with the nearest name that there is.
        """
        if self.level is not None and self.level != level:
            raise UserError(
                f"the table was written at -O{self.level}, and values are others at -O{level}", code="plan-does-not-fit",
                hint=f"give -O{self.level}, or write a new table",
            )  # fmt: skip
        names = {v.name for v in graph.inputs}
        for node in graph.walk():
            names.update(v.name for v in node.outputs if v is not None)
            names.update(v.name for body in node.subgraphs for v in body.inputs)
        for name in self.ranges:
            if name not in names:
                raise UserError(
                    f"the table has a range for %{name}, and the graph has no such value", code="plan-does-not-fit",
                    hint=did_you_mean(name, names) or "write a new one with graphopt quantize --write-table",
                )  # fmt: skip


def _range(name: str, entry: object, source: str) -> Range:
    if isinstance(entry, dict) and set(entry) == {"low", "high"}:
        low, high = entry["low"], entry["high"]
        if all(type(bound) in (int, float) and math.isfinite(bound) for bound in (low, high)) and low <= high:
            return Range(float(low), float(high))
    raise RANGE_TABLES.refused(
        f"{source}: the range of %{name} is {json.dumps(entry)}",
        'write {"low": -1.0, "high": 1.0}, the lower bound first',
    )
