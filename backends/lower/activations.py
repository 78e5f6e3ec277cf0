"""Activation functions that recurrent operators take by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.math import like
from graphopt.backends.tensors.tensor import Expr, let
from graphopt.ir.graph import Node
from graphopt.ops.context import attr
from graphopt.ops.recurrent import DIRECTIONS, default_activations

Activation: TypeAlias = Callable[[Expr], Expr]


def _below_zero(x: Expr, below: Expr) -> Expr:
    return tirx.Select(x < like(0.0, x), below, x)


_FUNCTIONS: dict[str, tuple[tuple[float, ...], Callable[..., Expr]]] = {
    "relu": ((), lambda x: _below_zero(x, like(0.0, x))),
    "tanh": ((), m.nimble_tanh),
    "sigmoid": ((), m.sigmoid),
    "softsign": ((), lambda x: x / (like(1.0, x) + tirx.abs(x))),
    "softplus": ((), m.softplus),
    "affine": ((1.0, 0.0), lambda x, a, b: x * like(a, x) + like(b, x)),
    "leakyrelu": ((0.01,), lambda x, a: _below_zero(x, x * like(a, x))),
    "thresholdedrelu": ((1.0,), lambda x, a: tirx.Select(x < like(a, x), like(0.0, x), x)),
    "scaledtanh": ((1.0, 1.0), lambda x, a, b: m.nimble_tanh(let(x * like(b, x))) * like(a, x)),
    "hardsigmoid": (
        (0.2, 0.5), lambda x, a, b: m.at_most(m.at_least(x * like(a, x) + like(b, x), like(0.0, x)), like(1.0, x)),
    ),
    "elu": ((1.0,), lambda x, a: _below_zero(x, m.expm1_below_0(x) * like(a, x))),
}  # fmt: skip
"""Default alpha and beta of each function, and the function."""


@dataclass(frozen=True)
class NamedActivation:
    """A function of the table with its parameters; called with an expression, it gives the function of it.

    Attributes:
        name: a key of the table.
        values: alpha, or alpha and beta, of a function that takes them.
    """

    name: str
    values: tuple[float, ...] = ()

    def __call__(self, x: Expr) -> Expr:
        """The function of ``x``."""
        return _FUNCTIONS[self.name][1](let(x), *self.values)


def named_activations(node: Node) -> list[tuple[NamedActivation, ...]] | str:
    """The ``activations`` of each direction of a recurrent node, or why there are none.

    Alphas and betas go to the functions that take any.
    """
    defaults, directions = default_activations(node.op), DIRECTIONS[str(attr(node, "direction") or "forward")]
    # not through the schema: its default for RNN is written out for two directions
    names = [str(n) for n in node.attrs.get("activations") or ()] or list(defaults) * directions
    if len(names) != len(defaults) * directions:
        return f"{len(names)} activations where {len(defaults) * directions} are needed"
    alphas = [float(v) for v in attr(node, "activation_alpha") or ()]
    betas = [float(v) for v in attr(node, "activation_beta") or ()]
    out = []
    for name in names:
        if name.lower() not in _FUNCTIONS:
            return f"activation {name!r} is not defined"
        values, _ = _FUNCTIONS[name.lower()]
        given = tuple(source.pop(0) if source else value for value, source in zip(values, (alphas, betas)))
        out.append(NamedActivation(name.lower(), given))
    return [tuple(out[i : i + len(defaults)]) for i in range(0, len(out), len(defaults))]


def clipped(limit: float | None) -> Activation:
    """Clamping to [-limit, limit], nothing when None."""
    if limit is None:
        return lambda x: x
    return lambda x: m.at_most(m.at_least(let(x), like(-limit, x)), like(limit, x))
