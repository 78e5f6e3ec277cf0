"""The packed matrix product kernel as a template: MatMul and Gemm with constant right-hand sides."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import Emitted, KernelCall, KernelTemplate, No, Support, Yes
from graphopt.backends.common.epilogue import Epilogue
from graphopt.backends.x86.conv2d import CLOCK, FLOPS_PER_LANE, plain_epilogue
from graphopt.backends.x86.kernels.epilogue import ExtraOperand
from graphopt.backends.x86.kernels.matmul_packed import (
    MatmulConfig,
    MatmulSpec,
    default_config,
    emit,
    pack_weight,
    supports,
)
from graphopt.ir.dtypes import DType
from graphopt.ops.context import attr, known_array


class PackedMatmul(KernelTemplate[MatmulConfig]):
    """MatMul of matrices and Gemm (no transA, alpha = 1) in float32 with a constant second operand."""

    name: ClassVar[str] = "matmul-packed"
    anchors: ClassVar[frozenset[str]] = frozenset({"MatMul", "Gemm"})

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = plain_epilogue(call.group)
        if reason is not None:
            return No(reason)
        node = call.group.anchor
        a, b = node.inputs[0], node.inputs[1]
        assert a is not None and b is not None
        if a.dtype is not DType.f32 or len(a.shape) != 2 or len(b.shape) != 2:
            return No("needs float32 matrices")
        if known_array(b) is None:
            return No("needs a constant second operand")
        if node.op == "Gemm" and (attr(node, "transA") or attr(node, "alpha") != 1.0):
            return No("transposed or scaled first operand")
        bias = node.input(2)
        if bias is not None and (attr(node, "beta") != 1.0 or len(bias.shape) != 1 or bias.shape[0] != node.out.shape[1]):
            return No("a bias that is not one value a column")
        if not isinstance(a.shape[0], int) or not isinstance(a.shape[1], int):
            return No("needs known sizes")
        if any(call.block(v) for v in (*call.group.inputs, *call.group.outputs)):
            return No("needs plain layouts")
        reason = supports(spec_of(call), caps)
        return Yes() if reason is None else No(reason)

    def default(self, call: KernelCall, caps: Caps) -> MatmulConfig:
        """The tile that the kernel predicts to be fastest."""
        return default_config(spec_of(call), caps)

    def cost(self, call: KernelCall, config: MatmulConfig, caps: Caps) -> float:
        """Multiply-adds over the peak rate of a core's vector units."""
        return (spec_of(call).flops or 1e9) / (FLOPS_PER_LANE * caps.lanes(4) * CLOCK * max(caps.cores, 1))

    def emit(self, call: KernelCall, config: MatmulConfig, caps: Caps, name: str) -> Emitted:
        """The kernel, its right-hand side packed."""
        node = call.group.anchor
        a, b = node.inputs[0], node.inputs[1]
        bias = node.input(2)
        assert a is not None and b is not None
        weight = known_array(b)
        assert weight is not None
        if node.op == "Gemm" and attr(node, "transB"):
            weight = weight.T
        spec = spec_of(call)
        epilogue = Epilogue(call, caps, {}, (bias, 1) if bias is not None else None)
        extras = [
            ExtraOperand(f"e{i}", shape, "float32" if v.dtype is DType.f32 else str(v.dtype.numpy))
            for i, (v, shape) in enumerate(zip(epilogue.values, epilogue.shapes))
        ]
        function = emit(spec, config, epilogue.function(), extras, name)
        packed = pack_weight(np.ascontiguousarray(weight, np.float32), spec, config)
        return Emitted(function, [a, packed, *epilogue.values])


def spec_of(call: KernelCall) -> MatmulSpec:
    """Sizes of the product."""
    node = call.group.anchor
    a: Any = node.inputs[0]
    m, n = node.out.shape
    return MatmulSpec(int(m), int(n), int(a.shape[1]))  # type: ignore[arg-type]
