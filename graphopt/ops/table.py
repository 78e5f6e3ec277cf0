"""The filled table of operators: importing a family's module registers its operators."""

from __future__ import annotations

from graphopt.ops import (  # noqa: F401  (registration)
    attention,
    control_flow,
    conv,
    einsum,
    elementwise,
    matmul,
    movement,
    normalization,
    pool,
    quantization,
    random,
    recurrent,
    reduction,
    selection,
    shape,
    signal,
    spatial,
)
from graphopt.ops.registry import lookup, op_has_trait, registered

__all__ = ["lookup", "names", "ops_with"]


def names() -> list[str]:
    """All operators with an entry, sorted."""
    return registered()


def ops_with(trait: str) -> tuple[str, ...]:
    """All ai.onnx operators that have a trait, sorted: what a pattern or a rule is written for."""
    return tuple(op for op in registered() if op_has_trait(op, trait))
