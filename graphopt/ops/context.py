"""What an inference function sees of its node: types, constants, contents, attributes, and how to refuse."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from graphopt.errors import ModelError, UnsupportedOpError
from graphopt.ir.atoms import SymbolKind
from graphopt.ir.broadcast import broadcast_dim, fit, fit_one_way, is_one, never_stretched
from graphopt.ir.dims import Dim, SymExpr, equal_int, nonnegative
from graphopt.ir.dims import apply as apply_dim
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array, Content, Graph, Node, Value
from graphopt.ir.intervals import settled
from graphopt.ir.types import OpaqueType, Shape, TensorType

MAX_CONTENT = 4096
"""Largest integer tensor whose elements are tracked one by one as dimensions."""


class InferContext:
    """View of one node for type inference."""

    def __init__(self, node: Node, graph: Graph) -> None:
        self.node = node
        self.graph = graph

    # -- inputs -------------------------------------------------------------------------------------------------
    def has(self, i: int) -> bool:
        """Whether input ``i`` is present."""
        return self.node.input(i) is not None

    def value(self, i: int) -> Value:
        """Input ``i``, which must be present."""
        value = self.node.input(i)
        if value is None:
            raise ModelError(f"input {i} of {self.node.op} is missing", node=self.node.label, hint="check the export")
        return value

    def type(self, i: int) -> TensorType:
        """Tensor type of input ``i`` with known rank."""
        type_ = self.value(i).type
        if isinstance(type_, OpaqueType):
            raise self.not_a_tensor(i)
        if not isinstance(type_, TensorType) or type_.shape is None:
            raise UnsupportedOpError(
                f"input {i} (%{self.value(i).name}) is {type_ or 'of unknown type'}; a tensor of known rank is needed",
                code="unknown-rank",
                node=self.node.label,
                hint="give the model static ranks: export with declared input shapes, or pass --shape",
            )
        return type_

    def shape(self, i: int) -> Shape:
        """Shape of input ``i``."""
        shape = self.type(i).shape
        assert shape is not None
        return shape

    def dtype(self, i: int) -> DType:
        """Element type of input ``i``."""
        value = self.value(i)
        if not isinstance(value.type, TensorType):
            raise self.not_a_tensor(i)
        return value.dtype

    def not_a_tensor(self, i: int) -> UnsupportedOpError:
        """The error for a sequence, optional or map where a tensor is needed."""
        return UnsupportedOpError(
            f"input {i} (%{self.value(i).name}) is no tensor ({self.value(i).type or 'of unknown type'})",
            code="unsupported-type",
            node=self.node.label,
            hint="sequences, optionals and maps are not compiled; export the model with tensors only",
        )

    def rank(self, i: int) -> int:
        """Rank of input ``i``."""
        return len(self.shape(i))

    def const(self, i: int) -> Array | None:
        """The array of input ``i`` if it is known now: constant, or integer content without symbols."""
        value = self.node.input(i)
        return None if value is None else known_array(value)

    def need_const(self, i: int, what: str) -> Array:
        """Like ``const``, but refuses with a remedy when not known."""
        array = self.const(i)
        if array is None:
            raise self.dynamic(i, what)
        return array

    def dynamic(self, i: int, what: str) -> UnsupportedOpError:
        """The error for an operand that has to be known when compiling."""
        return UnsupportedOpError(
            f"{what} (input {i}, %{self.value(i).name}) is computed at run time; it must be a constant",
            code="dynamic-operand",
            node=self.node.label,
            hint="make it an initializer, or fix the input shapes with --shape so that it folds to a constant",
        )

    def content(self, i: int) -> Content:
        """Elements of the integer input ``i`` as dimensions. Unknown elements become symbols bound at run time.

        Raises:
            UnsupportedOpError: the number of elements is not known when compiling.
        """
        value = self.value(i)
        known = content_of(value)
        if known is not None:
            return known
        type_ = self.type(i)
        count = type_.num_elements
        if count is None or count > MAX_CONTENT:
            raise self.dynamic(i, "a shape-like operand of unknown length")
        names = [self.graph.fresh_symbol("v", SymbolKind.element) for _ in range(count)]
        array = np.empty(type_.static_shape, object)
        array.reshape(-1)[:] = names
        value.content = array
        value.binds = True
        return array

    # -- attributes ---------------------------------------------------------------------------------------------
    def attr(self, name: str, default: Any = None) -> Any:
        """Attribute value or ``default``; the schema's own default when ``default`` is None."""
        return attr(self.node, name, default)

    # -- results ------------------------------------------------------------------------------------------------
    def assume_equal(self, a: Dim, b: Dim, why: str) -> None:
        """Record that two dimensions must be equal at run time.

        Raises:
            ModelError: they are known to differ.
        """
        diff = a - b
        if isinstance(diff, int):
            if diff != 0:
                raise self.invalid(f"{why}: {a} and {b} differ")
            return
        self._assume(a, b, why)

    def _assume(self, a: Dim, b: Dim, why: str) -> None:
        self.graph.constraints.setdefault((a, b), f"{self.node.label}: {why}")

    def assume_at_most(self, a: Dim, b: Dim, why: str) -> None:
        """Record that ``a <= b`` must hold at run time.

        Raises:
            ModelError: it is known not to.
        """
        room = b - a
        if isinstance(room, int):
            if room < 0:
                raise self.invalid(f"{why}: {a} and {b}")
        elif not nonnegative(room):
            self.assume_equal(apply_dim("lt", b, a), 0, why)

    def assume_not(self, a: Dim, value: int, why: str) -> None:
        """Record that ``a`` must not be ``value`` at run time.

        Raises:
            ModelError: it is known to be.
        """
        same = equal_int(a, value)
        if same == 1:
            raise self.invalid(f"{why}: {a}")
        if not isinstance(same, int):
            self.assume_equal(same, 0, why)

    def assume_shape(self, i: int, shape: Shape, what: str) -> None:
        """Record that input ``i``, if present, has this shape at run time.

        Raises:
            ModelError: it is known to have another one.
        """
        if not self.has(i):
            return
        if self.rank(i) != len(shape):
            raise self.invalid(f"{what} of rank {self.rank(i)} where {len(shape)} axes are needed")
        for have, want in zip(self.shape(i), shape):
            self.assume_equal(have, want, what)

    def broadcast(self, *shapes: Shape, what: str = "broadcast dimensions") -> Shape:
        """Numpy-style broadcast. A symbolic dimension that meets another one may be 1 at run time, unless it never is."""
        rank = max((len(s) for s in shapes), default=0)
        out: list[Dim] = [1] * rank
        for shape in shapes:
            for axis, dim in enumerate(shape, start=rank - len(shape)):
                out[axis] = self._broadcast_dim(out[axis], dim, what)
        return tuple(out)

    def _broadcast_dim(self, have: Dim, dim: Dim, what: str) -> Dim:
        if have == dim or dim == 1:
            return have
        if have == 1:
            return dim
        if self.known_equal(have, dim) or self.is_one(have) == self.is_one(dim):
            self.assume_equal(have, dim, what)
            return have if isinstance(have, int) else dim
        for long, other in ((have, dim), (dim, have)):
            if self.is_one(long) == 0:
                self._assume(*fit_one_way(other, long), f"{what} must be equal, or one of them 1")
                return long
        self._assume(*fit(have, dim), f"{what} must be equal, or one of them 1")
        return broadcast_dim(have, dim)

    def is_one(self, dim: Dim) -> Dim:
        """1 if the dimension is 1, 0 if it never is, symbolic when that turns out at run time."""
        return settled(is_one(dim), self.graph.bounds)

    def broadcast_to(self, shape: Shape, target: Shape, what: str) -> None:
        """Record that ``shape`` broadcasts to ``target``, which stays as it is.

        Raises:
            ModelError: it is known not to.
        """
        if len(shape) > len(target):
            raise self.invalid(f"{what} has rank {len(shape)}, which does not broadcast to rank {len(target)}")
        for dim, to in zip(shape, target[len(target) - len(shape) :]):
            if dim in (to, 1) or self.known_equal(dim, to):
                continue
            if self.is_one(dim) in (0, self.is_one(to)):
                self.assume_equal(dim, to, f"extents of {what}")
            else:
                self._assume(*fit_one_way(dim, to), f"extents of {what} must be 1 or those that it is broadcast to")

    def known_equal(self, a: Dim, b: Dim) -> bool:
        """Whether the model only runs where the two dimensions are equal, as far as was found until now."""
        return (a, b) in self.graph.constraints or (b, a) in self.graph.constraints

    def is_stretched(self, dim: Dim, to: Dim) -> bool:
        """Whether a dimension that broadcasts to ``to`` may turn out to be 1 at run time while ``to`` is not."""
        if never_stretched(dim, to) or self.known_equal(dim, to):
            return False
        return self.is_one(dim) not in (0, self.is_one(to))

    def axis(self, value: int, rank: int, *, extent: int = 0) -> int:
        """A non-negative axis out of ``value``; ``extent`` more positions are allowed at the end."""
        limit = rank + extent
        if not -limit <= value < max(limit, 1):
            raise self.invalid(f"axis {value} is out of range for rank {rank}")
        return value + limit if value < 0 else value

    def invalid(self, why: str) -> ModelError:
        """The error for a node that ONNX does not allow."""
        return ModelError(
            why, code="invalid-node", node=self.node.label, hint="the model is inconsistent; check its export"
        )

    def unsupported(self, why: str, hint: str | None = None) -> UnsupportedOpError:
        """The error for a legal node that is not handled."""
        return UnsupportedOpError(why, node=self.node.label, hint=hint)


