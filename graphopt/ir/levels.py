"""The optimisation levels, in words: what a level promises of the graph, and of kernels when it is compiled."""

from __future__ import annotations

LEVELS = {
    0: "nothing; every node is a plain loop nest of its own, for bisecting",
    1: "exact but for rounding in folded constants: dead code, no-ops, common subexpressions; "
    "kernels are fused and come from templates",
    2: "rounding may differ: weights folded, well-known subgraphs recognised, transposes moved",
    3: "also what pays only sometimes: every BatchNormalization turned into arithmetic; 0 * x is 0: dead channels removed",
}
"""Each level does what those before it do. `graphopt.passes.pipelines` says by which passes."""
DEFAULT_LEVEL = 2


def levels_text() -> str:
    """All levels in one line, for messages and help texts."""
    return "; ".join(f"{level}: {text}" for level, text in LEVELS.items())
