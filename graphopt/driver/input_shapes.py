"""Shapes that the user gives for inputs: parsing, and fixing or renaming the model's symbolic dimensions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from graphopt.driver.extent_range import Range, parse_range
from graphopt.errors import UserError, did_you_mean
from graphopt.ir.dims import Dim, apply, as_symbol, subs, symbol, symbols_of
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import TensorType

_NAME = re.compile(r"[A-Za-z_][\w.]*")
_KEEP = ("?", "-1", "")


ShapeSpec: TypeAlias = "str | Sequence[int | str | Range]"
"""A shape as users write it: ``"1x3xHxW"``, or numbers, names and ranges."""


def parse_shape(text: str) -> tuple[int | str | Range, ...]:
    """``"1x3xHxW"`` or ``"1,3,H,W"`` as a tuple, ``1..512@128`` as a range; an empty text is the shape of a scalar.

    Names that contain an ``x`` themselves need commas.
    """
    text = text.strip().strip("[]()")
    if not text:
        return ()
    parts = text.split(",") if "," in text else re.split(r"[xX]", text)
    return tuple(_part(p.strip()) for p in parts)


def _part(text: str) -> int | str | Range:
    return int(text) if re.fullmatch(r"-?\d+", text) else parse_range(text) or text


def apply_shapes(graph: Graph, shapes: Mapping[str, ShapeSpec]) -> None:
    """Fix or rename dimensions of the graph's inputs, or declare between what they lie, before inference.

    Raises:
        UserError: unknown input, wrong rank, malformed dimension, or contradiction with the model or with itself.
    """
    inputs = {v.name: v for v in graph.inputs}
    env: dict[str, Dim] = {}
    ranges: dict[Dim, list[tuple[str, Range]]] = {}
    for name, spec in shapes.items():
        value = inputs.get(name)
        if value is None:
            raise UserError(
                f"the model has no input called {name!r}",
                code="unknown-input",
                hint=did_you_mean(name, inputs) or f"its inputs are {', '.join(map(repr, inputs))}",
            )
        wanted = parse_shape(spec) if isinstance(spec, str) else tuple(spec)
        _match(value, wanted, env, ranges)
    renamed: dict[Dim, list[tuple[str, Range]]] = {}
    for dim, declared in ranges.items():
        renamed.setdefault(subs(dim, env), []).extend(declared)
    for dim, declared in renamed.items():
        _declare(graph, dim, declared)
    for dim in env.values():
        for symbol_ in symbols_of(dim):
            graph.reserve_symbol(symbol_)
    if not env:
        return
    for g in _graphs(graph):
        for value in g.inputs:
            if isinstance(value.type, TensorType) and value.type.shape is not None:
                value.type = TensorType(value.type.dtype, tuple(subs(d, env) for d in value.type.shape))


def _declare(graph: Graph, dim: Dim, declared: Sequence[tuple[str, Range]]) -> None:
    """Record the ranges of one dimension, each with the place where it is declared."""
    low = max(r.least for _, r in declared)
    high = min((r.high for _, r in declared if r.high is not None), default=None)
    if high is not None and low > high:
        said = ", ".join(f"{where} {r}" for where, r in declared)
        raise UserError(
            f"no extent is in all ranges of dimension {dim}: {said}", code="bad-shape",
            hint="dimensions of one name are equal in all inputs: give them one range",
        )  # fmt: skip
    likely = {r.likely: where for where, r in declared if r.likely is not None}
    if len(likely) > 1:
        raise UserError(f"dimension {dim} has several likely extents: {', '.join(map(str, likely))}", code="bad-shape")
    for number, where in likely.items():
        if number < low or (high is not None and number > high):
            raise UserError(
                f"the likely extent {number} of {where} is outside of the range {low}..{'' if high is None else high}",
                code="bad-shape", hint="give a likely extent that the range allows",
            )  # fmt: skip
    if isinstance(dim, int):
        if any(r.is_bounded for _, r in declared) and (dim < low or (high is not None and dim > high)):
            raise UserError(f"{declared[0][0]} is set to {dim}, which its range excludes", code="bad-shape")
        return
    name = as_symbol(dim)
    assert name is not None
    for number in likely:
        graph.likely[name] = number
    for where, r in declared:
        if r.is_bounded:
            why = f"{where} is declared to be {Range(r.low, r.high)}"
            graph.constraints.setdefault((apply("lt", dim, r.least), 0), why)
            if r.high is not None:
                graph.constraints.setdefault((apply("lt", r.high, dim), 0), why)


def _match(
    value: Value, wanted: tuple[int | str | Range, ...], env: dict[str, Dim], ranges: dict[Dim, list[tuple[str, Range]]]
) -> None:
    type_ = value.type
    if not isinstance(type_, TensorType):
        raise UserError(f"input {value.name!r} is {type_}, which has no shape", code="bad-shape")
    if type_.shape is None:
        dims = [_dim(d, value) for d in wanted]
        for axis, (given, dim) in enumerate(zip(wanted, dims)):
            if isinstance(given, Range) and dim is not None:
                ranges.setdefault(dim, []).append((f"dimension {axis} of input {value.name!r}", given))
        if any(d is None for d in dims):
            raise UserError(
                f"input {value.name!r} has no rank in the model, so every dimension needs a number or a name",
                code="bad-shape",
            )
        value.type = TensorType(type_.dtype, tuple(d for d in dims if d is not None))
        return
    shown = "x".join(str(d) for d in wanted)
    if len(wanted) != len(type_.shape):
        raise UserError(
            f"input {value.name!r} has rank {len(type_.shape)} ({type_}), but the shape {shown} has rank {len(wanted)}",
            code="bad-shape",
            hint="give one number or name for each dimension",
        )
    for axis, (given, declared) in enumerate(zip(wanted, type_.shape)):
        dim = _dim(given, value)
        where = f"dimension {axis} of input {value.name!r}"
        if isinstance(given, Range):
            if as_symbol(declared) is None:
                raise UserError(
                    f"{where} is {declared} in the model, not {given}", code="bad-shape",
                    hint="only symbolic dimensions have a range; export the model with this dimension dynamic",
                )  # fmt: skip
            ranges.setdefault(declared, []).append((where, given))
        if dim is None or dim == declared:
            continue
        name = as_symbol(declared)
        if name is None:
            raise UserError(
                f"dimension {axis} of input {value.name!r} is {declared} in the model, not {given}",
                code="bad-shape",
                hint="only symbolic dimensions can be set; export the model with this dimension dynamic",
            )
        if env.setdefault(name, dim) != dim:
            raise UserError(
                f"dimension {name!r} (dimension {axis} of input {value.name!r}) is set to both {env[name]} and {given}",
                code="bad-shape",
                hint="dimensions of one name are equal in all inputs",
            )


def _dim(given: int | str | Range, value: Value) -> Dim | None:
    """The dimension meant, None to leave the model's own."""
    if isinstance(given, Range):
        if given.name is None:
            return None
        given = given.name
    if isinstance(given, str) and re.fullmatch(r"\d+", given):
        given = int(given)
    if given == -1 or given in _KEEP:
        return None
    if isinstance(given, str):
        if not _NAME.fullmatch(given):
            raise UserError(
                f"{given!r} can't name a dimension of input {value.name!r}",
                code="bad-shape",
                hint="use a number, or a name like N or batch",
            )
        return symbol(given)
    if given < 0:
        raise UserError(f"dimension {given} of input {value.name!r} is negative", code="bad-shape")
    return int(given)


def _graphs(graph: Graph) -> list[Graph]:
    return [graph] + [s for n in graph.walk() for s in n.subgraphs]
