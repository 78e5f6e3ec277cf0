"""Reductions of plain data as templates: over trailing axes and over axes in front of them."""

from __future__ import annotations

import math
from typing import ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import Emitted, KernelCall, No, Support, Yes
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels import reduce_columns
from graphopt.backends.cpu.kernels.reduce_rows import emit
from graphopt.backends.cpu.rows import RowConfig, RowTemplate
from graphopt.backends.specs.reduction import ColumnSpec
from graphopt.backends.templates.reduced import REDUCTIONS
from graphopt.backends.templates.reduced_rows import axes_of, reduction_refusal, row_reduction, shape_of
from graphopt.backends.templates.rows import matrix, row_types, single_node
from graphopt.backends.tensors.flatten import with_shapes
from graphopt.backends.tensors.index import product
from graphopt.ir.dims import SymExpr


class RowReduction(RowTemplate):
    """Sum, mean, norms and extremes over one or several trailing axes, long ones."""

    name: ClassVar[str] = "reduce-rows"
    anchors: ClassVar[frozenset[str]] = REDUCTIONS
    seconds_per_vector: ClassVar[float] = 2e-9

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = reduction_refusal(call, any_length=True)
        return Yes() if reason is None else No(reason)

    def emit(self, call: KernelCall, config: RowConfig, caps: Caps, name: str) -> Emitted:
        """The kernel."""
        problem = row_reduction(call)
        return problem.emitted(emit(problem.spec, config.lanes, config.parallel, config.prefetch, name))


class ColumnReduction(RowTemplate):
    """Reductions over neighbouring axes in front of the last ones, whose extents are known and make at least a vector."""

    name: ClassVar[str] = "reduce-columns"
    anchors: ClassVar[frozenset[str]] = REDUCTIONS
    seconds_per_vector: ClassVar[float] = 2e-9

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = single_node(call, data=1)
        if reason is not None:
            return No(reason)
        axes = axes_of(call)
        if not axes or axes != tuple(range(axes[0], axes[-1] + 1)) or axes[-1] == len(shape_of(call)) - 1:
            return No("not over neighbouring axes before the last")
        behind = shape_of(call)[axes[-1] + 1 :]
        if not all(isinstance(d, int) for d in behind):
            return No("an unknown number of columns")
        columns = math.prod(call.nominal(d) for d in behind)
        if all(shape_of(call)[a] == 1 for a in axes) or columns < row_types(call).lanes(caps):
            return No("few columns")
        return Yes()

    def emit(self, call: KernelCall, config: RowConfig, caps: Caps, name: str) -> Emitted:
        """The kernel."""
        node = call.group.anchor
        x = node.inputs[0]
        assert x is not None
        axes, shape = axes_of(call), shape_of(call)
        first, behind = axes[0], axes[-1] + 1
        m = matrix(shape, first)
        rows = product(m.shape[first:behind])
        defined = dict(m.defined)
        if not isinstance(rows, (int, tirx.Var)):
            defined[of_rows := tirx.Var("rows_of_one", "int64")] = rows
            rows = of_rows
        columns = math.prod(call.nominal(d) for d in shape[behind:])
        spec = ColumnSpec(node.op, m.rows, rows, columns, row_types(call))
        matrices = math.prod(call.nominal(d) for d in shape[:first])
        vectors = column_vectors(matrices, columns, config, caps, caps.vector_registers // 2)
        function = reduce_columns.emit(spec, config.lanes, vectors, config.parallel, config.prefetch, name)
        defined = {var: value for var, value in defined.items() if var in (m.rows, rows)}
        kept = {shape[i]: e for i, e in enumerate(m.shape)}
        out = tuple(kept.get(d, d) if isinstance(d, SymExpr) else d for d in node.out.shape)
        return Emitted(with_shapes(function, {0: m.shape, 1: out}, defined), [x])


def column_vectors(matrices: int, columns: int, config: RowConfig, caps: Caps, most: int) -> int:
    """Vectors a tile of columns: ``most``, fewer where threads would get none."""
    tiles = -(-4 * caps.cores // matrices) if config.parallel else 1
    return max(1, min(most, columns // config.lanes // tiles))
