"""A graph while it is drawn: every node is run by ONNX Runtime as it is added, so that all are valid and shapes are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from onnx import NodeProto, helper

from tests.random_graphs.evaluate import Array, by_ort
from tests.random_graphs.undefined import undefined

T = TypeVar("T")
EXTENTS = (1, 2, 3, 4, 5, 7, 8, 16, 17, 33)
MAX_ELEMENTS = 6000
"""Of one value: what is drawn has to be compiled and run in fractions of a second."""
DTYPES = ("float32",) * 10 + (
    "float64", "float16", "int64", "int64", "int32", "int32", "int8", "uint8", "bool", "bool", "int16", "uint16", "uint32",
    "uint64",
)  # fmt: skip


class Rejected(Exception):
    """A step that isn't possible here: no operand fits, ONNX Runtime has no such kernel, or the result is undefined."""


class Draft:
    """Nodes, values by name, and a seeded choice.

    Attributes:
        rng: where all choices come from.
        hostile: whether values hold infinities, NaN, -0.0 and denormal numbers.
        values: every value that exists, as ONNX Runtime computes it.
        inputs, constants: names.
        fixed: inputs whose extents never are symbols: a convolution's window has to be known.
        rejected: how often which operator was refused and by whom.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.hostile = bool(self.rng.random() < 0.2)
        self.nodes: list[NodeProto] = []
        self.values: dict[str, Array] = {}
        self.inputs: list[str] = []
        self.constants: list[str] = []
        self.fixed: set[str] = set()
        self.rejected: Counter[str] = Counter()

    # -- choices
    def pick(self, *items: T) -> T:
        """One of them.

        Raises:
            Rejected: there is none.
        """
        if not items:
            raise Rejected("nothing to choose from")
        return items[int(self.rng.integers(len(items)))]

    def chance(self, probability: float) -> bool:
        """True that often."""
        return bool(self.rng.random() < probability)

    def extent(self) -> int:
        """Of a new axis; rarely 0."""
        return 0 if self.chance(0.01) else self.pick(*EXTENTS)

    def shape(self, rank: int | None = None) -> list[int]:
        """Of a new value, small enough."""
        rank = self.pick(0, 1, 1, 2, 2, 3, 3, 4, 4) if rank is None else rank
        while True:
            shape = [self.extent() for _ in range(rank)]
            if np.prod(shape) <= MAX_ELEMENTS // 4:
                return shape

    # -- values
    def data(self, shape: Sequence[int], dtype: str) -> Array:
        """Numbers of a type, hostile ones among them where the graph is."""
        kind = np.dtype(dtype).kind
        if kind == "b":
            return np.asarray(self.rng.random(shape) < 0.5)
        if kind in "iu":
            low, high = (0, 7) if kind == "u" else (-6, 7)
            array = np.asarray(self.rng.integers(low, high, shape)).astype(dtype)
            if self.hostile and array.size and self.chance(0.3):
                limits = np.iinfo(dtype)
                array.flat[int(self.rng.integers(array.size))] = self.pick(limits.min, limits.max)
            return array
        array = np.asarray(self.rng.standard_normal(shape) * self.pick(1.0, 1.0, 1.0, 4.0)).astype(dtype)
        if self.hostile and array.size:
            tiny = float(np.finfo(dtype).smallest_subnormal)
            for _ in range(self.pick(1, 2, 5)):
                array.flat[int(self.rng.integers(array.size))] = self.pick(
                    np.inf, -np.inf, np.nan, -0.0, tiny, float(np.sqrt(np.finfo(dtype).max))
                )
        return array

    def input(self, shape: Sequence[int], dtype: str) -> str:
        """A new input of the model."""
        return self._define(f"x{len(self.inputs)}", self.data(shape, dtype), self.inputs)

    def constant(self, array: Any, dtype: str | None = None) -> str:
        """A new constant."""
        return self._define(f"c{len(self.constants)}", np.asarray(array, dtype), self.constants)

    def ints(self, *numbers: int) -> str:
        """An int64 constant of rank 1."""
        return self.constant(list(numbers), "int64")

    def weight(self, shape: Sequence[int], dtype: str) -> str:
        """A constant of small numbers, rarely an input."""
        array = self.data(shape, dtype)
        if array.dtype.kind == "f":
            # subnormal weights are set to zero at -O2, which shows beside an infinity only
            array = np.where(np.abs(array) < np.finfo(dtype).tiny, 0, array)
            array = (array / max(1.0, np.sqrt(np.prod(shape) / max(1, shape[0] if shape else 1)))).astype(dtype)
        if self.chance(0.15):
            self.fixed.add(f"x{len(self.inputs)}")
            return self._define(f"x{len(self.inputs)}", array, self.inputs)
        return self.constant(array)

    def find(self, fits: Callable[[Array], bool]) -> str:
        """A value that fits, rather a late one.

        Raises:
            Rejected: there is none.
        """
        names = [name for name, array in self.values.items() if name not in self.constants and fits(array)]
        if not names:
            raise Rejected("no operand")
        if self.chance(0.5):
            return names[-1 - int(self.rng.integers(min(3, len(names))))]
        return self.pick(*names)

    def any_of(self, kinds: str, min_rank: int = 0, max_rank: int = 9) -> str:
        """A value of one of the kinds of types (as numpy's ``dtype.kind``) and of a rank in the range."""
        return self.find(lambda a: a.dtype.kind in kinds and min_rank <= a.ndim <= max_rank)

    def dtype(self, name: str) -> str:
        """Element type of a value."""
        return str(self.values[name].dtype)

    def dims(self, name: str) -> list[int]:
        """Shape of a value."""
        return list(self.values[name].shape)

    # -- nodes
    def one(self, op: str, *inputs: str | None, **attrs: Any) -> str:
        """A node with one result."""
        return self.many(op, inputs, 1, **attrs)[0]

    def many(self, op: str, inputs: Sequence[str | None], count: int, **attrs: Any) -> list[str]:
        """A node with several results.

        Raises:
            Rejected: ONNX Runtime can't, the result is undefined, or too large.
        """
        results = [f"v{len(self.nodes)}_{i}" if count > 1 else f"v{len(self.nodes)}" for i in range(count)]
        node = helper.make_node(op, [name or "" for name in inputs], results, name=f"n{len(self.nodes)}", **attrs)
        why = undefined(node, self.values)
        if why is not None:
            self.rejected[f"{op}: {why}"] += 1
            raise Rejected(why)
        try:
            arrays = by_ort(node, self.values, self.constants)
        except Exception as error:  # any class; what ONNX Runtime refuses is not drawn
            self.rejected[f"{op}: ONNX Runtime: {self.dtype(inputs[0]) if inputs and inputs[0] else ''}"] += 1
            raise Rejected(str(error)) from error
        if any(array.size > MAX_ELEMENTS for array in arrays):
            raise Rejected("too large")
        self.nodes.append(node)
        for name, array in zip(results, arrays):
            self.values[name] = array
        return results

    def _define(self, name: str, array: Array, names: list[str]) -> str:
        names.append(name)
        self.values[name] = array
        return name
