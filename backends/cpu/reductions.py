"""Reductions over trailing axes of plain float32 data as a template."""

from __future__ import annotations

from typing import ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import Emitted, KernelCall, No, Support, Yes
from graphopt.backends.common.flatten import with_shapes
from graphopt.backends.cpu.kernels.reduce_rows import REDUCTIONS, ReduceSpec, emit
from graphopt.backends.cpu.rows import RowConfig, RowTemplate, matrix, single_node
from graphopt.ops.context import InferContext
from graphopt.ops.reduction import reduced_axes


class RowReduction(RowTemplate):
    """Sum, mean and norms over one or several trailing axes, at least ``MIN_LENGTH`` elements long."""

    name: ClassVar[str] = "reduce-rows"
    anchors: ClassVar[frozenset[str]] = REDUCTIONS
    seconds_per_vector: ClassVar[float] = 2e-9
    MIN_LENGTH: ClassVar[int] = 32

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = single_node(call, data=1)
        if reason is not None:
            return No(reason)
        if not call.group.anchor.out.shape:
            return No("a scalar result")
        axes = _axes(call)
        rank = len(_shape(call))
        if not axes or axes != tuple(range(rank - len(axes), rank)):
            return No("not over trailing axes")
        length = 1
        for d in _shape(call)[rank - len(axes) :]:
            if not isinstance(d, int):
                return No("a reduction of unknown length")
            length *= d
        return Yes() if length >= self.MIN_LENGTH else No("a short reduction")

    def emit(self, call: KernelCall, config: RowConfig, caps: Caps, name: str) -> Emitted:
        """The kernel."""
        node = call.group.anchor
        x = node.inputs[0]
        assert x is not None
        m = matrix(x.shape, len(x.shape) - len(_axes(call)))
        spec = ReduceSpec(node.op, m.rows, m.length)
        function = emit(spec, config.lanes, config.parallel, config.prefetch, name)
        kept = m.shape[: len(x.shape) - len(_axes(call))]
        out = kept if len(node.out.shape) == len(kept) else (*kept, *(1,) * len(_axes(call)))
        return Emitted(with_shapes(function, {0: m.shape, 1: out}, m.defined), [x])


def _shape(call: KernelCall) -> tuple[object, ...]:
    x = call.group.anchor.inputs[0]
    assert x is not None
    return x.shape


def _axes(call: KernelCall) -> tuple[int, ...]:
    node = call.group.anchor
    assert node.graph is not None
    return tuple(sorted(reduced_axes(InferContext(node, node.graph))))
