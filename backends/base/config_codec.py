"""Configurations of kernels as JSON and back: frozen dataclasses of numbers, truth values, strings and others of their kind."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from graphopt.errors import InternalError, UserError, did_you_mean

T = TypeVar("T")
_SCALARS = (bool, int, float, str)


def to_json(config: Any) -> dict[str, Any]:
    """The fields of a configuration by name, nested configurations likewise."""
    return {f.name: _encoded(getattr(config, f.name)) for f in fields(config)}


def from_json(kind: type[T], data: object, where: str) -> T:
    """The configuration that ``to_json`` wrote.

    Args:
        kind: the dataclass.
        data: what a JSON file holds. Fields that have a default may be missing.
        where: what the configuration is of, for messages: ``conv2d-direct``.

    Raises:
        UserError: ``data`` is no object, has a field that ``kind`` doesn't have, lacks one, or has a value of another type.
    """
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(data, Mapping):
        raise _wrong(f"the configuration of {where} is {_shown(data)}, not an object with fields", list(known))
    for name in data:
        if name not in known:
            raise _wrong(f"{where} has no field {name!r}", list(known), did_you_mean(str(name), known))
    missing = [n for n, f in known.items() if n not in data and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise _wrong(f"the configuration of {where} lacks {', '.join(missing)}", list(known))
    hints = get_type_hints(kind)
    return kind(**{name: _decoded(hints[name], value, f"{where}, field {name!r}") for name, value in data.items()})


def _encoded(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        return to_json(value)
    if isinstance(value, tuple):
        return [_encoded(v) for v in value]
    if value is None or isinstance(value, _SCALARS):
        return value
    raise InternalError(f"a configuration holds {type(value).__name__}, which JSON can't")


def _decoded(kind: Any, value: object, where: str) -> Any:
    """``value`` as ``kind`` says."""
    if get_origin(kind) in (Union, types.UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        (kind,) = [k for k in get_args(kind) if k is not type(None)]
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        kinds = get_args(kind)
        if len(kinds) == 2 and kinds[1] is ...:
            kinds = (kinds[0],) * len(value)
        if len(kinds) == len(value):
            return tuple(_decoded(k, v, where) for k, v in zip(kinds, value))
    elif is_dataclass(kind) and isinstance(kind, type):
        return from_json(kind, value, where)
    elif isinstance(kind, type) and issubclass(kind, Enum):
        if value in [member.value for member in kind]:
            return kind(value)
        raise _wrong(f"{where}: {_shown(value)} is none of them", [str(member.value) for member in kind])
    elif kind is float and type(value) is int:
        return float(value)
    elif type(value) is kind:  # true is no number here
        return value
    raise _wrong(f"{where}: {_shown(value)} is no {getattr(kind, '__name__', kind)}", [])


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _wrong(message: str, known: list[str], hint: str | None = None) -> UserError:
    return UserError(message, code="bad-plan", hint=hint or (f"there are {', '.join(known)}" if known else None))
