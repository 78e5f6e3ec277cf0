"""Row kernels as templates: softmax and normalisations over trailing axes of plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import Emitted, KernelCall, KernelTemplate, No, Support, Yes
from graphopt.backends.cpu.kernels import norm_rows, softmax_columns, softmax_rows
from graphopt.backends.specs.softmax import ColumnSoftmaxSpec, SoftmaxSpec
from graphopt.backends.templates.norm_rows import norm_problem, norm_refusal
from graphopt.backends.templates.rows import flattened, matrix, nominal_elements, row_types, single_node
from graphopt.backends.tensors.flatten import with_shapes
from graphopt.ops.context import attr
from graphopt.ops.registry import NORMALISES, SOFTMAX
from graphopt.ops.table import ops_with

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
        return RowConfig(types.lanes(caps), worth, types.input.bytes * nominal_elements(call) > caps.l2_bytes // 2)

    def space(self, call: KernelCall, caps: Caps) -> Iterable[RowConfig]:
        """With threads or without, and with prefetching or without where the kernel knows it."""
        default = self.default(call, caps)
        fetches = (False, True) if self.prefetches else (default.prefetch,)
        return [replace(default, parallel=p, prefetch=f) for p in caps.thread_choices for f in fetches]

    def cost(self, call: KernelCall, config: RowConfig, caps: Caps) -> float:
        """By the number of vectors."""
        return self._seconds(call, caps) / max(caps.cores, 1)

    def _seconds(self, call: KernelCall, caps: Caps) -> float:
        return nominal_elements(call) / row_types(call).lanes(caps) * self.seconds_per_vector


class RowSoftmax(RowTemplate):
    """Softmax and LogSoftmax over the last axis."""

    name: ClassVar[str] = "softmax-rows"
    anchors: ClassVar[frozenset[str]] = frozenset(ops_with(SOFTMAX))
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
    anchors: ClassVar[frozenset[str]] = frozenset(ops_with(NORMALISES))
    seconds_per_vector: ClassVar[float] = 4e-9

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = norm_refusal(call)
        return Yes() if reason is None else No(reason)

    def emit(self, call: KernelCall, config: RowConfig, caps: Caps, name: str) -> Emitted:
        """The kernel; scale and bias flat."""
        problem = norm_problem(call)
        return problem.emitted(norm_rows.emit(problem.spec, config.lanes, config.parallel, config.prefetch, name))


def _axis(call: KernelCall) -> int:
    node = call.group.anchor
    return int(attr(node, "axis")) % len(node.out.shape)
