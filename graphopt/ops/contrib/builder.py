"""What a rule sees of its node (operands, attributes) and how it emits the plain operators that stand for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import ModelError, UnsupportedOpError
from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Array, Node, Value
from graphopt.ir.types import Shape
from graphopt.ops.context import InferContext, known_array
from graphopt.ops.contrib.table import Entry
from graphopt.ops.operand_types import check_types


class Builder:
    """One node on its way to plain operators, which are inserted before it."""

    def __init__(self, node: Node, editor: Editor, entry: Entry) -> None:
        assert node.graph is not None
        self.node, self.editor, self.entry = node, editor, entry
        self.context = InferContext(node, node.graph)
        self.made: list[Node] = []

    # -- operands and results -----------------------------------------------------------------------------------
    def x(self, name: str) -> Value:
        """The operand that the table gives this name.

        Raises:
            ModelError: it is missing.
        """
        return self.context.value(self.entry.position(name))

    def option(self, name: str) -> Value | None:
        """Like ``x``, None when the operand is left out."""
        return self.node.input(self.entry.position(name))

    def shape(self, value: Value) -> Shape:
        """The shape of a value.

        Raises:
            UnsupportedOpError: its rank is not known, or it is no tensor.
        """
        if value in self.node.inputs:
            return self.context.shape(self.node.inputs.index(value))
        return value.shape

    def rank(self, value: Value) -> int:
        """How many axes a value has; like ``shape``."""
        return len(self.shape(value))

    def dtype(self, value: Value) -> DType:
        """Element type of a value.

        Raises:
            UnsupportedOpError: it is no tensor.
        """
        if value in self.node.inputs:
            return self.context.dtype(self.node.inputs.index(value))
        return value.dtype

    def is_wanted(self, index: int) -> bool:
        """Whether anything reads result ``index``."""
        out = self.node.output(index)
        return out is not None and bool(out.uses or out.escapes)

    # -- attributes ---------------------------------------------------------------------------------------------
    def integer(self, name: str, default: int) -> int:
        """An integer attribute.

        Raises:
            ModelError: it has another kind.
        """
        return int(self._attribute(name, default, int))

    def flag(self, name: str, default: int = 0) -> bool:
        """An attribute that means yes or no.

        Raises:
            ModelError: it is neither 0 nor 1.
        """
        found = self.integer(name, default)
        if found not in (0, 1):
            raise self.invalid(f"attribute {name} is {found}; it means yes (1) or no (0)")
        return bool(found)

    def number(self, name: str, default: float) -> float:
        """A float attribute.

        Raises:
            ModelError: it has another kind.
        """
        return float(self._attribute(name, default, (int, float)))

    def text(self, name: str, default: str) -> str:
        """A string attribute.

        Raises:
            ModelError: it has another kind.
        """
        return str(self._attribute(name, default, str))

    def integers(self, name: str) -> list[int] | None:
        """An attribute that lists integers, None when it is left out.

        Raises:
            ModelError: it has another kind.
        """
        found = self.node.attrs.get(name)
        if found is None:
            return None
        if not isinstance(found, (list, tuple)) or not all(isinstance(v, int) for v in found):
            raise self.invalid(f"attribute {name} is {found!r}, which is no list of integers")
        return list(found)

    def numbers(self, name: str) -> list[float]:
        """An attribute that lists floats, nothing when it is left out.

        Raises:
            ModelError: it has another kind.
        """
        found = self.node.attrs.get(name, [])
        if not isinstance(found, (list, tuple)) or not all(isinstance(v, (int, float)) for v in found):
            raise self.invalid(f"attribute {name} is {found!r}, which is no list of numbers")
        return [float(v) for v in found]

    def needed(self, name: str) -> Any:
        """An attribute that has no default.

        Raises:
            ModelError: it is missing.
        """
        if name not in self.node.attrs:
            raise self.invalid(f"attribute {name} is missing")
        return self.node.attrs[name]

    def _attribute(self, name: str, default: Any, kinds: type | tuple[type, ...]) -> Any:
        found = self.node.attrs.get(name, default)
        if not isinstance(found, kinds):
            raise self.invalid(f"attribute {name} is {found!r} of the wrong kind")
        return found

    def kept(self, *names: str) -> dict[str, Any]:
        """Those of the attributes that the node has, to hand on as they are."""
        return {name: self.node.attrs[name] for name in names if name in self.node.attrs}

    # -- emitting -----------------------------------------------------------------------------------------------
    def emit(self, op: str, inputs: Sequence[Value | None], attrs: Mapping[str, Any] | None = None) -> Value:
        """The result of a new node of ai.onnx in its newest form, before the node that it helps to replace.

        Raises:
            ModelError: its operands don't fit it.
        """
        return self.emit_all(op, inputs, attrs, 1)[0]

    def emit_all(
        self, op: str, inputs: Sequence[Value | None], attrs: Mapping[str, Any] | None, outputs: int
    ) -> list[Value]:
        """Like ``emit`` for a node of several results."""
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        made = self.editor.node(op, given, dict(attrs or {}), outputs=outputs, before=self.node, like=[self.node])
        check_types(made)
        self.made.append(made)
        return [out for out in made.outputs if out is not None]

    def constant(self, array: Any, what: str, dtype: Any = None) -> Value:
        """A new constant, named after the node."""
        return self.editor.constant(np.asarray(array, dtype), f"{self.node.name}_{what}")

    def integer_list(self, values: Sequence[int], what: str) -> Value:
        """A constant list of axes, sizes and the like."""
        return self.constant(list(values), what, np.int64)

    def transposed(self, value: Value, perm: Sequence[int]) -> Value:
        """A value with its axes in another order, at once if it is a constant."""
        if list(perm) == sorted(perm):
            return value
        if value.data is not None:
            turned = np.ascontiguousarray(value.data.transpose(perm))
            return self.editor.constant(turned, f"{value.name}_transposed")
        return self.emit("Transpose", [value], {"perm": list(perm)})

    def reshaped(self, value: Value, shape: Sequence[int]) -> Value:
        """A value in a shape that is known, at once if it is a constant."""
        if self.shape(value) == tuple(shape):
            return value
        array = known_array(value)
        if array is not None:
            return self.editor.constant(array.reshape(shape), f"{value.name}_reshaped")
        return self.emit("Reshape", [value, self.integer_list(shape, "shape")])

    def scaled(self, value: Value, factor: float) -> Value:
        """A value times a number, which is rounded to the value's type."""
        if factor == 1:
            return value
        return self.emit("Mul", [value, self.constant(factor, "factor", self.dtype(value).numpy)])

    def product(self, a: Value, b: Value) -> Value:
        """The product of two values of one type, computed at once where both are constants."""
        left, right = known_array(a), known_array(b)
        if left is None or right is None:
            return self.emit("Mul", [a, b])
        array: Array = np.asarray(np.multiply(left, right, dtype=left.dtype))
        return self.editor.constant(array, f"{self.node.name}_scale")

    # -- refusing -----------------------------------------------------------------------------------------------
    def invalid(self, why: str) -> ModelError:
        """The error for a node that its definition doesn't allow."""
        return self.context.invalid(why)

    def refuse(self, why: str, hint: str) -> UnsupportedOpError:
        """The error for a legal node that has no plain form here."""
        return UnsupportedOpError(why, code="unsupported-contrib-op", node=self.node.label, hint=hint)
