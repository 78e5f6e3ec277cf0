"""What a user wants otherwise for some nodes and values than for the rest of a model: a file, or a list of mappings."""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeAlias

from graphopt.driver.quantize.settings import Settings, require_form, require_percentile
from graphopt.errors import UserError, did_you_mean
from graphopt.ir.graph import Graph, Node
from graphopt.passes.precision.asked import asked_nodes
from graphopt.passes.quant.parameters import IntegerForm, form_of
from graphopt.passes.quant.placement import Placement, onward
from graphopt.passes.quant.ranges import Method, Range, method_of

OverrideSource: TypeAlias = "str | os.PathLike[str] | Sequence[Mapping[str, Any]]"
"""A JSON or TOML file that holds ``overrides``, or these."""


@dataclass(frozen=True)
class Override:
    """One entry. What it doesn't say stays as it is; of several that say it the last holds.

    Attributes:
        node: name of nodes or an operator, ``*`` and ``?`` allowed. Type and method are of the data that the nodes read.
        value: name of values instead, as the report has them.
        exclude: leave the nodes in float.
        type: how data is stored: ``u8``, ``s8``, ``u16`` or ``s16``.
        symmetric: whether zero is the middle of the range; by default of signed types.
        method, percentile: how ranges are chosen.
        range: bounds for the values.
        per_channel: whether the nodes' weights have a scale for each output channel.
    """

    node: str | None = None
    value: str | None = None
    exclude: bool | None = None
    type: str | None = None
    symmetric: bool | None = None
    method: str | None = None
    percentile: float | None = None
    range: Range | None = None
    per_channel: bool | None = None

    @property
    def form(self) -> IntegerForm | None:
        """How data is stored, None where the entry doesn't say it."""
        return None if self.type is None else form_of(self.type, self.symmetric)


@dataclass
class Resolved:
    """What entries say of a placement.

    Attributes:
        forms: by the name of a value in integers.
        methods: by the name of a value whose range is chosen, with the percentile.
        ranges: by the name of such a value.
        per_channel: by the name of a node.
    """

    forms: dict[str, IntegerForm] = field(default_factory=dict)
    methods: dict[str, tuple[Method, float]] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)
    per_channel: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Overrides:
    """Entries in order."""

    entries: tuple[Override, ...] = ()

    def excluded(self, graph: Graph) -> dict[Node, str]:
        """Nodes that stay in float, with the names that they were called by.

        Raises:
            UserError: there is no node or operator of a name.
        """
        found: dict[Node, str] = {}
        for entry in self.entries:
            if entry.node is not None:
                nodes = asked_nodes(graph, [entry.node], "to override")
                if entry.exclude:
                    found.update(nodes)
                elif entry.exclude is False:
                    found = {node: item for node, item in found.items() if node not in nodes}
        return found

    def resolve(self, placement: Placement, how: Settings, *, strict: bool = True) -> Resolved:
        """What entries say of the nodes and values of a placement.

        Args:
            how: what holds where they say nothing.
            strict: refuse names of values that aren't stored in integers.

        Raises:
            UserError: there is no such value.
        """
        found = Resolved()
        for entry in self.entries:
            for name, seen in self._values(entry, placement, strict):
                if entry.form is not None:
                    require_form(how.runtime, entry.form)
                    found.forms[name] = entry.form
                if entry.method is not None or entry.percentile is not None:
                    old, percentile = found.methods.get(seen[-1], (how.method, how.percentile))
                    method = method_of(entry.method or ("percentile" if entry.percentile is not None else old.name))
                    found.methods.update(dict.fromkeys(seen, (method, entry.percentile or percentile)))
                if entry.range is not None:
                    found.ranges.update(dict.fromkeys(seen, entry.range))
            if entry.node is not None and entry.per_channel is not None:
                for node in asked_nodes(placement.graph, [entry.node], "to override"):
                    found.per_channel[node.name] = entry.per_channel
        return found

    @staticmethod
    def _values(entry: Override, placement: Placement, strict: bool) -> Iterator[tuple[str, list[str]]]:
        """Values in integers that an entry is about, with the names of those whose range may decide their scale."""
        stored = {value.name: value for group in placement.groups for value in group}
        if entry.value is not None:
            names = [name for name in stored if fnmatchcase(name, entry.value)]
            if not names and strict:
                raise UserError(
                    f"there is no value {entry.value!r} in integers to override", code="unknown-value",
                    hint=did_you_mean(entry.value, stored) or "names are those of the report; * stands for any letters",
                )  # fmt: skip
        else:
            assert entry.node is not None
            nodes = asked_nodes(placement.graph, [entry.node], "to override")
            names = list(dict.fromkeys(value.name for node in nodes for _, value in placement.operands(node)))
        for name in names:
            yield name, [value.name for value in onward(placement, stored[name])]


