"""The table of operator lowerings and what a lowering function sees."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphopt.backends.base.element_type import HALF, ElementType, element_type
from graphopt.backends.lower.scales import Quantization
from graphopt.backends.tensors.builder import KernelBuilder
from graphopt.backends.tensors.exact import constant
from graphopt.backends.tensors.tensor import Expr, Tensor, let, stretched
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Array, Node, Value
from graphopt.ir.layout import PLAIN, Layout
from graphopt.ir.types import Shape
from graphopt.ops.context import InferContext
from graphopt.ops.registry import BROADCAST, MOVEMENT, SELECTS, has_trait

Lowered: TypeAlias = "Tensor | list[Tensor]"
LowerFn: TypeAlias = Callable[["LowerContext"], Lowered]
MeasureFn: TypeAlias = Callable[["LowerContext"], Tensor]

_TABLE: dict[str, LowerFn] = {}


def lowers(*ops: str) -> Callable[[LowerFn], LowerFn]:
    """Decorator: the function lowers the named ai.onnx operators."""

    def add(fn: LowerFn) -> LowerFn:
        for op in ops:
            _TABLE[op] = fn
        return fn

    return add


_MEASURES: dict[str, MeasureFn] = {}


def measures(*ops: str) -> Callable[[MeasureFn], MeasureFn]:
    """Decorator: the function computes the extents of the results of the named operators that depend on data.

    It returns a vector of int64: one element for each unknown extent, in the order in which output shapes mention them.
    """

    def add(fn: MeasureFn) -> MeasureFn:
        for op in ops:
            _MEASURES[op] = fn
        return fn

    return add


def lookup_measure(op: str, domain: str = "") -> MeasureFn | None:
    """The measure of an operator, None if its shapes never depend on data (or it can't be compiled)."""
    return None if domain else _MEASURES.get(op)


def lookup(op: str, domain: str = "") -> LowerFn | None:
    """The lowering of an operator, None if there is none (only ai.onnx has any: names of other domains mean other things)."""
    return None if domain else _TABLE.get(op)


def names() -> list[str]:
    """All operators with a lowering."""
    return sorted(_TABLE)


class LowerContext(InferContext):
    """One node being lowered: everything of ``InferContext`` plus operand tensors and the kernel builder.

    Elements of types that are stored narrower than they are computed with come widened, and results are expected so, not rounded.
    Every operator gets operands rounded to their own type, as if they had been stored, so that nodes give the same in one kernel as
    in several. (Those that select leave it to their reader, which gives the same.) Operators that move elements get them as they
    are stored, where none of their operands was computed in this kernel.

    Args:
        operand: the tensor of a value, as it was stored or computed.
        rounded: the same of a value that was computed in this kernel, rounded to its type.

    Attributes:
        pack: makes an operand of a constant array that the lowering rearranged.
        layout: that of the kernel's result.
        read: receives the constants whose elements were asked for.
        quantization: finds scale and zero point of a node among the operands of the kernel.
        halves: whether float16 is what the operator computes float16 in.
    """

    def __init__(
        self,
        node: Node,
        builder: KernelBuilder,
        operand: Callable[[Value], Tensor],
        rounded: Callable[[Value], Tensor],
        pack: Callable[[np.ndarray[Any, Any]], Tensor],
        layout: Layout = PLAIN,
        read: set[Value] | None = None,
        quantization: Callable[[Node], Quantization | None] | None = None,
        halves: bool = False,
    ) -> None:
        assert node.graph is not None
        super().__init__(node, node.graph)
        self.k = builder
        self._operand = operand
        self._rounded = rounded
        self.pack = pack
        self.layout = layout
        self.read = set() if read is None else read
        self._quantization = quantization
        self._halves = halves

    def _row(self, value: Value) -> ElementType:
        """How elements of a value are stored and computed with, by this operator."""
        row = element_type(value.dtype, self.node.label)
        return HALF if self._halves and row.dtype is HALF.dtype else row

    def quantization(self) -> Quantization | None:
        """The scale and zero point of a QuantizeLinear or DequantizeLinear, None if they aren't single known numbers."""
        return None if self._quantization is None else self._quantization(self.node)

    def const(self, i: int) -> Array | None:
        """As in ``InferContext``; notes that the kernel is made of what the array holds."""
        value = self.node.input(i)
        if value is not None and value.is_const:
            self.read.add(value)
        return super().const(i)

    def x(self, i: int) -> Tensor:
        """Operand ``i`` as a tensor; those of element-wise operators are broadcast where only run time tells whether they are."""
        if has_trait(self.node, BROADCAST):
            return self.broadcast_operand(i, self.node.out.shape)
        return self._element(i)

    def _element(self, i: int) -> Tensor:
        """Operand ``i``, its elements in the form that this operator takes."""
        value = self.value(i)
        row = self._row(value)
        if row is HALF:
            return _converted(self._operand(value), row.stored, row.storage)
        if not row.is_narrow:
            return self._operand(value)
        if self._moves_stored:
            return _converted(self._operand(value), row.stored, row.storage)
        tensor = self._operand(value)
        if tensor.dtype == row.storage or value.producer is None:
            return _converted(tensor, row.computed, row.compute)
        return tensor if self._rounds_later else self._rounded(value)

    @property
    def _rounds_later(self) -> bool:
        """Whether rounding this operator's results gives what it gives for rounded operands: rounding is monotonic."""
        return has_trait(self.node, MOVEMENT) or has_trait(self.node, SELECTS)

    def stored(self, i: int) -> Tensor:
        """Operand ``i``, its elements as they are stored."""
        value = self.value(i)
        return stored(self._operand(value), element_type(value.dtype, self.node.label))

    @functools.cached_property
    def _moves_stored(self) -> bool:
        """Whether this operator moves elements that are all at hand as they are stored, constants of one value aside."""
        if not has_trait(self.node, MOVEMENT):
            return False
        narrow = [v for v in self.node.inputs if v is not None and element_type(v.dtype, self.node.label).is_narrow]
        return all(v.is_const or self._operand(v).dtype == element_type(v.dtype).storage for v in narrow)

    def broadcast_operand(self, i: int, shape: Shape) -> Tensor:
        """Operand ``i`` with the extents of ``shape`` on the axes of which only run time tells whether they are 1."""
        return self.spread(self._element(i), self.shape(i), shape)

    def spread(self, tensor: Tensor, own: Shape, shape: Shape) -> Tensor:
        """``broadcast_operand`` of a tensor whose dimensions are ``own``."""
        target = shape[len(shape) - len(own) :]
        axes = {a: self.k.dim(to) for a, (d, to) in enumerate(zip(own, target)) if self.is_stretched(d, to)}
        return stretched(tensor, axes, self.k.uneven.assume) if axes else tensor

    @property
    def operands(self) -> list[Tensor]:
        """All operands; every one must be present."""
        return [self.x(i) for i in range(len(self.node.inputs))]

    def dims(self, dims: Sequence[Dim]) -> tuple[Expr, ...]:
        """Dimensions as TVM expressions."""
        return self.k.shape(dims)

    def out_shape(self, i: int = 0) -> tuple[Expr, ...]:
        """Shape of output ``i``."""
        value = self.node.output(i)
        assert value is not None
        return self.k.shape(value.shape)

    def out_dtype(self, i: int = 0) -> str:
        """TVM dtype of the elements that output ``i`` is expected in."""
        row = self.out_type(i)
        return row.storage if self._moves_stored else row.compute

    def out_type(self, i: int = 0) -> ElementType:
        """How elements of output ``i`` are stored and computed with."""
        value = self.node.output(i)
        assert value is not None
        return self._row(value)

    def static_shape(self, i: int) -> tuple[int, ...]:
        """Shape of operand ``i`` as integers, refused with a remedy when symbolic."""
        type_ = self.type(i)
        if not type_.is_static:
            raise self.unsupported(f"{self.node.op} of the symbolic shape {type_}", "fix the input shapes with --shape")
        return type_.static_shape


def _converted(tensor: Tensor, convert: Callable[[Expr], Expr], dtype: str) -> Tensor:
    """``tensor`` with ``convert`` applied to its elements, itself if they are of the type already."""
    if tensor.dtype == dtype:
        return tensor
    return Tensor(tensor.shape, dtype, lambda *index: convert(tensor(*index)))


def stored(tensor: Tensor, row: ElementType) -> Tensor:
    """``tensor`` with its elements as they are stored."""
    return _converted(tensor, lambda x: row.stored(let(x)), row.storage) if row.is_narrow else tensor


def rounded(tensor: Tensor, row: ElementType) -> Tensor:
    """``tensor`` with its elements rounded to those that can be stored, in the form that is computed with."""
    return Tensor(tensor.shape, row.compute, lambda *index: row.computed(row.stored(let(tensor(*index)))))


def const(value: Any, dtype: str) -> Expr:
    """A scalar constant of a TVM dtype."""
    if isinstance(value, np.generic):
        value = value.item()
    return constant(value, dtype)


def scalar_operand(array: np.ndarray[Any, Any], dtype: str, shape: Sequence[Expr]) -> Tensor:
    """A constant tensor whose elements are all equal, as an immediate."""
    value = const(array.reshape(-1)[0], dtype)
    return Tensor(shape, dtype, lambda *_: value)