def broadcasts_at_run_time(node: Node) -> bool:
    """Whether only run time tells if operands of an element-wise node have the result's extents or are broadcast to them."""
    if node.graph is None or node.output(0) is None or not isinstance(node.out.type, TensorType):
        return False
    context, shape = InferContext(node, node.graph), node.out.shape
    return any(
        context.is_stretched(d, to)
        for value in node.inputs
        if value is not None and isinstance(value.type, TensorType) and len(value.shape) <= len(shape)
        for d, to in zip(value.shape, shape[len(shape) - len(value.shape) :])
    )


def attr(node: Node, name: str, default: Any = None) -> Any:
    """Attribute ``name`` of a node, else ``default``, else the default of the operator's newest schema."""
    if name in node.attrs:
        return node.attrs[name]
    if default is not None or node.domain:
        return default
    found = _schema_default(node.op, name)
    return list(found) if isinstance(found, list) else found


@functools.cache
def _schema_default(op: str, name: str) -> Any:
    try:
        spec = onnx.defs.get_schema(op).attributes.get(name)
    except onnx.defs.SchemaError:
        return None
    if spec is None or spec.default_value.type == onnx.AttributeProto.UNDEFINED:
        return None
    found = onnx.helper.get_attribute_value(spec.default_value)
    return found.decode() if isinstance(found, bytes) else found


def content_of(value: Value) -> Content | None:
    """Elements of an integer tensor as dimensions, if known (possibly symbolic)."""
    if value.content is not None:
        return value.content
    if value.data is not None and value.data.size <= MAX_CONTENT and value.data.dtype.kind in "iub":
        out = np.empty(value.data.shape, object)
        out.reshape(-1)[:] = [int(x) for x in value.data.reshape(-1)]
        return out
    return None


def known_array(value: Value) -> Array | None:
    """The value's array if it is constant or an integer content without symbols."""
    if value.data is not None:
        return value.data
    if value.content is not None and not any(isinstance(d, SymExpr) for d in value.content.reshape(-1)):
        return value.content.astype(value.dtype.numpy)
    return None


def ints(array: Sequence[int] | Array) -> list[int]:
    """Elements as Python integers."""
    return [int(x) for x in np.asarray(array).reshape(-1)]
