"""Matrix products of two operands made at run time as a template: MatMul of any rank from 2, and Gemm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import Emitted, KernelCall, KernelTemplate, No, Support, Yes
from graphopt.backends.cpu.cost.constants import CLOCK, FMA_FLOPS_PER_LANE
from graphopt.backends.cpu.kernels.matmul_batched import BatchedConfig, configurations, default_batched, emit
from graphopt.backends.templates.batched_product import operands, refusal, spec_of
from graphopt.backends.templates.epilogue import Epilogue
from graphopt.backends.templates.fitted_epilogue import extra_operands, store_style
from graphopt.ops.registry import MATRIX_PRODUCT
from graphopt.ops.table import ops_with


class BatchedMatmul(KernelTemplate[BatchedConfig]):
    """MatMul and Gemm (alpha = beta = 1); leading dimensions broadcast, sizes may be symbolic."""

    name: ClassVar[str] = "matmul-batched"
    config_type: ClassVar[type[Any]] = BatchedConfig
    anchors: ClassVar[frozenset[str]] = frozenset(ops_with(MATRIX_PRODUCT))
    converts: ClassVar[bool] = True

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = refusal(call)
        return Yes() if reason is None else No(reason)

    def default(self, call: KernelCall, caps: Caps) -> BatchedConfig:
        """The tile that suits a product of this size."""
        return default_batched(spec_of(call)[0], caps)

    def space(self, call: KernelCall, caps: Caps) -> Iterable[BatchedConfig]:
        """Tiles that fit the register file, tasks of several sizes, copied panels or not."""
        return configurations(spec_of(call)[0], caps)

    def cost(self, call: KernelCall, config: BatchedConfig, caps: Caps) -> float:
        """Multiply-adds over the peak rate of the vector units."""
        spec = spec_of(call)[0]
        flops = 2.0
        for d in (*spec.batch, spec.m, spec.n, spec.k):
            flops *= d if isinstance(d, int) else 64
        return flops / (FMA_FLOPS_PER_LANE * spec.types.lanes(caps) * CLOCK * max(caps.cores, 1))

    def emit(self, call: KernelCall, config: BatchedConfig, caps: Caps, name: str) -> Emitted:
        """The kernel."""
        node = call.group.anchor
        a, b = operands(node)
        bias = node.input(2)
        spec, dims = spec_of(call)
        epilogue = Epilogue(call, caps, dims, bias=bias, axis=len(node.out.shape) - 1)
        function = emit(spec, config, epilogue.function(), extra_operands(epilogue), name, store_style(epilogue))
        return Emitted(function, [a, b, *epilogue.values])
