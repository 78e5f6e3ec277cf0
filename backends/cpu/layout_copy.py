"""Copies into and out of channel blocks as a template: the borders of regions of convolutions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import element_type
from graphopt.backends.base.template import Emitted, KernelCall, KernelTemplate, No, Support, Yes
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.cost.constants import CLOCK
from graphopt.backends.cpu.kernels import layout_copy as kernels
from graphopt.backends.cpu.kernels.layout_copy import LayoutCopyConfig
from graphopt.backends.specs.layout_copy import LayoutCopySpec
from graphopt.backends.templates.kernel_types import computed_in_single
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Value

_NOMINAL = 56
"""Rows or columns assumed when they are symbolic."""


def copy_seconds(value: Value, caps: Caps) -> float:
    """Predicted seconds to copy a value from one layout into another, at a nominal clock."""
    size = float(element_type(value.dtype).bytes)
    for place, dim in enumerate(value.shape):
        size *= dim if isinstance(dim, int) else 1 if place < 2 else _NOMINAL
    serial, parallel = (kernels.predicted_cycles(size, caps, cores) for cores in (1, caps.cores))
    return min(serial, parallel) / CLOCK


class LayoutCopy(KernelTemplate[LayoutCopyConfig]):
    """Identity of a value between NCHW and NCHW{b}c, or the same with a depth, with no epilogue."""

    name: ClassVar[str] = "layout-copy"
    config_type: ClassVar[type[Any]] = LayoutCopyConfig
    anchors: ClassVar[frozenset[str]] = frozenset({"Identity"})

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        node = call.group.anchor
        x = node.inputs[0]
        if len(call.group.nodes) != 1 or x is None or x.is_const:
            return No("more than a copy")
        if not computed_in_single(x) or len(x.shape) not in (4, 5):
            return No("needs float32 data of rank 4 or 5")
        if not isinstance(x.shape[1], int) or any(d == 0 for d in x.shape):
            return No("needs a known number of channels and no empty dimension")
        if call.layout(x).is_plain == call.layout(node.out).is_plain:
            return No("not between a plain layout and channel blocks")
        reason = kernels.supports(_spec_of(call), caps)
        return No(reason) if reason is not None else Yes()

    def default(self, call: KernelCall, caps: Caps) -> LayoutCopyConfig:
        """Whole vectors; threads where they save time."""
        return kernels.default_config(_spec_of(call), caps)

    def space(self, call: KernelCall, caps: Caps) -> Iterable[LayoutCopyConfig]:
        """With threads or without."""
        return [replace(self.default(call, caps), parallel=parallel) for parallel in caps.thread_choices]

    def cost(self, call: KernelCall, config: LayoutCopyConfig, caps: Caps) -> float:
        """Predicted seconds at a nominal clock."""
        return copy_seconds(call.group.anchor.out, caps)

    def emit(self, call: KernelCall, config: LayoutCopyConfig, caps: Caps, name: str) -> Emitted:
        """The kernel over source and target."""
        x = call.group.anchor.inputs[0]
        assert x is not None
        return Emitted(kernels.emit(_spec_of(call), config, name), [x])


def _spec_of(call: KernelCall) -> LayoutCopySpec:
    node = call.group.anchor
    x = node.inputs[0]
    assert x is not None
    variables: dict[Dim, Any] = {}

    def extent(dim: Dim, name: str) -> Any:
        return dim if isinstance(dim, int) else variables.setdefault(dim, tirx.Var(name, "int64"))

    n, c, *depth, h, w = x.shape
    assert isinstance(c, int)
    to_blocks = call.layout(x).is_plain
    return LayoutCopySpec(
        extent(n, "n"), c, extent(h, "h"), extent(w, "w"),
        (call.layout(node.out) if to_blocks else call.layout(x)).channel_block, to_blocks, element_type(x.dtype),
        extent(depth[0], "d") if depth else None,
    )  # fmt: skip
