"""Choices of precisions that can be written down, edited and replayed: what each node of a graph computes in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from graphopt.errors import did_you_mean
from graphopt.ir.kernel_plan import KernelPlan
from graphopt.ir.levels import LEVELS, levels_text
from graphopt.ir.plan_file import KERNEL_PLANS, PRECISION_PLANS, plan_text, write_plan

WIDE = "float32"
"""The entry of a node that stays as it is."""
_NARROW = {"fp16": "float16", "bf16": "bfloat16"}
"""The entry of a node in 16 bits, by precision."""
_IO = ("keep", "cast")


@dataclass(frozen=True, eq=False)
class PrecisionChoices:
    """What nodes compute in by their name, those in branches and loops included. Nodes that are not in it are decided by rule.

    Attributes:
        nodes: ``float32``, or the 16-bit type of ``precision``: ``float16`` or ``bfloat16``.
        precision: ``fp16`` or ``bf16``; empty for the one that is asked for beside the plan.
        io: ``keep``: inputs and outputs stay float32; ``cast``: they are in 16 bits too; empty for either.
        level: the graph has its nodes after this level of optimisation; None for any.
        model: digest of the graph that it was written for; empty for any.
        version: of graphopt, when the plan was written.
        fitting_only: entries that fit no node are left out, instead of being errors.
    """

    nodes: Mapping[str, str]
    precision: str = ""
    io: str = ""
    level: int | None = None
    model: str = ""
    version: str = ""
    fitting_only: bool = False

    def to_json(self) -> str:
        """The plan as text, a node a line."""
        head = {
            "format": PRECISION_PLANS.format,
            "graphopt": self.version,
            "precision": self.precision,
            "io": self.io,
            "level": self.level,
            "model": self.model,
        }
        given = {name: value for name, value in head.items() if value not in ("", None)}
        return plan_text(given, "nodes", {name: json.dumps(entry) for name, entry in self.nodes.items()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan.

        Raises:
            UserError: the file can't be written.
        """
        write_plan(path, self.to_json())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> PrecisionChoices:
        """The plan in a file.

        Raises:
            UserError: there is no such file, or it holds no plan of precisions.
        """
        return PrecisionChoices.from_json(PRECISION_PLANS.read(path), str(path))

    @staticmethod
    def from_json(text: str, source: str = "the plan") -> PrecisionChoices:
        """What ``to_json`` wrote, or a user made of it.

        Raises:
            UserError: it is no plan of precisions, or one of another format.
        """
        known = {"format": str, "graphopt": str, "precision": str, "io": str, "level": int, "model": str, "nodes": dict}
        data = PRECISION_PLANS.fields(text, source, known)
        plan = PrecisionChoices(
            data.get("nodes", {}), data.get("precision", ""), data.get("io", ""), data.get("level"), data.get("model", ""),
            data.get("graphopt", ""),
        )  # fmt: skip
        return plan.checked(source)

    def checked(self, source: str = "the plan") -> PrecisionChoices:
        """The plan, once it says nothing that no plan can say: it may come from a file, or from a caller's own hands.

        Raises:
            UserError: with the field or the node.
        """
        for name, value, allowed in (("precision", self.precision, tuple(_NARROW)), ("io", self.io, _IO)):
            if value and value not in allowed:
                raise PRECISION_PLANS.refused(
                    f"{source}: {name!r} is {value!r}", did_you_mean(value, allowed) or f"write {' or '.join(allowed)}"
                )
        if self.level is not None and self.level not in LEVELS:
            raise PRECISION_PLANS.refused(f"{source}: there is no optimisation level {self.level}", levels_text())
        entries = (_NARROW[self.precision], WIDE) if self.precision else (*_NARROW.values(), WIDE)
        for name, entry in self.nodes.items():
            if not isinstance(entry, str) or entry not in entries:
                of = f" of {self.precision}" if self.precision else ""
                raise PRECISION_PLANS.refused(
                    f"{source}: node {name!r} is in {entry!r}; nodes of a plan{of} are in {' or '.join(entries)}",
                    f"write {' or '.join(map(json.dumps, entries))}, or leave the line out to let rules decide",
                )
        return self


PrecisionSource: TypeAlias = "str | os.PathLike[str] | PrecisionChoices"
"""What ``precision`` may be where a model is compiled: ``"fp16"``, ``"bf16"``, or a plan or its file."""


def is_plan_file(precision: object) -> bool:
    """Whether it names a file and not a precision: a path, or text that ends in ``.json``."""
    return isinstance(precision, os.PathLike) or (isinstance(precision, str) and precision.endswith(".json"))


def read_precision(precision: PrecisionSource | None) -> str | PrecisionChoices | None:
    """A precision as it is, and the plan that it names.

    Raises:
        UserError: the file can't be read or holds no plan of precisions, or the plan doesn't say of which precision it is.
    """
    if precision is None or (isinstance(precision, str) and not is_plan_file(precision)):
        return precision
    plan = precision_choices(precision)
    if not plan.precision:
        raise PRECISION_PLANS.refused(
            "the plan doesn't say of which precision it is",
            'add the line "precision": "fp16" or "precision": "bf16" to it',
        )
    return plan


def precision_choices(plan: PrecisionSource) -> PrecisionChoices:
    """A plan, or the one in a file.

    Raises:
        UserError: the file can't be read, or it is no plan of precisions.
    """
    if isinstance(plan, KernelPlan):
        raise KERNEL_PLANS.mistaken(PRECISION_PLANS)
    return plan.checked() if isinstance(plan, PrecisionChoices) else PrecisionChoices.load(plan)


def casts_edges(precision: PrecisionSource | None) -> bool:
    """Whether it is a plan that has inputs and outputs in 16 bits too."""
    return isinstance(precision, PrecisionChoices) and precision.io == "cast"


def precision_name(precision: str | PrecisionChoices | None) -> str | None:
    """``fp16`` or ``bf16``, whether it was given as such or by a plan."""
    return precision.precision if isinstance(precision, PrecisionChoices) else precision
