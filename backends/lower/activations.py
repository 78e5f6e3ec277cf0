"""Activation functions that recurrent operators take by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.registry import LowerContext
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.math import like
from graphopt.backends.tensors.tensor import Expr, let

Activation: TypeAlias = Callable[[Expr], Expr]


def _below_zero(x: Expr, below: Expr) -> Expr:
    return tirx.Select(x < like(0.0, x), below, x)


_FUNCTIONS: dict[str, tuple[tuple[float, ...], Callable[..., Expr]]] = {
    "relu": ((), lambda x: _below_zero(x, like(0.0, x))),
    "tanh": ((), m.tanh),
    "sigmoid": ((), m.sigmoid),
    "softsign": ((), lambda x: x / (like(1.0, x) + tirx.abs(x))),
    "softplus": ((), m.softplus),
    "affine": ((1.0, 0.0), lambda x, a, b: x * like(a, x) + like(b, x)),
    "leakyrelu": ((0.01,), lambda x, a: _below_zero(x, x * like(a, x))),
    "thresholdedrelu": ((1.0,), lambda x, a: tirx.Select(x < like(a, x), like(0.0, x), x)),
    "scaledtanh": ((1.0, 1.0), lambda x, a, b: m.tanh(let(x * like(b, x))) * like(a, x)),
    "hardsigmoid": (
        (0.2, 0.5), lambda x, a, b: m.at_most(m.at_least(x * like(a, x) + like(b, x), like(0.0, x)), like(1.0, x)),
    ),
    "elu": ((1.0,), lambda x, a: _below_zero(x, m.expm1(x) * like(a, x))),
}  # fmt: skip
"""Default alpha and beta of each function, and the function."""


def named_activations(c: LowerContext, defaults: Sequence[str], directions: int) -> list[Activation]:
    """The node's ``activations``, all directions in order; alphas and betas go to the functions that take any."""
    # not through the schema: its default for RNN is written out for two directions
    names = [str(n) for n in c.node.attrs.get("activations") or ()] or list(defaults) * directions
    if len(names) != len(defaults) * directions:
        raise c.invalid(f"{len(names)} activations where {len(defaults) * directions} are needed")
    alphas = [float(v) for v in c.attr("activation_alpha") or ()]
    betas = [float(v) for v in c.attr("activation_beta") or ()]
    out: list[Activation] = []
    for name in names:
        if name.lower() not in _FUNCTIONS:
            raise c.invalid(f"activation {name!r} is not defined")
        values, fn = _FUNCTIONS[name.lower()]
        given = [source.pop(0) if source else value for value, source in zip(values, (alphas, betas))]
        out.append(_applied(fn, given))
    return out


def _applied(fn: Callable[..., Expr], values: Sequence[float]) -> Activation:
    return lambda x: fn(let(x), *values)


def clipped(limit: float | None) -> Activation:
    """Clamping to [-limit, limit], nothing when None."""
    if limit is None:
        return lambda x: x
    return lambda x: m.at_most(m.at_least(let(x), like(-limit, x)), like(limit, x))
