"""Shapes that the user gives for inputs: parsing, and fixing or renaming the model's symbolic dimensions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from graphopt.errors import UserError, did_you_mean
from graphopt.ir.dims import Dim, as_symbol, subs, symbol, symbols_of
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import TensorType

_NAME = re.compile(r"[A-Za-z_][\w.]*")
_KEEP = ("?", "-1", "")


def parse_shape(text: str) -> tuple[int | str, ...]:
    """``"1x3xHxW"`` or ``"1,3,H,W"`` as a tuple; an empty text is the shape of a scalar.

    Names that contain an ``x`` themselves need commas.
    """
    text = text.strip().strip("[]()")
    if not text:
        return ()
    parts = text.split(",") if "," in text else re.split(r"[xX]", text)
    return tuple(int(p) if re.fullmatch(r"-?\d+", p.strip()) else p.strip() for p in parts)


def apply_shapes(graph: Graph, shapes: Mapping[str, str | Sequence[int | str]]) -> None:
    """Fix or rename dimensions of the graph's inputs before inference.

    Raises:
        UserError: unknown input, wrong rank, malformed dimension, or contradiction with the model or with itself.
    """
    inputs = {v.name: v for v in graph.inputs}
    env: dict[str, Dim] = {}
    for name, spec in shapes.items():
        value = inputs.get(name)
        if value is None:
            raise UserError(
                f"the model has no input called {name!r}",
                code="unknown-input",
                hint=did_you_mean(name, inputs) or f"its inputs are {', '.join(map(repr, inputs))}",
            )
        wanted = parse_shape(spec) if isinstance(spec, str) else tuple(spec)
        _match(value, wanted, env)
    for dim in env.values():
        for symbol_ in symbols_of(dim):
            graph.reserve_symbol(symbol_)
    if not env:
        return
    for g in _graphs(graph):
        for value in g.inputs:
            if isinstance(value.type, TensorType) and value.type.shape is not None:
                value.type = TensorType(value.type.dtype, tuple(subs(d, env) for d in value.type.shape))


def _match(value: Value, wanted: tuple[int | str, ...], env: dict[str, Dim]) -> None:
    type_ = value.type
    if not isinstance(type_, TensorType):
        raise UserError(f"input {value.name!r} is {type_}, which has no shape", code="bad-shape")
    if type_.shape is None:
        dims = [_dim(d, value) for d in wanted]
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


def _dim(given: int | str, value: Value) -> Dim | None:
    """The dimension meant, None to leave the model's own."""
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
