"""Matrix products of two operands made at run time on GPUs: MatMul of any rank from 2, and Gemm."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import Emitted, KernelCall, KernelTemplate, No, Support, Yes
from graphopt.backends.cuda.cost.gemm import configurations, default_config, seconds
from graphopt.backends.cuda.gemm_template import epilogue_bytes
from graphopt.backends.cuda.kernels.batched_gemm import emit
from graphopt.backends.cuda.kernels.gemm_config import GemmConfig
from graphopt.backends.cuda.kernels.products import Product, product_of
from graphopt.backends.specs.implicit_gemm import ImplicitGemmSpec
from graphopt.backends.specs.matmul import BatchedSpec
from graphopt.backends.templates.batched_product import operands, refusal, spec_of
from graphopt.backends.templates.epilogue import Epilogue
from graphopt.backends.templates.fitted_epilogue import extra_operands
from graphopt.ops.registry import MATRIX_PRODUCT
from graphopt.ops.table import ops_with

_MOST_MATRICES = 65535
_TYPICAL = 128
"""Extent assumed where one is symbolic."""


class GemmBatched(KernelTemplate[GemmConfig]):
    """MatMul and Gemm (alpha = beta = 1); leading dimensions broadcast, sizes may be symbolic."""

    name: ClassVar[str] = "matmul-batched-tiles"
    config_type: ClassVar[type[Any]] = GemmConfig
    anchors: ClassVar[frozenset[str]] = frozenset(ops_with(MATRIX_PRODUCT))

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = refusal(call)
        if reason is not None:
            return No(reason)
        spec, product = _problem(call, caps)
        if product is None or spec.types.input.dtype is not spec.types.weight.dtype:
            return No(f"no product of {spec.types.input.dtype} and {spec.types.weight.dtype}")
        if not all(isinstance(d, int) for d in spec.batch) or math.prod(spec.batch) > _MOST_MATRICES:
            return No("more matrices than a launch has blocks along an axis, or an unknown number of them")
        return Yes()

    def default(self, call: KernelCall, caps: Caps) -> GemmConfig:
        """The tiles with the least predicted time."""
        spec, product = _problem(call, caps)
        assert product is not None
        return default_config(_alike(spec), product, caps, epilogue_bytes(call))

    def space(self, call: KernelCall, caps: Caps) -> Iterable[GemmConfig]:
        """Tiles that fit the registers and the shared memory."""
        spec, product = _problem(call, caps)
        assert product is not None
        return configurations(_alike(spec), product, caps)

    def cost(self, call: KernelCall, config: GemmConfig, caps: Caps) -> float:
        """The kernel's predicted time."""
        return seconds(_alike(_problem(call, caps)[0]), config, caps, epilogue_bytes(call))

    def emit(self, call: KernelCall, config: GemmConfig, caps: Caps, name: str) -> Emitted:
        """The kernel."""
        node = call.group.anchor
        a, b = operands(node)
        spec, dims = spec_of(call)
        epilogue = Epilogue(call, caps, dims, bias=node.input(2), axis=len(node.out.shape) - 1)
        function = emit(spec, config, epilogue.function(), extra_operands(epilogue), name, node.label)
        return Emitted(function, [a, b, *epilogue.values])


def _problem(call: KernelCall, caps: Caps) -> tuple[BatchedSpec, Product | None]:
    spec, _ = spec_of(call)
    return spec, product_of(spec.types, caps, call.fused.options.exact)


def _alike(spec: BatchedSpec) -> ImplicitGemmSpec:
    """A product with constant weights that takes about as long: a group for each matrix."""
    m, n, k = (d if isinstance(d, int) else _TYPICAL for d in (spec.m, spec.n, spec.k))
    count = math.prod(d if isinstance(d, int) else 1 for d in spec.batch)
    return ImplicitGemmSpec(m, k * count, n * count, groups=count, types=spec.types)
