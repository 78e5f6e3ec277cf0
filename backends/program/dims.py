"""Dimensions known at run time only: computed once by a small kernel, checked there, and bound to a symbol.

Three sources. Elements of an integer tensor (``Value.binds``); a count that an operator's measure computes from its operands
(``NonZero``); and expressions over such symbols, which get a symbol of their own: TVM's passes take for ever on shapes full of
selections, and a negative extent has to be caught before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.generic import GroupLowering
from graphopt.backends.lower.registry import lookup_measure
from graphopt.backends.program.dim_writer import DimWriter, Mode
from graphopt.backends.program.program import Buffer
from graphopt.backends.tensors.builder import Output
from graphopt.backends.tensors.checks import ask_for, refuse_if
from graphopt.backends.tensors.index import i64, unflatten
from graphopt.backends.tensors.tensor import Expr, Tensor
from graphopt.errors import InternalError
from graphopt.ir.constraints import sides
from graphopt.ir.dims import Dim, as_symbol, nonnegative
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import Shape, TensorType


def integers(name: str, count: int, on_host: bool = False) -> Buffer:
    """A new vector of ``count`` int64."""
    return Buffer(name, TensorType(DType.i64, (count,)), (count,), on_host=on_host)


def by_host(function: Any) -> Any:
    """A kernel that reads and writes nothing of a device's memory, to be run by the host of one."""
    return function.with_attr("tirx.is_host_func", True)


def elements_kernel(lowering: GroupLowering, value: Value) -> tuple[Any, list[Value], list[str]]:
    """The kernel ``(value, vector)`` that copies an integer tensor to a vector of int64."""
    tensor = lowering.operand(value)
    count = value.tensor.num_elements
    assert count is not None
    flat = Tensor((count,), "int64", lambda i: i64(tensor(*unflatten(i, tensor.shape))))
    return _finish(lowering, flat, count)


def measure_kernel(lowering: GroupLowering, node: Node, count: int) -> tuple[Any, list[Value], list[str]] | None:
    """The kernel that computes the dimensions of a node's results from its operands, None if the operator has none."""
    measure = lookup_measure(node.op, node.domain)
    if measure is None:
        return None
    found = measure(lowering.context(node))
    if found.shape != (count,):
        raise InternalError(f"{node.op} measures {found.shape} dimensions where {count} are open", node=node.label)
    return _finish(lowering, found, count)


def _finish(lowering: GroupLowering, tensor: Tensor, count: int) -> tuple[Any, list[Value], list[str]]:
    out = tirx.decl_buffer([i64(count)], "int64", "dims")
    lowering.builder.emit([Output(tensor, out)])
    names, symbols = lowering.symbol_params()
    inputs = list(lowering.buffers)
    return lowering.builder.finish([*lowering.buffers.values(), out, *symbols], "dims"), inputs, names


@dataclass(frozen=True)
class Extents:
    """What a buffer takes: extents that must not be negative, and whose product must fit into memory.

    Attributes:
        where: label of the node that writes the buffer.
    """

    shape: Shape
    itemsize: int
    where: str


def dims_kernel(
    dims: Sequence[Dim],
    equal: Sequence[tuple[Dim, Dim, str]],
    sizes: Sequence[Extents],
    where: str,
    extents: Container[Dim],
    titles: Mapping[str, str],
) -> tuple[Any, list[str]]:
    """The kernel ``(vector, *symbols)`` that computes dimensions, and refuses impossible ones and broken constraints.

    Args:
        equal: pairs that must agree, with the reason.
        sizes: buffers that are allocated after it.
        where: what the dimensions belong to, for messages.
        extents: those that must not be negative.
        titles: what the symbols of elements of tensors stand for.
    """
    writer = DimWriter(where, titles)
    out = tirx.decl_buffer([i64(max(len(dims), 1))], "int64", "dims")
    for a, b, why in equal:
        left, right = writer.value(a, Mode.refuses), writer.value(b, Mode.refuses)
        writer.statements.append(refuse_if(tirx.NE(left, right), "", why, _compared(writer, a, b)))
    for size in sizes:
        for d in size.shape:
            if not nonnegative(d):
                _refuse_negative(writer, d, size.where)
        writer.statements.append(
            ask_for([writer.size(d) for d in size.shape], size.itemsize, size.where, _origins(writer, size.shape))
        )
    for n, d in enumerate(dims):
        value = _refuse_negative(writer, d, where) if d in extents else writer.value(d, Mode.wraps)
        writer.statements.append(tirx.BufferStore(out, value, [i64(n)]))
    writer.statements.append(tirx.Evaluate(0))
    body = [tirx.AllocBuffer(writer.cells), *writer.statements]
    names = sorted(writer.symbols)
    func = tirx.PrimFunc([out, *(writer.symbols[n] for n in names)], tirx.SeqStmt(body))
    return func.with_attr({"global_symbol": "dims", "tirx.noalias": True, "s_tir": True}), names


def bytes_kernel(slots: Sequence[Collection[tuple[Shape, int]]]) -> tuple[Any, list[str]]:
    """The kernel ``(vector, *symbols)`` that computes how many bytes each slot takes.

    Args:
        slots: shape and bytes of an element, of each buffer that lies there. No extent is negative and each buffer fits into
            memory: that was checked before.
    """
    writer = DimWriter("slots", {}, 1 << 14)
    out = tirx.decl_buffer([i64(len(slots))], "int64", "slots")
    for n, sizes in enumerate(slots):
        largest: Expr = i64(1)
        for shape, itemsize in sizes:
            largest = tirx.max(largest, writer.product(shape, itemsize))
            largest = writer.kept(largest)
        writer.statements.append(tirx.BufferStore(out, largest, [i64(n)]))
    body = [tirx.AllocBuffer(writer.cells), *writer.statements]
    names = sorted(writer.symbols)
    func = tirx.PrimFunc([out, *(writer.symbols[n] for n in names)], tirx.SeqStmt(body))
    return func.with_attr({"global_symbol": "slots", "tirx.noalias": True, "s_tir": True}), names


def _origins(writer: DimWriter, shape: Shape) -> list[tuple[str, Expr]]:
    """Elements of tensors, else whole extents, that a shape follows from."""
    bare = [
        pair for d in shape if as_symbol(d) is not None for pair in writer.title(d, writer.value(d, Mode.saturates))
    ]
    return [*bare, *writer.sources(*shape)]


def _refuse_negative(writer: DimWriter, dim: Dim, where: str) -> Expr:
    value = writer.value(dim, Mode.refuses)
    shown = [*writer.title(dim, value), *writer.sources(dim)]
    writer.statements.append(refuse_if(value < 0, where, "a dimension would be negative", shown))
    return value


def _compared(writer: DimWriter, a: Dim, b: Dim) -> list[tuple[str, Expr]]:
    """What a broken constraint shows: the dimensions that it is about."""
    about = sides(a, b)
    shown = [pair for d in about for pair in writer.title(d, writer.value(d, Mode.saturates))]
    return [*shown, *writer.sources(*about)]
