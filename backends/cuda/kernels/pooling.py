"""Pooling of data with channels innermost: a thread has neighbouring channels of one pixel, read 16 bytes at a time."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.dialect import CUDA_C, written_in
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cuda.addresses import divided, index_of
from graphopt.backends.cuda.grid import per_thread
from graphopt.backends.cuda.kernels.thread_block import address, call
from graphopt.backends.specs.pooling import PoolSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.backends.tensors.index import product
from graphopt.backends.tensors.reducers import REDUCERS
from graphopt.backends.tensors.tensor import Expr, as_expr

UNROLLED = 9
"""Elements of a window up to which all are asked for before the first is needed."""


@dataclass(frozen=True)
class PoolThreads:
    """What a thread computes.

    Attributes:
        channels: neighbours, which divide all of them.
    """

    channels: int


def emit(spec: PoolSpec, config: PoolThreads, name: str = "pool") -> tirx.PrimFunc:
    """Emits ``name(data, output)``, both (images, rows, columns, channels).

    Args:
        spec: the problem; its windows may lie partly beside the data.
        config: what a thread computes.
        name: global symbol.
    """
    window = spec.window
    data_shape = (window.batch, window.in_height, window.in_width, window.in_channels)
    shape = (window.batch, window.out_height, window.out_width, window.in_channels)
    chunks = window.in_channels // config.channels
    count = product([*shape[:3], chunks])
    blocks, threads = per_thread(count)

    def body(inputs: list[View], _: list[tirx.Buffer], output: View) -> None:
        with (
            T.thread_binding(as_expr(0), as_expr(blocks), thread="blockIdx.x") as block,
            T.thread_binding(as_expr(0), as_expr(threads), thread="threadIdx.x") as thread,
        ):
            flat = block * threads + thread
            with T.If(flat < as_expr(count)), T.Then():
                pixel, chunk = divided(flat, chunks)
                _pixel(spec, config, inputs[0], output, index_of(pixel, list(shape[:3])), chunk * config.channels)

    with written_in(CUDA_C):
        return build_prim_func(name, [("data", data_shape, window.types.input)], [], (shape, window.types.output), body)


def _pixel(spec: PoolSpec, config: PoolThreads, data: View, output: View, at: list[Expr], channel: Expr) -> None:
    window, width = spec.window, config.channels
    image, row, column = at
    totals = T.alloc_buffer((width,), window.types.sum, scope="local")
    with T.unroll(0, width) as e:
        T.buffer_store(totals, tirx.const(spec.start, window.types.sum), [e])
    combine = REDUCERS["sum" if spec.average else "max"]
    kernel_rows, kernel_columns = window.kernel
    loop = T.unroll if kernel_rows * kernel_columns <= UNROLLED else T.serial
    with loop(0, kernel_rows) as i, loop(0, kernel_columns) as j:
        y = row * window.strides[0] + i * window.dilations[0] - window.pads[0]
        x = column * window.strides[1] + j * window.dilations[1] - window.pads[1]
        inside = tirx.all(y >= 0, y < as_expr(window.in_height), x >= 0, x < as_expr(window.in_width))
        with T.If(inside), T.Then():
            read = View(T.alloc_buffer((width,), data.type.storage, scope="local"), data.type)
            _move(width * data.type.bytes, address(read.buffer, 0), address(data.buffer, image, y, x, channel))
            with T.unroll(0, width) as e:
                T.buffer_store(totals, combine(totals[e], read.load([e])), [e])
    result = View(T.alloc_buffer((width,), output.type.storage, scope="local"), output.type)
    with T.unroll(0, width) as e:
        result.store(spec.finish(totals[e], row, column, inside=False), [e])
    _move(width * output.type.bytes, address(output.buffer, image, row, column, channel), address(result.buffer, 0))


def _move(size: int, to: Expr, origin: Expr) -> None:
    call(f"gopt_move<{size}>", to, origin)
