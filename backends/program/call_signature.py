"""What a kernel depends on, as a key: groups with the same signature are computed by the same kernel, on other operands.

Everything that a template or a lowering looks at has to be in it: operators and attributes, which operand is which, types and
layouts, what is known of values, and what the model asks of its dimensions. Names of nodes and values are not; a kernel that
mentions them, in what it says of a value that it refuses, is not shared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from graphopt.backends.base.finite import is_finite
from graphopt.backends.base.template import KernelCall
from graphopt.backends.lower.scales import free_scales
from graphopt.backends.templates.integer_facts import integer_facts
from graphopt.ir.dims import symbols_of
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array, Graph, Node, Value
from graphopt.ir.types import TensorType

MOST_COMPARED = 65536
"""Larger constants are never taken for uniform."""

_NO_INDICES = frozenset({DType.f16, DType.bf16, DType.f32, DType.f64, DType.i8, DType.u8, DType.i16, DType.u16})
"""Types of which no operator takes indices."""

Key: TypeAlias = tuple[Hashable, ...]


@dataclass(frozen=True)
class Signature:
    """The signature of one call.

    Attributes:
        key: equal for calls that have the same kernel.
        values: all values of the group, in an order that is the same for equal keys.
        outlined: constants of which the key does not hold every element.
    """

    key: Key
    values: tuple[Value, ...]
    outlined: frozenset[Value]


class Signatures:
    """Makes signatures; for the calls of one compilation, so that constants are looked at once."""

    def __init__(self) -> None:
        self._constants: dict[Value, tuple[Key, bool]] = {}
        self._integers: dict[Value, Key] = {}

    def of(self, call: KernelCall) -> Signature:
        """The signature of a call."""
        group = call.group
        numbers: dict[Value, int] = {}

        def number(value: Value | None) -> int:
            return -1 if value is None else numbers.setdefault(value, len(numbers))

        nodes = [
            (n.op, n.domain, n is group.anchor, _attributes(n), *map(number, n.inputs), -2, *map(number, n.outputs))
            for n in group.nodes
        ]
        results = tuple(map(number, group.outputs))
        made = {v for n in group.nodes for v in n.outputs}
        free = self._free(call)
        facts = [self._facts(call, v, v in made, free.get(v)) for v in numbers]
        graph = group.anchor.graph
        outlined = frozenset(v for v in numbers if v in free or (v.data is not None and self._constants[v][1]))
        key = (
            id(graph), 0 if graph is None else len(graph.constraints), call.fused.options,
            tuple(nodes), results, tuple(facts), _bound(call, numbers), integer_facts(call) if free else (),
        )  # fmt: skip
        return Signature(key, tuple(numbers), outlined)

    def _free(self, call: KernelCall) -> dict[Value, Key]:
        """Constants of quantization that kernels take as operands, with what their signature says of them."""
        nodes = call.group.nodes
        free: dict[Value, Key] = dict(free_scales(call.group))
        for node in nodes:
            value = node.input(0) if node.op == "DequantizeLinear" and not node.domain else None
            if value is not None and value.data is not None and value.data.size > 1:
                if value not in self._integers:
                    self._integers[value] = _integers(value.data)
                if self._integers[value]:
                    free[value] = self._integers[value]
        return free

    def _facts(self, call: KernelCall, value: Value, made: bool, free: Key | None) -> Key:
        """What is known of a value: the graph around the group shows in its layout, who made it, and whether anybody reads it."""
        constant: Key = free or ()
        if value.data is not None and free is None:
            if value not in self._constants:
                self._constants[value] = _constant(value.data)
            constant = self._constants[value][0]
        content: Key = ()
        if value.content is not None:
            content = (value.binds, value.content.shape, *value.content.reshape(-1))
        read = bool(value.uses or value.escapes)
        return (value.type, call.layout(value), constant, content, read, () if made else _origin(value))


def _bound(call: KernelCall, values: dict[Value, int]) -> Hashable:
    """Symbols of the group that tensors have given a value: dimensions with them have names."""
    if call.names is None or not call.names.bound:
        return None
    shapes = [v.type.shape or () for v in values if isinstance(v.type, TensorType)]
    contents = [v.content.reshape(-1) for v in values if v.content is not None]
    return frozenset(symbols_of(*(d for dims in (*shapes, *contents) for d in dims)) & call.names.bound)


def _origin(value: Value) -> Key:
    """The operator that made an operand, which for indices tells what the elements can be."""
    node = value.producer
    if node is None or value.is_const or (isinstance(value.type, TensorType) and value.type.dtype in _NO_INDICES):
        return ()
    first = node.input(0)
    return (node.op, node.domain, node.outputs.index(value), _attributes(node), None if first is None else first.type)


def _attributes(node: Node) -> Key:
    return tuple((name, _frozen(node.attrs[name])) for name in sorted(node.attrs))


def _frozen(value: Any) -> Hashable:
    """A key for an attribute: numbers of different types, and zeros of different signs, differ."""
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *map(_frozen, value))
    if isinstance(value, np.ndarray):
        return (value.shape, *_bytes(value))
    if isinstance(value, Graph):
        return id(value)
    return type(value).__name__, value if isinstance(value, (str, bytes)) else repr(value)


def _constant(array: Array) -> tuple[Key, bool]:
    """A key for a constant, and whether that leaves elements out.

    Of floating-point numbers it says only what most kernels ask: whether it is one number all over, and whether all of it is
    finite. Kernels that are made of the elements themselves say so (``KernelCall.read``).
    """
    if array.dtype.kind != "f" or array.size < 2:
        return (array.shape, *_bytes(array)), False
    flat = array.reshape(-1)
    if array.size <= MOST_COMPARED and bool((flat == flat[0]).all()):
        return ("uniform", *_bytes(flat[:1])), True
    return ("finite", is_finite(flat)), True


def _integers(array: Array) -> Key:
    """A key for integers that are dequantized, which leaves them out; none for those that kernels have as a number."""
    flat = array.reshape(-1)
    uniform = array.size <= MOST_COMPARED and bool((flat == flat[0]).all())
    return () if uniform else ("integers", str(array.dtype), array.shape)


def _bytes(array: Array) -> Key:
    if array.dtype.hasobject:
        return (str(array.dtype), repr(array.tolist()))
    data = np.ascontiguousarray(array).tobytes()
    return (str(array.dtype), data if len(data) <= 64 else hashlib.blake2b(data, digest_size=32).digest())
