"""What each operator says of its operands' and results' channels, and what of the node itself has to follow a removal."""

from graphopt.passes.prune.rules import (  # noqa: F401  (registration)
    attention,
    contraction,
    elementwise,
    integer,
    movement,
    normalization,
    pooling,
    quantization,
    reduction,
    reshape,
    shape,
)
