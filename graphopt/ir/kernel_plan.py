"""Choices of kernels that can be written down, edited and replayed: templates and their configurations."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphopt.errors import UserError
from graphopt.whole_files import whole_files

FORMAT = "graphopt-plan-1"
GENERIC = "generic"
"""The template name of kernels by the generic schedule."""
_REWRITE = "write a new one with graphopt compile --write-plan"


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
            "format": FORMAT,
            "graphopt": self.version,
            "target": self.target,
            "threads": self.threads,
            "model": self.model,
        }
        kernels = {
            name: {
                "signature": c.signature,
                "template": c.template,
                **({} if c.config is None else {"config": c.config}),
            }
            for name, c in self.kernels.items()
        }
        lines = [f"  {json.dumps(k)}: {json.dumps(v)}," for k, v in head.items()]
        rows = []
        for name, entry in kernels.items():
            fields = ",\n".join(f"      {json.dumps(k)}: {json.dumps(v)}" for k, v in entry.items())
            rows.append(f"    {json.dumps(name)}: {{\n{fields}\n    }}")
        return "{\n" + "\n".join(lines) + '\n  "kernels": {\n' + ",\n".join(rows) + "\n  }\n}\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan."""
        with whole_files(Path(path).parent, [Path(path).name]) as folder:
            (folder / Path(path).name).write_text(self.to_json(), encoding="utf-8")

    @staticmethod
    def load(path: str | os.PathLike[str]) -> KernelPlan:
        """The plan in a file.

        Raises:
            UserError: there is no such file, or it holds no plan.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise _bad(f"the plan {path} can't be read: {e}") from e
        return KernelPlan.from_json(text, str(path))

    @staticmethod
    def from_json(text: str, source: str = "the plan") -> KernelPlan:
        """What ``to_json`` wrote.

        Raises:
            UserError: it is no plan, or one of another format.
        """
        try:
            data = json.loads(text, object_pairs_hook=_distinct)
        except (ValueError, RecursionError) as e:
            raise _bad(f"{source} is no JSON: {e}") from e
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise _bad(f"{source} is no plan of the format {FORMAT}")
        known = {"format": str, "graphopt": str, "target": str, "threads": int, "model": str, "kernels": dict}
        for name, value in data.items():
            if name not in known:
                raise _bad(f"{source}: a plan has no {name!r}; it has {', '.join(known)}")
            if type(value) is not known[name]:
                raise _bad(f"{source}: {name!r} is no {known[name].__name__}")
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
        raise _bad(f"{where} is no object with signature, template and config")
    if not isinstance(entry["signature"], str) or not isinstance(entry["template"], str):
        raise _bad(f"{where}: signature and template are text")
    config = entry.get("config")
    if config is not None and not isinstance(config, dict):
        raise _bad(f"{where}: its config is no object with fields")
    return KernelChoice(entry["signature"], entry["template"], config)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands there twice")
        found[name] = value
    return found


def _bad(message: str) -> UserError:
    return UserError(message, code="bad-plan", hint=_REWRITE)
