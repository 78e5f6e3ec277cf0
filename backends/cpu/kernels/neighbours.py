"""Neighbouring elements that are loaded as vectors and used one by one, as lanes that multiply-adds take for their factor."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.register_tile import ON_STACK


def loaded(count: int, lanes: int, dtype: str, element: Callable[[tirx.Expr | int], tirx.Expr]) -> tirx.Buffer:
    """Emits the loading of ``count`` elements in vectors of at most ``lanes``: none beyond the last is read.

    Args:
        count: how many there are.
        lanes: elements of a register, a power of two.
        dtype: TVM's name of their type.
        element: the element at a place, in vectors along places.

    Returns:
        a buffer of ``count`` elements to be indexed by constants, whose vectors stay in registers.
    """
    held = T.alloc_buffer((count,), dtype, scope="local", annotations=ON_STACK)
    first, width = 0, lanes
    while first < count:
        if first + width > count:
            width //= 2
        elif width == 1:
            T.buffer_store(held, element(first), [first])
            first += 1
        else:
            with T.vectorized(0, width) as lane:
                T.buffer_store(held, element(first + lane), [first + lane])
            first += width
    return held
