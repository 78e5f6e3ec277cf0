"""Text form of passes: ``name{option=value,other=[a,b]}``."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.errors import UserError, did_you_mean
from graphopt.rewrite.passes import Pass, description

_FORM = re.compile(r"^\s*([A-Za-z0-9_-]+)\s*(?:\{(.*)\})?\s*$", re.DOTALL)


@dataclass(frozen=True)
class OptionInfo:
    """One option of a pass: its name as written by the user, its type, its default as text."""

    name: str
    type: str
    default: str


@dataclass(frozen=True)
class PassInfo:
    """What ``graphopt passes`` lists."""

    name: str
    description: str
    options: tuple[OptionInfo, ...]


def pass_info(cls: type[Pass]) -> PassInfo:
    """A pass and its options."""
    options = tuple(
        OptionInfo(f.name.replace("_", "-"), _type_text(_hints(cls)[f.name]), str(_default(f)))
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
    )
    return PassInfo(cls.name, description(cls), options)


def parse_spec(text: str, known: Mapping[str, type[Pass]]) -> Pass:
    """The pass that ``text`` describes, one of ``known``.

    Raises:
        UserError: malformed text, unknown pass, unknown option or bad value; with a suggestion where one is close.
    """
    form = _FORM.match(text)
    if form is None:
        raise UserError(f"{text!r} is not a pass", code="bad-pass", hint="write name or name{option=value,other=[a,b]}")
    name, body = form.group(1).replace("_", "-"), form.group(2) or ""
    if name not in known:
        raise UserError(
            f"there is no pass called {name!r}",
            code="unknown-pass",
            hint=did_you_mean(name, known) or "`graphopt passes` lists all",
        )
    cls = known[name]
    hints = {f.name: _hints(cls)[f.name] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for item in split_list(body):
        key, equals, value = item.partition("=")
        option = key.strip().replace("-", "_")
        if option not in hints:
            shown = [h.replace("_", "-") for h in hints]
            raise UserError(
                f"pass {name!r} has no option {key.strip()!r}",
                code="unknown-option",
                hint=did_you_mean(option.replace("_", "-"), shown)
                or (f"its options are {', '.join(shown)}" if shown else "it takes no options"),
            )
        if option in values:
            raise UserError(f"option {key.strip()!r} of pass {name!r} is given twice", code="bad-option")
        values[option] = _convert(name, key.strip(), hints[option], value.strip() if equals else "true")
    return cls(**values)


def split_list(text: str) -> list[str]:
    """Split at commas outside brackets and braces; empty items are dropped."""
    items, depth, start = [], 0, 0
    for i, ch in enumerate(text):
        depth += (ch in "[{") - (ch in "]}")
        if ch == "," and depth == 0:
            items.append(text[start:i])
            start = i + 1
    items.append(text[start:])
    return [item.strip() for item in items if item.strip()]


def _hints(cls: type[Pass]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _default(f: dataclasses.Field[Any]) -> object:
    return f.default_factory() if callable(f.default_factory) else f.default


def _type_text(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _convert(owner: str, option: str, hint: Any, text: str) -> Any:
    """``text`` as a value of the option's declared type."""
    args = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in (tuple, frozenset):
        inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        return origin(_convert(owner, option, args[0], item) for item in split_list(inner))
    if type(None) in args:
        if text.lower() == "none":
            return None
        return _convert(owner, option, next(a for a in args if a is not type(None)), text)
    if origin is typing.Literal:
        if text in args:
            return text
        raise _bad(owner, option, text, f"one of {', '.join(map(str, args))}", did_you_mean(text, map(str, args)))
    if hint is bool:
        if text.lower() in ("true", "1", "yes", "on"):
            return True
        if text.lower() in ("false", "0", "no", "off"):
            return False
        raise _bad(owner, option, text, "true or false")
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError as e:
            raise _bad(owner, option, text, "an integer" if hint is int else "a number") from e
    return text


def _bad(owner: str, option: str, text: str, expected: str, hint: str | None = None) -> UserError:
    return UserError(
        f"option {option!r} of pass {owner!r} must be {expected}, not {text!r}", code="bad-option", hint=hint
    )
