"""Tiles near padding that is wider than they are, under kernels of many elements: each point meets other kernel elements."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.register_tile import bind
from graphopt.backends.specs.window import Window


def each_ragged_tap(
    window: Window, left: tirx.Expr, tile: int, body: Callable[[tirx.Expr, tuple[int, int]], None]
) -> None:
    """Emits ``body(kernel element, half-open range of points)`` for all points of a tile and all elements that meet the input.

    Elements that all points meet come first, then those of single points: no more than a tile is wide where there is no dilation.

    Args:
        window: how the kernel slides along the axis.
        left: the tile's first output.
        tile: its points.
        body: emits the products of an element with some points.
    """
    reach = [window.reach(left + point) for point in range(tile)]
    begin, end = bind(reach[0][0]), bind(reach[-1][1])
    with T.serial(0, tirx.max(end - begin, 0)) as turn:
        body(begin + turn, (0, tile))
    after = bind(tirx.max(begin, end))
    for point, (low, high) in enumerate(reach):
        low, high = bind(low), bind(high)
        with T.serial(0, tirx.max(tirx.min(begin, high) - low, 0)) as turn:
            body(low + turn, (point, point + 1))
        with T.serial(0, tirx.max(high - after, 0)) as turn:
            body(after + turn, (point, point + 1))
