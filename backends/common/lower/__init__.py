"""How ai.onnx operators become lazy tensors, one file per family. Importing the package fills the table."""

from graphopt.backends.common.lower import (
    arithmetic,
    casts,
    einsum,
    linear,
    logic,
    movement,
    nonlinear,
    normalization,
    pool,
    quantize,
    recurrent,
    reduce,
    scan,
    softmax,
)

__all__ = [
    "arithmetic",
    "casts",
    "einsum",
    "linear",
    "logic",
    "movement",
    "nonlinear",
    "normalization",
    "pool",
    "quantize",
    "recurrent",
    "reduce",
    "scan",
    "softmax",
]
