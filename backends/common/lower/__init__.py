"""How ai.onnx operators become lazy tensors, one file per family. Importing the package fills the table."""

from graphopt.backends.common.lower import (
    arithmetic,
    casts,
    linear,
    logic,
    movement,
    nonlinear,
    normalization,
    pool,
    recurrent,
    reduce,
    scan,
    softmax,
)

__all__ = [
    "arithmetic",
    "casts",
    "linear",
    "logic",
    "movement",
    "nonlinear",
    "normalization",
    "pool",
    "recurrent",
    "reduce",
    "scan",
    "softmax",
]
