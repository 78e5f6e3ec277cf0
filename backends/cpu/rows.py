"""Row kernels as templates: softmax and normalisations over trailing axes of plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.packing import Packing
from graphopt.backends.base.template import Emitted, KernelCall, KernelTemplate, No, Packed, Support, Yes
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels import norm_rows, softmax_columns, softmax_rows
from graphopt.backends.specs.normalization import NormSpec
from graphopt.backends.specs.softmax import ColumnSoftmaxSpec, SoftmaxSpec
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.templates.kernel_types import computed_in_single, types_of
from graphopt.backends.templates.reading import plain_prologue, row_of
from graphopt.backends.templates.writing import converted_result
from graphopt.backends.tensors.flatten import with_shapes
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.dims import Dim, SymExpr
from graphopt.ir.graph import Array, Value
from graphopt.ops.context import attr, known_array

WORTH_TWO_THREADS = 1e-5
"""Seconds of work on one thread above which starting others pays."""


@dataclass(frozen=True)
class RowConfig:
    """How rows are computed.

    Attributes:
        lanes: elements per vector.
        parallel: whether rows are shared among threads.
        prefetch: whether a row is fetched while the one before is computed.
    """

    lanes: int
    parallel: bool
    prefetch: bool = False


@dataclass(frozen=True)
class Matrix:
    """A tensor seen as rows of trailing axes.

    Attributes:
        shape: as the kernel's parameters are declared.
        rows, length: products of leading and trailing axes: an int, a variable, or a product of these.
        defined: variables that stand for products, with their values.
    """

    shape: tuple[Expr, ...]
    rows: Expr
    length: Expr
    defined: dict[Any, Expr]


def matrix(shape: Sequence[Dim], axis: int) -> Matrix:
    """``shape`` cut in two at ``axis``."""
    dims: dict[Dim, Expr] = {}
    for d in shape:
        if isinstance(d, SymExpr):
            dims.setdefault(d, tirx.Var(f"d{len(dims)}", "int64"))
    nd = tuple(dims.get(d, d) for d in shape)
    defined: dict[Any, Expr] = {}

    def merged(part: Sequence[Expr], name: str) -> Expr:
        if all(isinstance(d, int) for d in part):
            return math.prod(part)
        if len(part) == 1:
            return part[0]
        total: Expr = 1
        for d in part:
            total = total * d
        defined[var := tirx.Var(name, "int64")] = total
        return var

    return Matrix(nd, merged(nd[:axis], "rows"), merged(nd[axis:], "length"), defined)


def flattened(function: Any, m: Matrix) -> Any:
    """A kernel over ``(rows, length)`` with its first and last parameter in the tensor's own shape."""
    return with_shapes(function, {0: m.shape, len(function.params) - 1: m.shape}, m.defined)


def single_node(call: KernelCall, data: int | None = None) -> str | None:
    """Why a group is not one node over plain data that the row kernels take, None if it is; they may round what they store.

    Args:
        call: the group.
        data: how many of the node's inputs are data; by default all.
    """
    node = call.group.anchor
    x = node.inputs[0]
    assert x is not None
    result = converted_result(call.group)
    if call.group.outputs != [result]:
        return "more than one result"
    reason = plain_prologue(call)
    if reason is not None:
        return reason
    if not computed_in_single(*node.inputs[:data], node.out, result):
        return "needs float32"
    if any(not call.layout(v).is_plain for v in (*call.group.inputs, *call.group.outputs)):
        return "needs plain layouts"
    if any(d == 0 for d in x.shape):
        return "no elements"
    return None


