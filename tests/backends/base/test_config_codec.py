"""Configurations as JSON: what is written comes back, and what is wrong is refused with the field's name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum

import pytest

from graphopt.backends.base.config_codec import from_json, to_json
from graphopt.errors import InternalError, UserError


class Order(Enum):
    rows = "rows"
    columns = "columns"


@dataclass(frozen=True)
class Inner:
    tile: int
    parallel: bool = True


@dataclass(frozen=True)
class Outer:
    inner: Inner
    order: Order
    scale: float
    name: str | None = None
    pair: tuple[int, int] = (1, 2)
    many: tuple[Inner, ...] = ()


FULL = Outer(Inner(3, False), Order.columns, 0.5, "x", (4, 5), (Inner(1), Inner(2)))


@pytest.mark.parametrize("config", [FULL, Outer(Inner(3), Order.rows, 1.0)])
def test_what_is_written_comes_back(config: Outer) -> None:
    again = from_json(Outer, json.loads(json.dumps(to_json(config))), "outer")
    assert again == config
    assert type(again.scale) is float


def test_defaults_may_be_left_out() -> None:
    assert from_json(Outer, {"inner": {"tile": 3}, "order": "rows", "scale": 1}, "outer") == Outer(
        Inner(3), Order.rows, 1.0
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inner": {"tile": "3"}}, r"outer, field 'inner', field 'tile': '3' is no int"),
        ({"inner": {"tile": True}}, r"field 'tile': True is no int"),
        ({"inner": {"tile": 3.0}}, r"field 'tile': 3.0 is no int"),
        ({"inner": {"tile": 3, "parallel": 1}}, r"field 'parallel': 1 is no bool"),
        ({"inner": {}}, r"lacks tile"),
        ({"inner": [3]}, r"not an object"),
        ({"inner": {"tile": 3, "paralel": True}}, r"no field 'paralel'(?s:.*)did you mean 'parallel'"),
        ({"order": "diagonal"}, r"'diagonal' is none of them(?s:.*)rows, columns"),
        ({"pair": [1, 2, 3]}, r"field 'pair'"),
        ({"name": 3}, r"3 is no str"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        from_json(Outer, {**to_json(FULL), **change}, "outer")
    assert caught.value.code == "bad-plan"


def test_what_json_cannot_hold() -> None:
    with pytest.raises(InternalError, match="set"):
        to_json(Outer({1}, Order.rows, 1.0))  # type: ignore[arg-type]
