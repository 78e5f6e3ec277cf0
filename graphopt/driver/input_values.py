"""Inputs that the user fixes to a value, so that what depends on them folds away (a sampling rate, a mode flag)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.errors import UserError, did_you_mean
from graphopt.ir.dims import Dim, as_symbol, subs
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import TensorType


def fix_values(graph: Graph, values: Mapping[str, Any]) -> None:
    """Turn the named inputs into constants; they are no inputs of the compiled model any more.

    Symbolic dimensions of a fixed input take the extents of its value in all inputs. ``graph.fixed`` keeps the values, for
    whoever runs the model as it came.

    Raises:
        UserError: unknown input, or a value of another dtype or shape.
    """
    inputs = {v.name: v for v in graph.inputs}
    env: dict[str, Dim] = {}
    for name, given in values.items():
        if name not in inputs:
            raise UserError(
                f"the model has no input called {name!r}",
                code="unknown-input",
                hint=did_you_mean(name, inputs) or f"its inputs are {', '.join(map(repr, inputs))}",
            )
        _fix(graph, inputs[name], given, env)
    for value in graph.inputs:
        if isinstance(value.type, TensorType) and value.type.shape is not None:
            value.type = TensorType(value.type.dtype, tuple(subs(d, env) for d in value.type.shape))


def _fix(graph: Graph, value: Value, given: Any, env: dict[str, Dim]) -> None:
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.dtype.bits == 0:
        raise UserError(f"input {value.name!r} is {type_}; only tensors of numbers can be fixed", code="bad-value")
    array = np.asarray(given)
    exact = array.astype(type_.dtype.numpy)
    if array.dtype.kind not in "biuf" or (exact.astype(np.float64) != array.astype(np.float64)).any():
        raise UserError(
            f"input {value.name!r} is {type_.dtype} and can't be fixed to {given!r}", code="bad-value",
            hint="give numbers that the input's element type can hold",
        )  # fmt: skip
    if type_.shape is not None:
        if len(type_.shape) != exact.ndim and exact.size == 1:
            exact = exact.reshape([1] * len(type_.shape))
        fits = len(type_.shape) == exact.ndim
        for extent, declared in zip(exact.shape, type_.shape):
            name = as_symbol(declared)
            fits = fits and (env.setdefault(name, extent) if name else declared) == extent
        if not fits:
            raise UserError(
                f"input {value.name!r} is {type_}, the value has shape {list(np.shape(given))}", code="bad-value",
                hint="give a value of the input's shape",
            )  # fmt: skip
    Editor(graph).fix_input(value, exact)
    graph.fixed[value.name] = exact
