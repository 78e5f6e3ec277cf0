"""Loops over independent tasks, shared among threads, without a division by what only run time knows inside a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.register_tile import bind
from graphopt.backends.specs.window import ceil_div

Expr: TypeAlias = "tirx.Expr"

_PARTS = 64
"""Tasks that a loop of unknown length is cut into at least, where it is long enough, for threads to share them."""


def share(part: Expr, whole: Expr | int, parts: Expr | int) -> tuple[Expr, Expr | int]:
    """First element and size of one of ``parts`` parts that differ by one element at most."""
    if isinstance(whole, int) and isinstance(parts, int) and whole % parts == 0:
        return part * (whole // parts), whole // parts
    symbolic = not (isinstance(whole, int) and isinstance(parts, int))
    first = bind(tirx.floordiv(part * whole, parts), symbolic)
    return first, bind(tirx.floordiv((part + 1) * whole, parts) - first, symbolic)


def each_range(
    rows: Expr | int, length: Expr | int, parallel: bool, body: Callable[[Expr, Expr, Expr | int], None]
) -> None:
    """Emits ``body(row, first, count)`` for ranges that cover rows of symbolic length.

    Args:
        rows: how many rows there are.
        length: positions in each of them.
        parallel: whether threads share the loop; rows are cut into several ranges then if they are few.
        body: emits the code of one range.
    """
    if not parallel:
        with T.serial(0, rows) as row:
            body(bind(row), T.int64(0), length)
        return
    parts = bind(_parts_of(rows, length))
    with T.parallel(0, rows * parts) as task:
        row = bind(tirx.floordiv(task, parts))
        first, count = share(bind(task - row * parts), length, parts)
        body(row, first, count)


def each_tile(
    batch: tirx.Expr | int,
    panels: int,
    tiles: tirx.Expr | int,
    block: int,
    parallel: bool,
    task: Callable[[tirx.Expr, tirx.Expr, tirx.Expr], None],
) -> None:
    """Emits one loop over ``task(batch element, panel of the weights, tile)``.

    Neighbouring tasks share a panel. Where the inputs outgrow the cache, ``block`` tiles at a time meet all panels.

    Args:
        batch: independent problems with the same weights.
        panels: panels of the weights.
        tiles: tiles of one problem.
        block: tiles per cache block; 0 for all.
        parallel: whether threads share the loop.
        task: emits the code of one task.
    """
    if not isinstance(tiles, int) or not isinstance(batch, int):
        _each_symbolic_tile(batch, panels, tiles, block, parallel, task)
        return
    loop = T.parallel if parallel else T.serial
    if block == 0:
        with loop(0, batch * (panels * tiles)) as flat:
            rest = tirx.floormod(flat, panels * tiles)
            task(tirx.floordiv(flat, panels * tiles), tirx.floordiv(rest, tiles), tirx.floormod(rest, tiles))
        return
    blocks = -(-tiles // block)
    with loop(0, batch * (blocks * (panels * block))) as flat:
        panel = tirx.floormod(tirx.floordiv(flat, block), panels)
        rest = tirx.floordiv(flat, block * panels)
        index = tirx.floormod(rest, blocks) * block + tirx.floormod(flat, block)
        with T.If(index < tiles), T.Then():
            task(tirx.floordiv(rest, blocks), panel, index)


def _each_symbolic_tile(
    batch: Expr | int,
    panels: int,
    tiles: Expr | int,
    block: int,
    parallel: bool,
    task: Callable[[Expr, Expr, Expr], None],
) -> None:
    """`each_tile` where run time tells how many there are."""
    if block == 0:

        def of_panel(row: Expr, first: Expr, count: Expr | int) -> None:
            image, panel = bind(tirx.floordiv(row, panels)), bind(tirx.floormod(row, panels))
            with T.serial(0, count) as i:
                task(image, panel, bind(first + i))

        each_range(batch * panels, tiles, parallel, of_panel)
        return
    blocks = bind(ceil_div(tiles, block))
    rows = bind(batch * (blocks * panels))
    parts = bind(_parts_of(rows, block)) if parallel else 1
    with (T.parallel if parallel else T.serial)(0, rows * parts) as flat:
        row = bind(tirx.floordiv(flat, parts), parallel)
        rest, panel = bind(tirx.floordiv(row, panels)), bind(tirx.floormod(row, panels))
        image = bind(tirx.floordiv(rest, blocks))
        start = bind((rest - image * blocks) * block)
        first, count = share(bind(flat - row * parts), bind(tirx.min(block, tiles - start)), parts)
        with T.serial(0, count) as i:
            task(image, panel, bind(start + first + i))


def _parts_of(rows: Expr | int, length: Expr | int) -> Expr:
    """How many ranges a row is cut into, for threads to share them out evenly."""
    wanted = tirx.floordiv(tirx.max(rows, 1) + (_PARTS - 1), tirx.max(rows, 1))
    return tirx.max(tirx.min(wanted, length), 1)
