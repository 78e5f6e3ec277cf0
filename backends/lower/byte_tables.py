"""Functions of one byte as tables of 256 entries: what lies between two quantized values and computes on one of them alone.

Quantized activations are of that kind: dequantize, sigmoid, quantize, dequantize, multiply, quantize. An entry is looked up in a
cycle or two, where the function takes a division a quantization and an exponential.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from graphopt.backends.base.formula import Formula
from graphopt.backends.base.template import Computed
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.tensor import Expr, Tensor
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array, Node, Value
from graphopt.ops.context import known_array
from graphopt.ops.registry import CONVERTS, ELEMENTWISE, SELECTS, has_trait
from graphopt.passes.fold.constants import evaluate_node
from graphopt.rewrite.purity import is_pure

_BYTES = (DType.u8, DType.i8)
_CHEAP = ("Add", "Sub", "Mul")
"""A few instructions a vector, as are conversions and what selects: a lookup of every element takes longer."""

_TABLES: WeakKeyDictionary[Node, dict[str, bool]] = WeakKeyDictionary()
"""Whether there is a table, by the node whose results the entries are, and the name of the byte; groups are lowered many times.

A value would hold its node, and so the key."""


@dataclass(frozen=True)
class ByteTable(Formula):
    """The results of some nodes for all values of a byte, from the least to the greatest; of their constants.

    Attributes:
        nodes: in order; all that is read besides the byte and the constants is made by one of them.
        byte: the operand.
        numbers: the constants.
    """

    nodes: tuple[Node, ...]
    byte: Value
    numbers: tuple[Value, ...]

    @property
    def dtype(self) -> DType:
        """That of the last node."""
        return self.nodes[-1].out.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """An entry for each byte."""
        return (256,)

    def __call__(self, *arrays: Array) -> Array:
        """The entries.

        Raises:
            ValueError: the nodes can't be evaluated.
        """
        table = _evaluated(self.byte, self.nodes, dict(zip(self.numbers, arrays, strict=True)))
        if table is None:
            raise ValueError(f"{self.nodes[-1].label} can't be evaluated for all bytes")
        return table


def byte_sources(nodes: Iterable[Node]) -> dict[Value, Value]:
    """For every value among the results of nodes that is a function of one byte, that byte: a value of the same shape.

    Args:
        nodes: some nodes of a graph, in order.
    """
    sources: dict[Value, Value] = {}

    def source(value: Value) -> Value | None:
        return sources.get(value) or (value if value.dtype in _BYTES and not value.is_const else None)

    for node in nodes:
        if not has_trait(node, ELEMENTWISE) or len(node.outputs) != 1 or not is_pure(node):
            continue
        operands = [v for v in node.inputs if v is not None and not _is_number(v)]
        found = {source(v) for v in operands}
        if len(found) == 1 and all(v.shape == node.out.shape for v in operands):
            byte = found.pop()
            if byte is not None:
                sources[node.out] = byte
    return sources


def _is_number(value: Value) -> bool:
    array = known_array(value)
    return array is not None and array.size == 1


def table_of(node: Node, nodes: Iterable[Node]) -> tuple[Value, Computed] | None:
    """The byte that a QuantizeLinear is a function of, and its result for all bytes; None where computing is as good.

    Args:
        node: the node.
        nodes: those that a kernel computes, in order; the function is sought among them.

    Returns:
        The operand, and entries in the order of its values from the least to the greatest.
    """
    if node.op != "QuantizeLinear" or node.out.dtype not in _BYTES:
        return None
    nodes = list(nodes)
    sources = byte_sources(nodes)
    byte = sources.get(node.out)
    if byte is None:
        return None
    needed = _between(byte, node, nodes)
    if not any(_is_dear(n) for n in needed if n is not node):
        return None
    made = {n.out for n in needed}
    numbers = dict.fromkeys(v for n in needed for v in n.inputs if v is not None and v not in made and v is not byte)
    table = Computed(tuple(numbers), ByteTable(tuple(needed), byte, tuple(numbers)))
    known = _TABLES.setdefault(node, {})
    if byte.name not in known:
        arrays = {v: array for v in numbers if (array := known_array(v)) is not None}
        known[byte.name] = _evaluated(byte, needed, arrays) is not None
    return (byte, table) if known[byte.name] else None


def _between(byte: Value, node: Node, nodes: list[Node]) -> list[Node]:
    """What computes the result of ``node`` from a byte, in order."""
    needed, wanted = [], {node.out}
    for n in reversed(nodes):
        if n.out in wanted and n.out is not byte:
            needed.append(n)
            wanted.update(v for v in n.inputs if v is not None and v is not byte)
    return needed[::-1]


def _is_dear(node: Node) -> bool:
    """Whether a node takes longer than a lookup: QuantizeLinear divides."""
    return not (has_trait(node, SELECTS) or has_trait(node, CONVERTS) or node.op in _CHEAP)


def _evaluated(byte: Value, nodes: Sequence[Node], numbers: Mapping[Value, Array]) -> Array | None:
    """The result of the last node for every value of a byte, by the reference evaluator; None if it can't tell."""
    info = np.iinfo(np.int8 if byte.dtype is DType.i8 else np.uint8)
    arrays: dict[Value, Array] = {byte: np.arange(info.min, info.max + 1).astype(byte.dtype.numpy)}
    arrays |= {value: array.reshape(()) for value, array in numbers.items()}
    for node in nodes:
        operands = [None if value is None else arrays[value] for value in node.inputs]
        found = evaluate_node(node, operands, own_shapes=False)
        if isinstance(found, str) or found[0].shape != (256,):
            return None
        arrays[node.out] = found[0]
    return arrays[nodes[-1].out]


def looked_up(byte: Tensor, table: Tensor, dtype: str) -> Tensor:
    """Entries of a table that `table_of` gave.

    Args:
        byte: the operand, as it is stored.
        table: the table as an operand.
        dtype: TVM's name of its entries' type.
    """
    least = -128 if byte.dtype == "int8" else 0

    def element(*index: Expr) -> Expr:
        return table(byte(*index).astype("int32") - tirx.const(least, "int32"))

    return Tensor(byte.shape, dtype, element)
