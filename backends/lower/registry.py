"""The table of operator lowerings and what a lowering function sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphopt.backends.tensors.builder import KernelBuilder
from graphopt.backends.tensors.exact import constant
from graphopt.backends.tensors.tensor import Expr, Tensor, stretched
from graphopt.errors import UnsupportedOpError
from graphopt.ir.dims import Dim
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array, Node, Value
from graphopt.ir.layout import PLAIN, Layout
from graphopt.ir.types import Shape
from graphopt.ops.context import InferContext
from graphopt.ops.registry import BROADCAST, has_trait

Lowered: TypeAlias = "Tensor | list[Tensor]"
LowerFn: TypeAlias = Callable[["LowerContext"], Lowered]
MeasureFn: TypeAlias = Callable[["LowerContext"], Tensor]

TVM_DTYPES: dict[DType, str] = {
    DType.f32: "float32", DType.f64: "float64", DType.f16: "float16", DType.i8: "int8", DType.i16: "int16", DType.i32: "int32",
    DType.i64: "int64", DType.u8: "uint8", DType.u16: "uint16", DType.u32: "uint32", DType.u64: "uint64", DType.bool_: "bool",
}  # fmt: skip

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


def tvm_dtype(dtype: DType, node: Node | None = None) -> str:
    """TVM's name of an element type.

    Raises:
        UnsupportedOpError: no kernels are generated for the type.
    """
    if dtype not in TVM_DTYPES:
        raise UnsupportedOpError(
            f"no kernels for element type {dtype}", code="unsupported-dtype", node=node.label if node else None,
            hint="convert the model to float32, float16 or an 8 to 64 bit integer type",
        )  # fmt: skip
    return TVM_DTYPES[dtype]


class LowerContext(InferContext):
    """One node being lowered: everything of ``InferContext`` plus operand tensors and the kernel builder.

    Attributes:
        pack: makes an operand of a constant array that the lowering rearranged.
        layout: that of the kernel's result.
        read: receives the constants whose elements were asked for.
    """

    def __init__(
        self,
        node: Node,
        builder: KernelBuilder,
        operand: Callable[[Value], Tensor],
        pack: Callable[[np.ndarray[Any, Any]], Tensor],
        layout: Layout = PLAIN,
        read: set[Value] | None = None,
    ) -> None:
        assert node.graph is not None
        super().__init__(node, node.graph)
        self.k = builder
        self._operand = operand
        self.pack = pack
        self.layout = layout
        self.read = set() if read is None else read

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
        return self._operand(self.value(i))

    def broadcast_operand(self, i: int, shape: Shape) -> Tensor:
        """Operand ``i`` with the extents of ``shape`` on the axes of which only run time tells whether they are 1."""
        return self.spread(self._operand(self.value(i)), self.shape(i), shape)

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
        """TVM dtype of output ``i``."""
        value = self.node.output(i)
        assert value is not None
        return tvm_dtype(value.dtype, self.node)

    def static_shape(self, i: int) -> tuple[int, ...]:
        """Shape of operand ``i`` as integers, refused with a remedy when symbolic."""
        type_ = self.type(i)
        if not type_.is_static:
            raise self.unsupported(f"{self.node.op} of the symbolic shape {type_}", "fix the input shapes with --shape")
        return type_.static_shape


def const(value: Any, dtype: str) -> Expr:
    """A scalar constant of a TVM dtype."""
    if isinstance(value, np.generic):
        value = value.item()
    return constant(value, dtype)


def scalar_operand(array: np.ndarray[Any, Any], dtype: str, shape: Sequence[Expr]) -> Tensor:
    """A constant tensor whose elements are all equal, as an immediate."""
    value = const(array.reshape(-1)[0], dtype)
    return Tensor(shape, dtype, lambda *_: value)
