"""Operands that are stored narrower than they are computed with, widened ahead by kernels that broadcast each element many times.

A vector of elements is widened by an instruction or two when it is loaded. A broadcast element takes as many, where one of
float32 takes none: it is an operand of the multiply-add itself.
"""

from __future__ import annotations

from graphopt.backends.base.dot_product import DotProduct
from graphopt.backends.base.element_type import computed_type
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.register_tile import bind
from graphopt.backends.templates.operand import View, grouped

_CHUNK = 4096
"""Elements widened by one turn of the parallel loop: some tenths of a microsecond."""


def factors_of(operand: View, dot: DotProduct | None, lanes: int, parallel: bool) -> View:
    """Emits what the products of a kernel are of: groups of elements for a dot product, elements as they are computed with else.

    Args:
        operand: as `widened` takes it; integers that aren't what the dot product multiplies are converted to that.
        dot: the instruction, None for products of single elements.
        lanes, parallel: as `widened` takes them.

    Raises:
        ValueError: there is no dot product, and products of single elements would overflow the integers that these are.
    """
    if dot is None:
        if operand.type.compute == "int16":
            raise ValueError("integers of 16 bits need a dot product that adds up in 32")
        return widened(operand, lanes, parallel)
    return grouped(operand if operand.type.dtype is dot.dtype else widened(operand, dot.group * lanes, parallel), dot)


def widened(operand: View, lanes: int, parallel: bool) -> View:
    """Emits a copy of an operand in the type that it is computed with; the operand itself where that is how it is stored.

    Args:
        operand: of any shape.
        lanes: elements to compute with in a vector.
        parallel: whether threads share the work.
    """
    row = operand.type
    if not row.is_narrow:
        return operand
    total: tirx.Expr | int = 1
    for extent in operand.shape:
        total = total * (int(extent) if isinstance(extent, tirx.IntImm) else extent)
    total = bind(total)
    source = operand.reshaped((total,))
    copy = T.alloc_buffer((total,), row.compute)
    with (T.parallel if parallel else T.serial)(0, tirx.floordiv(total + (_CHUNK - 1), _CHUNK)) as chunk:
        first = bind(chunk * _CHUNK)
        count = bind(tirx.min(_CHUNK, total - first))
        with T.serial(0, tirx.floordiv(count, lanes)) as i, T.vectorized(0, lanes) as lane:
            at = first + i * lanes + lane
            T.buffer_store(copy, source[at], [at])
        with T.serial(0, tirx.floormod(count, lanes)) as i:
            at = first + (count - tirx.floormod(count, lanes)) + i
            T.buffer_store(copy, source[at], [at])
    return View(T.decl_buffer(tuple(operand.shape), row.compute, data=copy.data), computed_type(row.compute))
