"""Row kernels of GPUs as templates: softmax, normalisations and reductions over trailing axes of plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import element_type
from graphopt.backends.base.template import Emitted, KernelCall, KernelTemplate, No, Support, Yes
from graphopt.backends.cuda.cost.model import streaming_seconds
from graphopt.backends.cuda.kernels import norm_rows, reduce_rows, softmax_columns, softmax_rows
from graphopt.backends.cuda.kernels.cooperative_row import RowThreads, row_threads
from graphopt.backends.specs.softmax import ColumnSoftmaxSpec, SoftmaxSpec
from graphopt.backends.templates.norm_rows import NormProblem, norm_problem, norm_refusal
from graphopt.backends.templates.reduced import REDUCTIONS
from graphopt.backends.templates.reduced_rows import reduction_refusal, row_reduction
from graphopt.backends.templates.rows import flattened, matrix, nominal_elements, row_types, single_node
from graphopt.backends.tensors.flatten import with_shapes
from graphopt.ops.context import attr
from graphopt.ops.registry import NORMALISES, SOFTMAX
from graphopt.ops.table import ops_with


class RowTemplate(KernelTemplate[RowThreads]):
    """What the row kernels have in common: they take the time that memory takes."""

    config_type: ClassVar[type[Any]] = RowThreads
    converts: ClassVar[bool] = True

    def cost(self, call: KernelCall, config: RowThreads, caps: Caps) -> float:
        """Bytes read and written once, or once more a pass where rows aren't kept."""
        types = row_types(call)
        written = nominal_elements(call) if call.group.outputs[0].shape == call.group.anchor.out.shape else 0
        read = nominal_elements(call) * types.input.bytes * (1 if config.held else 2)
        moved = read + written * element_type(call.group.outputs[0].dtype).bytes
        return streaming_seconds(moved, caps)


class RowSoftmax(RowTemplate):
    """Softmax and LogSoftmax over the last axis."""

    name: ClassVar[str] = "softmax-rows"
    anchors: ClassVar[frozenset[str]] = frozenset(ops_with(SOFTMAX))

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

    def default(self, call: KernelCall, caps: Caps) -> RowThreads:
        """As many threads as keep a row in registers."""
        spec = self._spec(call)[0]
        return row_threads(spec.length, spec.types.input, spec.types.output)

    def emit(self, call: KernelCall, config: RowThreads, caps: Caps, name: str) -> Emitted:
        """The kernel."""
        x = call.group.anchor.inputs[0]
        assert x is not None
        spec, m = self._spec(call)
        return Emitted(flattened(softmax_rows.emit(spec, config, name), m), [x])

    def _spec(self, call: KernelCall) -> Any:
        node = call.group.anchor
        x = node.inputs[0]
        assert x is not None
        m = matrix(x.shape, len(x.shape) - 1)
        return SoftmaxSpec(m.rows, m.length, node.op == "LogSoftmax", row_types(call)), m


@dataclass(frozen=True)
class ColumnThreads:
    """How threads share columns.

    Attributes:
        slices: threads of a column.
    """

    slices: int


class ColumnSoftmax(KernelTemplate[ColumnThreads]):
    """Softmax and LogSoftmax over another axis than the last, every extent known."""

    name: ClassVar[str] = "softmax-columns"
    anchors: ClassVar[frozenset[str]] = RowSoftmax.anchors
    config_type: ClassVar[type[Any]] = ColumnThreads
    converts: ClassVar[bool] = True

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = single_node(call)
        if reason is not None:
            return No(reason)
        shape = call.group.anchor.out.shape
        if not all(isinstance(d, int) for d in shape):
            return No("unknown extents")
        return Yes() if shape and self._spec(call).columns > 1 else No("over the last axis")

    def default(self, call: KernelCall, caps: Caps) -> ColumnThreads:
        """At least four rows a thread."""
        rows = self._spec(call).rows
        slices = 1
        while slices < MOST_SLICES and slices * 8 <= rows:
            slices *= 2
        return ColumnThreads(slices)

    def cost(self, call: KernelCall, config: ColumnThreads, caps: Caps) -> float:
        """Bytes read and written once: what is read again comes from a cache."""
        types = row_types(call)
        moved = nominal_elements(call) * (types.input.bytes + types.output.bytes)
        return streaming_seconds(moved, caps)

    def emit(self, call: KernelCall, config: ColumnThreads, caps: Caps, name: str) -> Emitted:
        """The kernel."""
        x = call.group.anchor.inputs[0]
        assert x is not None
        function = softmax_columns.emit(self._spec(call), config.slices, name)
        return Emitted(with_shapes(function, {0: x.shape, 1: x.shape}, {}), [x])

    def _spec(self, call: KernelCall) -> ColumnSoftmaxSpec:
        node = call.group.anchor
        shape = [d for d in node.out.shape if isinstance(d, int)]
        axis = int(attr(node, "axis")) % len(shape)
        matrices, columns = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        return ColumnSoftmaxSpec(matrices, shape[axis], columns, node.op == "LogSoftmax", row_types(call))


MOST_SLICES = 16


class RowNorm(RowTemplate):
    """LayerNormalization, RMSNormalization, InstanceNormalization and GroupNormalization with one result."""

    name: ClassVar[str] = "norm-rows"
    anchors: ClassVar[frozenset[str]] = frozenset(ops_with(NORMALISES))

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = norm_refusal(call)
        return Yes() if reason is None else No(reason)

    def default(self, call: KernelCall, caps: Caps) -> RowThreads:
        """As many threads as keep a row in registers."""
        problem: NormProblem = norm_problem(call)
        types = problem.spec.types
        weights = () if problem.spec.parts else (types.weight,)
        return row_threads(problem.spec.length, types.input, types.output, *weights)

    def emit(self, call: KernelCall, config: RowThreads, caps: Caps, name: str) -> Emitted:
        """The kernel; scale and bias flat."""
        problem = norm_problem(call)
        return problem.emitted(norm_rows.emit(problem.spec, config, name))


class RowReduction(RowTemplate):
    """Sum, mean, norms and extremes over one or several trailing axes, long ones."""

    name: ClassVar[str] = "reduce-rows"
    anchors: ClassVar[frozenset[str]] = REDUCTIONS

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, unless there are few rows: the generic kernel shares each among several blocks."""
        reason = reduction_refusal(call)
        if reason is not None:
            return No(reason)
        spec = row_reduction(call).spec
        few = isinstance(spec.rows, int) and isinstance(spec.length, int) and spec.rows < caps.cores
        return No("few long rows") if few and spec.length > FEW_ROWS_LENGTH else Yes()

    def default(self, call: KernelCall, caps: Caps) -> RowThreads:
        """As many threads as keep a row in registers: they all read at once."""
        spec = row_reduction(call).spec
        return row_threads(spec.length, spec.types.input)

    def emit(self, call: KernelCall, config: RowThreads, caps: Caps, name: str) -> Emitted:
        """The kernel."""
        problem = row_reduction(call)
        return problem.emitted(reduce_rows.emit(problem.spec, config, name))


FEW_ROWS_LENGTH = 16384
"""Elements of a row above which a block a row isn't enough where multiprocessors would be idle."""
