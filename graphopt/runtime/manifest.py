"""The form of a manifest, field by field, checked before anybody reads it: an artefact may come from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.target import MORE_ARCHES
from graphopt.backends.targets.platforms import CPUS, PLATFORMS
from graphopt.ir.atoms import FUNCTIONS
from graphopt.ir.dtypes import DType

MAX_DEPTH = 64
"""Dimensions nested deeper than this are damage; reading them would exhaust the stack."""
_INT64 = 1 << 63


@dataclass(frozen=True)
class Integer:
    """A whole number between two bounds; JSON's true and false are none."""

    least: int = -_INT64
    most: int = _INT64 - 1


@dataclass(frozen=True)
class Number:
    """A number between two bounds, whole or not; JSON's true and false are none, nor is what no JSON should have: NaN."""

    least: float
    most: float


@dataclass(frozen=True)
class OneOf:
    """One of these texts."""

    texts: frozenset[str]


@dataclass(frozen=True)
class Dimension:
    """A dimension in the form of ``graphopt.runtime.signature.dim_to_json``."""


@dataclass(frozen=True)
class Named:
    """An object whose fields have names that the writer chose, and all the same form."""

    form: Form


@dataclass(frozen=True)
class Optional:
    """A field that may be left out, or null."""

    form: Form


Form: TypeAlias = (
    "type | Integer | Number | OneOf | Dimension | Named | Optional | list[Any] | tuple[Any, ...] | Mapping[str, Any]"
)
"""A Python type; a list of one form for arrays of it; a tuple for an array of exactly these; a mapping for an object."""

_SIZE = Integer(0, (1 << 62) - 1)
_DTYPES = OneOf(frozenset(str(d) for d in DType if d is not DType.other))
_TENSOR = {"name": str, "dtype": _DTYPES, "shape": [Dimension()]}
_TVM_KINDS = OneOf(frozenset(platform.tvm_kind for platform in PLATFORMS.values()))
_HOST_KINDS = OneOf(frozenset(platform.tvm_kind for platform in CPUS))
_TVM_TARGET = {
    "kind": _TVM_KINDS,
    "mcpu": Optional(str),
    "mattr": Optional([str]),
    "arch": Optional(str),
    MORE_ARCHES: Optional([str]),
}
_CAPS_FORMS: Mapping[str, Form] = {"bool": bool, "float": Number(0, 1 << 20)}
_CAPS = {field.name: Optional(_CAPS_FORMS.get(str(field.type), _SIZE)) for field in fields(Caps)}

FILE_FORM: Mapping[str, Any] = {
    "versions": Optional({"graphopt": Optional(str), "tvm": Optional(str), "tvm-ffi": Optional(str)}),
    "sections": {name: {"offset": _SIZE, "size": _SIZE, "blake3": str} for name in ("library", "constants")},
    "constants": [
        {
            "dtype": str, "shape": [_SIZE], "offset": _SIZE, "nbytes": _SIZE,
            "encoding": Optional(str), "kept": Optional(_SIZE),
        }
    ],
}  # fmt: skip
"""What every artefact has."""

MODEL_FORM: Mapping[str, Any] = {
    "signature": {"inputs": [_TENSOR], "outputs": [_TENSOR], "constraints": [(Dimension(), Dimension(), str)]},
    "source": {"name": str, "sha256": Optional(str)},
    "target": {
        "name": str,
        "kind": OneOf(frozenset(PLATFORMS)),
        "config": _TVM_TARGET,
        "host": {**_TVM_TARGET, "kind": _HOST_KINDS, "mtriple": str},
        "caps": _CAPS,
    },
    "threads": Integer(1, 1 << 16),
    "needs": Optional([str]),
    "kernels": Optional([
        {
            "function": str, "label": str, "template": Optional(str), "config": Optional(str), "shapes": Optional(str),
            "flops": Optional(Integer()), "bytes": Optional(Integer()), "written": Optional(Integer()),
        }
    ]),
    "waits": Optional(bool),
    "states": Optional([{"past": _TENSOR, "present": str, "axis": Integer(0, 64), "appended": Dimension()}]),
    "device": Optional({"code": [{"arch": str, "bytes": _SIZE}], "kernels": Named(Named(Named(_SIZE)))}),
}  # fmt: skip
"""What the artefact of a model has besides."""


def require(data: Any, form: Form, place: str = "") -> None:
    """Refuse data of another form. Fields that the form doesn't name are allowed.

    Args:
        data: what JSON gave.
        form: what it should be.
        place: of the data in the document, for the message.

    Raises:
        ValueError: the first field that is missing or of another kind.
    """
    if isinstance(form, Optional):
        if data is not None:
            require(data, form.form, place)
    elif isinstance(form, Named):
        _is(isinstance(data, dict), place, data, "an object")
        for key, item in data.items():
            require(item, form.form, _inside(place, key))
    elif isinstance(form, Mapping):
        _is(isinstance(data, dict), place, data, "an object")
        for key, part in form.items():
            if key not in data and not isinstance(part, Optional):
                raise ValueError(f"{_inside(place, key)} is missing")
            require(data.get(key), part, _inside(place, key))
    elif isinstance(form, list):
        _is(isinstance(data, list), place, data, "a list")
        for i, item in enumerate(data):
            require(item, form[0], f"{place}[{i}]")
    elif isinstance(form, tuple):
        _is(isinstance(data, list) and len(data) == len(form), place, data, f"a list of {len(form)}")
        for i, (item, part) in enumerate(zip(data, form)):
            require(item, part, f"{place}[{i}]")
    elif isinstance(form, Integer):
        whole = isinstance(data, int) and not isinstance(data, bool)
        _is(whole and form.least <= data <= form.most, place, data, f"a whole number from {form.least} to {form.most}")
    elif isinstance(form, Number):
        number = isinstance(data, (int, float)) and not isinstance(data, bool)
        _is(number and form.least <= data <= form.most, place, data, f"a number from {form.least} to {form.most}")
    elif isinstance(form, OneOf):
        _is(isinstance(data, str) and data in form.texts, place, data, f"one of {', '.join(sorted(form.texts))}")
    elif isinstance(form, Dimension):
        _dimension(data, place, 0)
    else:
        _is(isinstance(data, form), place, data, {str: "text", bool: "true or false"}.get(form, form.__name__))


def _dimension(data: Any, place: str, depth: int) -> None:
    if not isinstance(data, list):
        require(data, Integer(), place)
        return
    if depth > MAX_DEPTH:
        raise ValueError(f"{place} is nested too deep")
    for term in data:
        _is(isinstance(term, list) and len(term) == 2 and isinstance(term[1], list), place, term, "a term")
        require(term[0], Integer(), place)
        for atom in term[1]:
            if isinstance(atom, dict):
                require(atom.get("fn"), OneOf(frozenset(FUNCTIONS)), place)
                arguments: Any = atom.get("args")
                _is(isinstance(arguments, list), place, arguments, "a list of arguments")
                for argument in arguments or ():
                    _dimension(argument, place, depth + 1)
            else:
                _is(isinstance(atom, str) and atom != "", place, atom, "a symbol or function")


def _inside(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _is(right: bool, place: str, data: Any, what: str) -> None:
    if not right:
        shown = repr(data)
        raise ValueError(f"{place or 'the manifest'} is {shown if len(shown) < 60 else shown[:57] + '...'}, not {what}")
