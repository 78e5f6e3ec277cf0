"""Choices of kernels that can be written down, edited and replayed: templates and their configurations."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphopt.ir.plan_file import KERNEL_PLANS, plan_text, write_plan

GENERIC = "generic"
"""The template name of kernels by the generic schedule."""


@dataclass(frozen=True)
class KernelChoice:
    """How one kernel is computed.

    Attributes:
        signature: what the kernel computes, by which a plan knows whether it still fits.
        template: name of the template, ``generic`` for the generic schedule.
        config: its configuration as JSON; None for the template's own choice.
    """

    signature: str
    template: str
    config: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class KernelPlan:
    """Choices of kernels by the name of their anchor node. Kernels that are not in it get the default.

    Attributes:
        version: of graphopt, when the plan was written.
        target: what it was written for; empty for any.
        threads: CPU threads that it was written for; 0 for any number.
        model: digest of the graph that it was written for; empty for any.
        fitting_only: entries that fit no kernel are left out, instead of being errors.
    """

    kernels: Mapping[str, KernelChoice]
    version: str = ""
    target: str = ""
    threads: int = 0
    model: str = ""
    fitting_only: bool = False
    used: set[str] = field(default_factory=set)

    def to_json(self) -> str:
        """The plan as text, a kernel a paragraph."""
        head = {
            "format": KERNEL_PLANS.format,
            "graphopt": self.version,
            "target": self.target,
            "threads": self.threads,
            "model": self.model,
        }
        return plan_text(head, "kernels", {name: _paragraph(choice) for name, choice in self.kernels.items()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan.

        Raises:
            UserError: the file can't be written.
        """
        write_plan(path, self.to_json())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> KernelPlan:
        """The plan in a file.

        Raises:
            UserError: there is no such file, or it holds no plan.
        """
        return KernelPlan.from_json(KERNEL_PLANS.read(path), str(path))

    @staticmethod
    def from_json(text: str, source: str = "the plan") -> KernelPlan:
        """What ``to_json`` wrote.

        Raises:
            UserError: it is no plan, or one of another format.
        """
        known = {"format": str, "graphopt": str, "target": str, "threads": int, "model": str, "kernels": dict}
        data = KERNEL_PLANS.fields(text, source, known)
        kernels = {
            name: _choice(entry, f"{source}: kernel {name!r}") for name, entry in data.get("kernels", {}).items()
        }
        head = {to: data[name] for name, to in (("graphopt", "version"), *((n, n) for n in _HEAD)) if name in data}
        return KernelPlan(kernels, **head)


_HEAD = ("target", "threads", "model")


def _choice(entry: object, where: str) -> KernelChoice:
    if not isinstance(entry, dict) or not {"signature", "template"} <= set(entry) <= {
        "signature",
        "template",
        "config",
    }:
        raise KERNEL_PLANS.refused(f"{where} is no object with signature, template and config")
    if not isinstance(entry["signature"], str) or not isinstance(entry["template"], str):
        raise KERNEL_PLANS.refused(f"{where}: signature and template are text")
    config = entry.get("config")
    if config is not None and not isinstance(config, dict):
        raise KERNEL_PLANS.refused(f"{where}: its config is no object with fields")
    return KernelChoice(entry["signature"], entry["template"], config)


def _paragraph(choice: KernelChoice) -> str:
    entry = {"signature": choice.signature, "template": choice.template}
    fields = [*entry.items(), *([] if choice.config is None else [("config", choice.config)])]
    return "{\n" + ",\n".join(f"      {json.dumps(k)}: {json.dumps(v)}" for k, v in fields) + "\n    }"
