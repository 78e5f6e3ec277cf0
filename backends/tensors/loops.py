"""Small pieces of TIR that nests and lowerings are written with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.schedule import NestBody
from graphopt.backends.tensors.tensor import Expr, Scope, as_expr


def loop(var: Any, extent: Expr, body: Any, kind: Any = None) -> Any:
    """A ``for`` from 0."""
    return tirx.For(var, as_expr(0), as_expr(extent), tirx.ForKind.SERIAL if kind is None else kind, body)


def lane_kind(scope: Scope) -> Any:
    """How the loop over the lanes of a body runs."""
    return tirx.ForKind.SERIAL if scope.branches else tirx.ForKind.VECTORIZED


def seq(statements: Sequence[Any]) -> Any:
    """One statement out of several."""
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))


def store_all(body: NestBody) -> list[Any]:
    """Bindings and stores of one evaluation."""
    return [
        *body.scope.statements(),
        *(tirx.BufferStore(buffer, value, [as_expr(i) for i in index]) for buffer, value, index in body.stores),
    ]
