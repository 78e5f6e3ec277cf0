"""Vectors that are computed side by side, their instructions in turn.

A long epilogue is a chain of instructions that wait for one another: a logarithm behind an exponential takes a hundred cycles, in
which a core could do several times as much. A processor overlaps iterations of a loop by itself only as far as its window reaches
(256 instructions on Zen 3), which is less than one such iteration, and LLVM hardly moves instructions from one into another. So the
statements of several vectors are written in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

from graphopt.backends.base import dialect
from graphopt.backends.base.tvm_api import IRBuilder, tirx, tirx_builder, tvm_ffi
from graphopt.backends.base.tvm_api import tirx_builder as T

Turn = TypeVar("Turn")


def ways() -> int:
    """Vectors at once.

    Behind a 1x1 convolution on Zen 3, Mish took 13, 8, 4.5 and 2.8 ms with 1 to 4 of them, and no less with 6; SiLU and GELU are
    shorter and gain from two what there is to gain. Where constants take registers too, no more than two vectors fit beside
    the twelve of SiLU: with four, Neoverse N1 spills, and takes 64 modelled cycles for 16 values instead of 60.
    """
    return 2 if dialect.current().register_operands else 4


def vectors_side_by_side(extent: int, lanes: int, body: Callable[[tirx.Expr, tirx.Expr], None]) -> None:
    """Emits loops over ``extent`` vectors, several of them an iteration.

    Args:
        extent: how many vectors. None of them may read what another one writes.
        lanes: elements of each.
        body: ``(number of the vector, lane)``, emits statements that TVM can vectorise.
    """
    at_once = ways()
    groups, rest = divmod(extent, at_once)
    if groups:
        with T.serial(0, groups) as group:
            side_by_side([group * at_once + way for way in range(at_once)], lanes, body)
    if rest:
        side_by_side([tirx.const(extent - rest + way, "int32") for way in range(rest)], lanes, body)


def side_by_side(turns: Sequence[Turn], lanes: int, body: Callable[[Turn, tirx.Expr], None]) -> None:
    """Emits ``body(turn, lane)`` for every turn in one loop over lanes."""
    loops = []
    for turn in turns:
        with IRBuilder() as builder, T.vectorized(0, lanes) as lane:
            body(turn, lane)
        loops.append(builder.get())
    with T.vectorized(0, lanes) as lane:
        written = [_statements(_with_variable(loop.body, loop.loop_var, lane)) for loop in loops]
        for in_turn in zip_longest(*written):
            for statement in in_turn:
                if statement is not None:
                    tirx_builder.add_to_parent(statement)


def _with_variable(body: Any, old: tirx.Var, new: tirx.Var) -> Any:
    return tvm_ffi.structural_map(body, (tirx.Var, lambda var: new if var.same_as(old) else var))


def _statements(body: Any) -> list[Any]:
    return [s for part in body.seq for s in _statements(part)] if isinstance(body, tirx.SeqStmt) else [body]
