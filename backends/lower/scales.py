"""Scales and zero points of a group as operands of its kernel, so that groups that differ in them share one.

All that a kernel needs of them lies in one table of float32, a few numbers for each QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from graphopt.backends.base.formula import Formula
from graphopt.backends.base.template import Computed
from graphopt.backends.tensors.exact import constant
from graphopt.backends.tensors.tensor import Expr, Tensor
from graphopt.ir.dtypes import DType
from graphopt.ir.fused import Group
from graphopt.ir.graph import Array, Node, Value
from graphopt.ops.context import known_array

_LEAST, _MOST = np.float32(1e-30), np.float32(1e30)
"""Scales for which quotients that round to anything but zero have exact remainders, and whose inverses are normal numbers."""

_RANGES = {DType.i8: (-128, 127), DType.u8: (0, 255), DType.i16: (-32768, 32767), DType.u16: (0, 65535)}


def plain_scale(value: Value | None) -> float:
    """The one known scale of float32 that a value is; 0 for everything else, and for what isn't harmless to divide by."""
    if value is None or value.dtype is not DType.f32 or value.data is None or value.data.size != 1:
        return 0.0
    scale = np.float32(value.data.reshape(-1)[0])
    return float(scale) if _LEAST <= scale <= _MOST else 0.0


def known_zero_point(node: Node) -> int | None:
    """The zero point of a QuantizeLinear or DequantizeLinear if it is one known number."""
    value = node.input(2)
    if value is None:
        return 0
    array = known_array(value)
    return int(array.reshape(-1)[0]) if array is not None and array.size and (array == array.flat[0]).all() else None


def step_bounds(dtype: DType, zero_point: int) -> tuple[int, int]:
    """The lowest and the highest step of integers of at most 16 bits, counted from the zero point."""
    low, high = _RANGES[dtype]
    return low - zero_point, high - zero_point


@dataclass(frozen=True)
class Row:
    """What the table holds of a node: the scale, its inverse, the lowest and highest number that isn't saturated, these in steps,
    and the zero point.

    Attributes:
        scale: number of the scale among the table's constants.
        zero_point: the same of the zero point, -1 if that is 0.
        dtype: of the integers.
    """

    scale: int
    zero_point: int
    dtype: DType

    def __call__(self, constants: list[Array]) -> list[np.float32]:
        """The numbers."""
        scale = np.float32(constants[self.scale].reshape(-1)[0])
        zero_point = 0 if self.zero_point < 0 else int(constants[self.zero_point].reshape(-1)[0])
        bounds = [np.float32(bound) for bound in step_bounds(self.dtype, zero_point)]
        return [scale, np.float32(1) / scale, *(bound * scale for bound in bounds), *bounds, np.float32(zero_point)]


_WIDTH = 7
"""Numbers in a row."""


@dataclass(frozen=True)
class ScaleTable(Formula):
    """The table of some nodes.

    Attributes:
        rows: one a node.
    """

    rows: tuple[Row, ...]

    @property
    def dtype(self) -> DType:
        """float32."""
        return DType.f32

    @property
    def shape(self) -> tuple[int, ...]:
        """One axis."""
        return (_WIDTH * len(self.rows),)

    def __call__(self, *arrays: Array) -> Array:
        """The rows, one behind the other."""
        return np.array([number for row in self.rows for number in row(list(arrays))], np.float32)


@dataclass(frozen=True)
class Quantization:
    """How a node quantizes or dequantizes, as expressions of float32.

    Attributes:
        scale: the scale.
        inverse: one over it.
        low: the lowest number that isn't saturated.
        high: the highest one.
        low_step: the former in steps from the zero point.
        high_step: the latter.
        zero_point: the zero point; None if it is 0.
    """

    scale: Expr
    inverse: Expr
    low: Expr
    high: Expr
    low_step: Expr
    high_step: Expr
    zero_point: Expr | None


class GroupScales:
    """The nodes of a group that quantize to or from integers of at most 16 bits by one known scale and zero point.

    Args:
        nodes: the group's.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._numbers: dict[Value, int] = {}
        self._rows: dict[Node, Row] = {}
        for node in nodes:
            dtype = _integers(node)
            scale, zero_point = node.input(1), node.input(2)
            if dtype is None or scale is None:
                continue
            number = self._numbers.setdefault(scale, len(self._numbers))
            zero = -1
            if known_zero_point(node):
                assert zero_point is not None
                zero = self._numbers.setdefault(zero_point, len(self._numbers))
            self._rows[node] = Row(number, zero, dtype)

    @property
    def table(self) -> Computed:
        """All their rows."""
        return Computed(tuple(self._numbers), ScaleTable(tuple(self._rows.values())))

    def scale(self, value: Value, table: Callable[[], Tensor]) -> Expr | None:
        """A scale as an element of the table, None if it isn't one of theirs."""
        number = self._numbers.get(value)
        at = next((i for i, row in enumerate(self._rows.values()) if row.scale == number), None)
        return None if at is None else table()(_WIDTH * at)

    def quantization(self, node: Node, table: Callable[[], Tensor]) -> Quantization | None:
        """What the table has for a node, None if it isn't one of these."""
        if node not in self._rows:
            return None
        first, entries = _WIDTH * list(self._rows).index(node), table()
        scale, inverse, low, high, low_step, high_step, zero_point = (entries(first + i) for i in range(_WIDTH))
        row = self._rows[node]
        if row.zero_point < 0:
            low_step, high_step = (constant(bound, "float32") for bound in step_bounds(row.dtype, 0))
            zero_point = None
        return Quantization(scale, inverse, low, high, low_step, high_step, zero_point)


def _integers(node: Node) -> DType | None:
    """The type of the integers of a node with a row, None for other nodes."""
    if node.domain or node.op not in ("QuantizeLinear", "DequantizeLinear"):
        return None
    integers = node.out if node.op == "QuantizeLinear" else node.inputs[0]
    assert integers is not None
    if integers.dtype not in _RANGES or node.attrs.get("precision") or not plain_scale(node.input(1)):
        return None
    zero_point = node.input(2)
    single = zero_point is None or (zero_point.data is not None and zero_point.data.size == 1)
    return integers.dtype if single else None


def has_row(node: Node) -> bool:
    """Whether a QuantizeLinear or DequantizeLinear has a row in the table of its group."""
    return _integers(node) is not None


def free_scales(group: Group) -> dict[Value, tuple[object, ...]]:
    """Scales and zero points of which a kernel knows only what is said of them here: all else is in its operands.

    A zero point of the anchor's weight is part of the kernel, and so is 0.
    """
    found: dict[Value, tuple[object, ...]] = {}
    fixed: set[Value | None] = set()
    points: list[tuple[Value, int]] = []
    weights = set(group.anchor.inputs[1:])
    for node in group.nodes:
        scale, zero_point = node.input(1), node.input(2)
        if _integers(node) is None:
            fixed.update(node.inputs)
            continue
        assert scale is not None
        found[scale] = ("scale", scale.shape)
        if zero_point is not None:
            points.append((zero_point, known_zero_point(node) or 0))
            if node.out in weights:
                fixed.add(zero_point)
    for value, number in points:
        if number and value not in fixed:
            same = next(i for i, (_, other) in enumerate(points) if other == number)
            found[value] = ("zero point", value.dtype, value.shape, same)
    return found