class RowTemplate(KernelTemplate[RowConfig]):
    """What the row kernels have in common.

    Attributes:
        seconds_per_vector: measured.
        prefetches: whether the kernel makes use of ``RowConfig.prefetch``.
    """

    config_type: ClassVar[type[Any]] = RowConfig
    converts: ClassVar[bool] = True
    seconds_per_vector: ClassVar[float]
    prefetches: ClassVar[bool] = True

    def default(self, call: KernelCall, caps: Caps) -> RowConfig:
        """Whole registers; threads where the work pays for them."""
        types = row_types(call)
        worth = caps.cores > 1 and self._seconds(call, caps) > WORTH_TWO_THREADS
        return RowConfig(types.lanes(caps), worth, types.input.bytes * _elements(call) > caps.l2_bytes // 2)

    def space(self, call: KernelCall, caps: Caps) -> Iterable[RowConfig]:
        """With threads or without, and with prefetching or without where the kernel knows it."""
        default = self.default(call, caps)
        fetches = (False, True) if self.prefetches else (default.prefetch,)
        return [replace(default, parallel=p, prefetch=f) for p in caps.thread_choices for f in fetches]

    def cost(self, call: KernelCall, config: RowConfig, caps: Caps) -> float:
        """By the number of vectors."""
        return self._seconds(call, caps) / max(caps.cores, 1)

    def _seconds(self, call: KernelCall, caps: Caps) -> float:
        return _elements(call) / row_types(call).lanes(caps) * self.seconds_per_vector


def row_types(call: KernelCall, weight: Value | None = None) -> KernelTypes:
    """The types of a kernel over the first operand of its only node."""
    node = call.group.anchor
    x = node.inputs[0]
    assert x is not None
    return types_of(call, x, None if weight is None else row_of(call, weight))


def _elements(call: KernelCall) -> int:
    x = call.group.anchor.inputs[0]
    assert x is not None
    return math.prod(d if isinstance(d, int) else 64 for d in x.shape)


class RowSoftmax(RowTemplate):
    """Softmax and LogSoftmax over the last axis."""

    name: ClassVar[str] = "softmax-rows"
    anchors: ClassVar[frozenset[str]] = frozenset({"Softmax", "LogSoftmax"})
    seconds_per_vector: ClassVar[float] = 1e-8

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        node = call.group.anchor
        reason = single_node(call)
        if reason is not None:
            return No(reason)
        rank = len(node.out.shape)
        if rank == 0 or int(attr(node, "axis")) % rank != rank - 1:
            return No("not over the last axis")
        return Yes()

    def emit(self, call: KernelCall, config: RowConfig, caps: Caps, name: str) -> Emitted:
        """The kernel."""
        node = call.group.anchor
        x = node.inputs[0]
        assert x is not None
        m = matrix(x.shape, len(x.shape) - 1)
        spec = SoftmaxSpec(m.rows, m.length, node.op == "LogSoftmax", row_types(call))
        return Emitted(flattened(softmax_rows.emit(spec, config.lanes, config.parallel, config.prefetch, name), m), [x])


class ColumnSoftmax(RowTemplate):
    """Softmax and LogSoftmax over another axis than the last: every extent known, rows of at least a vector."""

    name: ClassVar[str] = "softmax-columns"
    anchors: ClassVar[frozenset[str]] = RowSoftmax.anchors
    prefetches: ClassVar[bool] = False
    seconds_per_vector: ClassVar[float] = 1e-8

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        node = call.group.anchor
        reason = single_node(call)
        if reason is not None:
            return No(reason)
        shape = node.out.shape
        if not shape or _axis(call) == len(shape) - 1:
            return No("over the last axis")
        known = [d for d in shape if isinstance(d, int)]
        if len(known) < len(shape):
            return No("unknown extents")
        if math.prod(known[_axis(call) + 1 :]) < row_types(call).lanes(caps):
            return No("few columns")
        return Yes()

    def emit(self, call: KernelCall, config: RowConfig, caps: Caps, name: str) -> Emitted:
        """The kernel; tiles of up to 8 vectors that fit in the second-level cache."""
        node = call.group.anchor
        x = node.inputs[0]
        assert x is not None
        shape, axis = [d for d in x.shape if isinstance(d, int)], _axis(call)
        matrices, rows, columns = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
        spec = ColumnSoftmaxSpec(matrices, rows, columns, node.op == "LogSoftmax", row_types(call))
        fits = caps.l2_bytes // 4 // (spec.types.input.bytes * rows * config.lanes)
        tiles = -(-4 * caps.cores // matrices) if config.parallel else 1
        vectors = max(1, min(8, fits, columns // config.lanes // tiles))
        function = softmax_columns.emit(spec, config.lanes, vectors, config.parallel, name)
        return Emitted(with_shapes(function, {0: shape, 1: shape}, {}), [x])


class RowNorm(RowTemplate):
    """LayerNormalization, RMSNormalization, InstanceNormalization and GroupNormalization with one result."""

    name: ClassVar[str] = "norm-rows"
    anchors: ClassVar[frozenset[str]] = frozenset(
        {"LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization"}
    )
    seconds_per_vector: ClassVar[float] = 4e-9

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        node = call.group.anchor
        reason = single_node(call)
        if reason is not None:
            return No(reason)
        x, scale, bias = node.inputs[0], node.inputs[1], node.input(2)
        assert x is not None
        assert scale is not None
        if attr(node, "stash_type") not in (None, 1):
            return No("statistics in another type than float32")
        if _by_channel(call):
            if not isinstance(x.shape[1], int):
                return No("needs a known number of channels")
            groups = _groups(call)
            if groups < 1 or x.shape[1] % groups:
                return No("channels do not divide into the groups")
            return Yes()
        trailing = x.shape[_axis(call) :]
        for value in (scale, bias):
            if value is not None and value.shape[-len(trailing) :] != trailing:
                return No("scale or bias is broadcast")
            if value is not None and any(d != 1 for d in value.shape[: -len(trailing)]):
                return No("scale or bias differs from row to row")
        return Yes()

    def emit(self, call: KernelCall, config: RowConfig, caps: Caps, name: str) -> Emitted:
        """The kernel; scale and bias flat."""
        node = call.group.anchor
        x, scale, bias = node.inputs[0], node.inputs[1], node.input(2)
        assert x is not None
        assert scale is not None
        factors = [scale] if bias is None else [scale, bias]
        types = row_types(call, scale)
        if _by_channel(call):
            groups, channels = _groups(call), int(x.shape[1])  # type: ignore[arg-type]
            m = matrix(x.shape, 2)
            parts = channels // groups
            spatial = m.length
            rows = tirx.floordiv(m.rows, parts) if not isinstance(m.rows, int) else m.rows // parts
            spec = NormSpec(
                rows, parts, spatial, channels, float(attr(node, "epsilon")), bias=bias is not None, types=types
            )
        else:
            m = matrix(x.shape, _axis(call))
            centered = node.op == "LayerNormalization"
            spec = NormSpec(m.rows, 0, m.length, 0, float(attr(node, "epsilon")), centered, bias is not None, types)
        function = flattened(norm_rows.emit(spec, config.lanes, config.parallel, config.prefetch, name), m)
        shapes = {
            i + 1: self._declared(call, v, m) for i, v in enumerate(factors) if _array(v) is None and len(v.shape) > 1
        }
        if shapes:
            function = with_shapes(function, shapes, {})
        return Emitted(function, [x, *(_flat(v) for v in factors)])

    def _declared(self, call: KernelCall, value: Value, m: Matrix) -> tuple[Expr, ...]:
        trailing = m.shape[_axis(call) :]
        return (*(1,) * (len(value.shape) - len(trailing)), *trailing)


def _array(value: Value) -> Array | None:
    return known_array(value)


def _flat(value: Value) -> Value | Packed:
    array = _array(value)
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
