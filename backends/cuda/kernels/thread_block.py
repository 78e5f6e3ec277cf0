"""What kernels of CUDA are written with: blocks of threads, numbers of 32 bits, memory of blocks and threads, device functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.tensors.tensor import Expr

INDEX = "int32"
"""What positions are computed in: registers of a GPU have 32 bits, and arithmetic on 64 takes several times the instructions."""
LARGEST_POSITION = 2**31 - 1
WARP = 32


def number(value: Expr) -> Expr:
    """A position or extent as one of 32 bits."""
    if isinstance(value, int):
        return tirx.const(value, INDEX)
    return value if str(value.ty.dtype) == INDEX else value.astype(INDEX)


def quotient(value: Expr, divisor: Expr) -> Expr:
    """``value / divisor`` of numbers that aren't negative: C's division, where TVM's own rounds down with several comparisons."""
    return tirx.truncdiv(value, number(divisor))


def rest(value: Expr, divisor: Expr) -> Expr:
    """What is left of ``value`` after the division; as `quotient`."""
    return tirx.truncmod(value, number(divisor))


@contextmanager
def blocks(grid: tuple[Expr, Expr, Expr], threads: int) -> Iterator[tuple[Expr, Expr, Expr, Expr]]:
    """A launch of ``grid`` blocks of ``threads`` threads: positions of the block along x, y and z, and the thread's."""
    x, y, z = (number(extent) for extent in grid)
    with (
        T.thread_binding(number(0), z, thread="blockIdx.z") as bz,
        T.thread_binding(number(0), y, thread="blockIdx.y") as by,
        T.thread_binding(number(0), x, thread="blockIdx.x") as bx,
        T.thread_binding(number(0), number(threads), thread="threadIdx.x") as thread,
    ):
        yield bx, by, bz, thread


def bound(value: Expr) -> Expr:
    """``value`` as a variable of the generated code."""
    if isinstance(value, (int, tirx.Var, tirx.IntImm)):
        return value
    variable = tirx.Var("at", value.ty)
    T.add_to_parent(tirx.Bind(variable, value))
    return variable


def rolled(extent: Expr) -> Any:
    """A loop that stays one: unrolled, its copies would want more registers than there are."""
    return T.serial(number(0), number(extent), annotations={"disable_unroll": True})


def registers(count: int, dtype: str) -> tirx.Buffer:
    """Memory of a thread. Indexed by constants once loops are unrolled, it lies in registers."""
    return T.alloc_buffer((count,), dtype, scope="local")


def shared_bytes(count: int) -> tirx.Buffer:
    """Memory of a block; how much of it there may be is up to the device."""
    return T.alloc_buffer((count,), "uint8", scope="shared.dyn")


def call(function: str, *arguments: Expr) -> None:
    """Emits the call of a device function that returns nothing."""
    T.evaluate(tirx.call_extern("void", function, *arguments))


def barrier() -> None:
    """Emits the wait of all threads of a block for one another."""
    call("__syncthreads")


def warp_barrier() -> None:
    """Emits the same within a warp."""
    call("__syncwarp")


def address(buffer: tirx.Buffer, *index: Expr) -> Expr:
    """Where an element lies."""
    return T.address_of(buffer[tuple(index)])