def read_overrides(source: OverrideSource | None) -> Overrides:
    """The entries of a file or a list.

    Raises:
        UserError: the file can't be read, or an entry says something that there isn't.
    """
    if source is None:
        return Overrides()
    if isinstance(source, (str, os.PathLike)):
        where, items = str(source), _entries(Path(source))
    else:
        where, items = "the overrides", list(source)
    return Overrides(tuple(_override(item, f"{where}: entry {i}") for i, item in enumerate(items, 1)))


def _entries(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
        data = _toml(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # of both parsers: theirs are ValueErrors
        raise _refused(f"the overrides {path} can't be read: {error}") from error
    if not isinstance(data, dict) or set(data) != {"overrides"} or not isinstance(data["overrides"], list):
        raise _refused(f"{path} holds no list of overrides and nothing else")
    return data["overrides"]


def _toml(text: str) -> Any:
    try:
        parse = importlib.import_module("tomllib").loads
    except ImportError as error:
        raise UserError(
            "TOML is read from Python 3.11 on", code="bad-overrides", hint="write the same as JSON"
        ) from error
    return parse(text)


def _override(item: Any, where: str) -> Override:
    """An entry, once it says nothing that no entry can say."""
    if not isinstance(item, Mapping):
        raise _refused(f"{where} is a {type(item).__name__}")
    for key, value in item.items():
        if key not in _KEYS:
            raise _refused(f"{where} says {key!r}", did_you_mean(str(key), _KEYS) or f"it may say {', '.join(_KEYS)}")
        if not _KEYS[key](value):
            raise _refused(f"{where}: {key} is {value!r}")
    if ("node" in item) is ("value" in item):
        raise _refused(f"{where} has to name either nodes or values")
    for key in ("exclude", "per_channel") if "value" in item else ("range",):
        if key in item:
            raise _refused(f"{where}: {key} is of {'nodes' if 'value' in item else 'values'}")
    if "symmetric" in item and "type" not in item:
        raise _refused(f"{where}: symmetric goes with a type", 'add "type": "s8", or another one')
    bounds = item.get("range")
    entry = Override(**{**item, "range": None if bounds is None else Range(float(bounds[0]), float(bounds[1]))})
    if entry.type is not None:
        form_of(entry.type, entry.symmetric)
    if entry.method is not None:
        method_of(entry.method)
    if entry.percentile is not None:
        require_percentile(entry.percentile)
    return entry


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
        and all(_is_number(bound) for bound in value) and value[0] <= value[1]
    )  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


_KEYS: Mapping[str, Callable[[Any], bool]] = {
    "node": _is_text, "value": _is_text, "exclude": _is_flag, "type": _is_text, "symmetric": _is_flag, "method": _is_text,
    "percentile": _is_number, "range": _is_range, "per_channel": _is_flag,
}  # fmt: skip


def _refused(message: str, hint: str | None = None) -> UserError:
    return UserError(
        message, code="bad-overrides",
        hint=hint or 'write {"overrides": [{"node": "head*", "type": "s16"}, {"value": "x", "range": [-1.0, 1.0]}]}',
    )  # fmt: skip
