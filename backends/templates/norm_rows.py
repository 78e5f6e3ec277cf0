"""Normalisations as problems of rows: which calls are, their specification and their operands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.backends.base.packing import Packing
from graphopt.backends.base.template import Emitted, KernelCall, Packed
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.normalization import NormSpec
from graphopt.backends.templates.rows import Matrix, flattened, matrix, row_types, single_node
from graphopt.backends.tensors.flatten import with_shapes
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.graph import Array, Value
from graphopt.ops.context import attr, known_array


def norm_refusal(call: KernelCall) -> str | None:
    """Why a group is no normalisation of rows with one result, None if it is."""
    node = call.group.anchor
    reason = single_node(call)
    if reason is not None:
        return reason
    x, scale, bias = node.inputs[0], node.inputs[1], node.input(2)
    assert x is not None
    assert scale is not None
    if attr(node, "stash_type") not in (None, 1):
        return "statistics in another type than float32"
    if _by_channel(call):
        if not isinstance(x.shape[1], int):
            return "needs a known number of channels"
        groups = _groups(call)
        if groups < 1 or x.shape[1] % groups:
            return "channels do not divide into the groups"
        return None
    trailing = x.shape[_axis(call) :]
    for value in (scale, bias):
        if value is not None and value.shape[-len(trailing) :] != trailing:
            return "scale or bias is broadcast"
        if value is not None and any(d != 1 for d in value.shape[: -len(trailing)]):
            return "scale or bias differs from row to row"
    return None


@dataclass(frozen=True)
class NormProblem:
    """A normalisation.

    Attributes:
        call: the group.
        spec: what is computed.
        matrix: the data as rows.
    """

    call: KernelCall
    spec: NormSpec
    matrix: Matrix

    def emitted(self, function: Any) -> Emitted:
        """A kernel of `spec` with the operands' own shapes."""
        node = self.call.group.anchor
        x = node.inputs[0]
        assert x is not None
        factors = _factors(self.call)
        function = flattened(function, self.matrix)
        shapes = {
            i + 1: self._declared(v) for i, v in enumerate(factors) if known_array(v) is None and len(v.shape) > 1
        }
        if shapes:
            function = with_shapes(function, shapes, {})
        return Emitted(function, [x, *(_flat(v) for v in factors)])

    def _declared(self, value: Value) -> tuple[Expr, ...]:
        trailing = self.matrix.shape[_axis(self.call) :]
        return (*(1,) * (len(value.shape) - len(trailing)), *trailing)


def norm_problem(call: KernelCall) -> NormProblem:
    """The problem of a call that `norm_refusal` doesn't refuse."""
    node = call.group.anchor
    x, scale, bias = node.inputs[0], node.inputs[1], node.input(2)
    assert x is not None
    assert scale is not None
    types = row_types(call, scale)
    epsilon = float(attr(node, "epsilon"))
    if _by_channel(call):
        groups, channels = _groups(call), int(x.shape[1])  # type: ignore[arg-type]
        m = matrix(x.shape, 2)
        parts = channels // groups
        rows = tirx.floordiv(m.rows, parts) if not isinstance(m.rows, int) else m.rows // parts
        spec = NormSpec(rows, parts, m.length, channels, epsilon, bias=bias is not None, types=types)
    else:
        m = matrix(x.shape, _axis(call))
        centered = node.op == "LayerNormalization"
        spec = NormSpec(m.rows, 0, m.length, 0, epsilon, centered, bias is not None, types)
    return NormProblem(call, spec, m)


def _factors(call: KernelCall) -> list[Value]:
    """Scale, and bias if there is one."""
    return [v for v in call.group.anchor.inputs[1:3] if v is not None]


def _flat(value: Value) -> Value | Packed:
    array = known_array(value)
    return value if array is None or len(value.shape) == 1 else Packed(value, _Flat(array.shape))


@dataclass(frozen=True)
class _Flat(Packing):
    """All elements in one row."""

    def packed(self, array: Array) -> Array:
        """A copy only if they do not lie so."""
        return np.ascontiguousarray(array.reshape(-1))


def _by_channel(call: KernelCall) -> bool:
    return call.group.anchor.op in ("InstanceNormalization", "GroupNormalization")


def _groups(call: KernelCall) -> int:
    node = call.group.anchor
    if node.op == "GroupNormalization":
        return int(attr(node, "num_groups"))
    x = node.inputs[0]
    assert x is not None
    return int(x.shape[1])  # type: ignore[arg-type]


def _axis(call: KernelCall) -> int:
    node = call.group.anchor
    return int(attr(node, "axis")) % len(node.out.shape)
