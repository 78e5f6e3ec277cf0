"""Pooling kernels of GPUs as templates."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import Emitted, KernelCall, KernelTemplate, No, Support, Yes
from graphopt.backends.cuda.cost.model import streaming_seconds
from graphopt.backends.cuda.kernels.cooperative_row import ACCESS_BYTES
from graphopt.backends.cuda.kernels.pooling import PoolThreads, emit
from graphopt.backends.templates.kernel_types import computed_in_single
from graphopt.backends.templates.pooling import pool_of, pool_types
from graphopt.backends.templates.reading import plain_prologue
from graphopt.backends.templates.rows import nominal_elements
from graphopt.backends.templates.writing import converted_result
from graphopt.errors import GraphOptError
from graphopt.ir.layout import Layout, channels_last
from graphopt.ops.registry import POOL
from graphopt.ops.table import ops_with

_LAST = channels_last(4)


class WindowPool(KernelTemplate[PoolThreads]):
    """MaxPool (values only) and AveragePool of two axes on data with channels innermost."""

    name: ClassVar[str] = "pooling"
    anchors: ClassVar[frozenset[str]] = frozenset(ops_with(POOL))
    config_type: ClassVar[type[Any]] = PoolThreads
    converts: ClassVar[bool] = True

    def takes(self, layout: Layout) -> bool:
        """Channels innermost."""
        return layout == _LAST

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        node = call.group.anchor
        x: Any = node.inputs[0]
        result = converted_result(call.group)
        if result is None or call.group.outputs != [result]:
            return No("more than a pool")
        reason = plain_prologue(call)
        if reason is not None:
            return No(reason)
        if not computed_in_single(x, result) or pool_types(call)[1] is not None:
            return No("needs float32")
        if len(x.shape) != 4 or not isinstance(x.shape[1], int) or any(d == 0 for d in x.shape):
            return No("needs rank 4, a known number of channels and no empty dimension")
        if node.attrs.get("kernel_shape") is None:
            return No("windows of whole channels")
        if node.output(1) is not None:
            return No("positions of maxima are wanted")
        try:
            spec, _ = pool_of(call)
        except GraphOptError as e:
            return No(e.message)
        return Yes() if _width(call) > 1 or spec.window.in_channels == 1 else No("an odd number of channels")

    def default(self, call: KernelCall, caps: Caps) -> PoolThreads:
        """As many channels as an access has."""
        return PoolThreads(_width(call))

    def cost(self, call: KernelCall, config: PoolThreads, caps: Caps) -> float:
        """Data once and the result: neighbouring windows meet in caches."""
        result = call.group.outputs[0]
        written = math.prod(d if isinstance(d, int) else 56 for d in result.shape)
        types = pool_types(call)[0]
        moved = nominal_elements(call) * types.input.bytes + written * types.output.bytes
        return streaming_seconds(moved, caps)

    def emit(self, call: KernelCall, config: PoolThreads, caps: Caps, name: str) -> Emitted:
        """The kernel."""
        x = call.group.anchor.inputs[0]
        assert x is not None
        return Emitted(emit(pool_of(call)[0], config, name), [x])


def _width(call: KernelCall) -> int:
    """Channels that are read and written at once."""
    types = pool_types(call)[0]
    width = ACCESS_BYTES // max(types.input.bytes, types.output.bytes)
    x: Any = call.group.anchor.inputs[0]
    return math.gcd(width, int(x.shape[1]))
