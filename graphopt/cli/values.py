"""What ``--value`` gives: inputs that always have the same value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphopt.cli.options import pairs
from graphopt.errors import UserError


def values_of(items: Sequence[str] | None) -> dict[str, Any]:
    """What ``--value`` gave: numbers, lists of them, or the array of a ``.npy`` file.

    Raises:
        UserError: neither a number nor a readable file.
    """
    found: dict[str, Any] = {}
    for name, text in pairs("--value", items, "sr=16000").items():
        if text.endswith(".npy"):
            from graphopt.cli.arrays import load_arrays  # needs numpy, which most commands can do without

            found.update(load_arrays({name: Path(text)}))
            continue
        parts = [_number(part.strip()) for part in text.strip("[]").split(",")] if text.strip("[]") else []
        if None in parts:
            raise UserError(
                f"--value {name}={text}: {text!r} is no number", code="bad-option",
                hint=f"write --value {name}=16000, {name}=1,2,3, {name}=true, or {name}=FILE.npy",
            )  # fmt: skip
        found[name] = parts[0] if len(parts) == 1 and "[" not in text else parts
    return found


def _number(text: str) -> int | float | bool | None:
    """A number, or a truth value; None when it is neither."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
