"""Matrix products of two operands made at run time as a template: MatMul of any rank from 2, and Gemm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import Emitted, KernelCall, KernelTemplate, No, Support, Yes
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.cost.constants import CLOCK, FMA_FLOPS_PER_LANE
from graphopt.backends.cpu.kernels.matmul_batched import BatchedConfig, configurations, default_batched, emit
from graphopt.backends.specs.matmul import BatchedSpec
from graphopt.backends.templates.epilogue import Epilogue
from graphopt.backends.templates.fitted_epilogue import extra_operands, plain_epilogue, store_style
from graphopt.backends.templates.kernel_types import computed_in_single, types_of
from graphopt.backends.templates.reading import constant_weight, plain_prologue, row_of
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.dims import Dim, SymExpr
from graphopt.ir.graph import Node, Value
from graphopt.ops.context import attr
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
        reason = plain_epilogue(call.group) or plain_prologue(call, data=(0, 1), biases=(2,))
        if reason is not None:
            return No(reason)
        node = call.group.anchor
        a, b = operands(node)
        if not computed_in_single(a, b):
            return No("needs float32")
        if len(a.shape) < 2 or len(b.shape) < 2:
            return No("needs matrices")
        if len(b.shape) == 2 and constant_weight(call, b) is not None:
            return No("a constant is packed at compile time")
        if any(d == 0 for v in (a, b) for d in v.shape):
            return No("an empty dimension")
        if node.op == "Gemm":
            bias = node.input(2)
            if attr(node, "alpha") != 1.0 or (bias is not None and attr(node, "beta") != 1.0):
                return No("scaled operands")
            if bias is not None and (len(bias.shape) != 1 or bias.shape[0] != node.out.shape[1]):
                return No("a bias that is not one value a column")
        for v in (a, b):
            lead = v.shape[:-2]
            if any(d not in (1, o) for d, o in zip(lead[::-1], node.out.shape[:-2][::-1])):
                return No("leading dimensions that are not known to agree")
        inner_a, inner_b = a.shape[-2 if _flag(node, "transA") else -1], b.shape[-1 if _flag(node, "transB") else -2]
        if inner_a != inner_b:
            return No("inner dimensions that are not known to agree")
        allowed = {d for d in (*a.shape, *b.shape) if isinstance(d, SymExpr)}
        if any(isinstance(d, SymExpr) and d not in allowed for v in call.group.inputs for d in v.shape):
            return No("an epilogue operand has a symbolic dimension of its own")
        if any(not call.layout(v).is_plain for v in (*call.group.inputs, *call.group.outputs)):
            return No("needs plain layouts")
        return Yes()

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


def operands(node: Node) -> tuple[Value, Value]:
    """The two factors."""
    a, b = node.inputs[0], node.inputs[1]
    assert a is not None
    assert b is not None
    return a, b


def _flag(node: Node, name: str) -> bool:
    return node.op == "Gemm" and bool(attr(node, name))


def spec_of(call: KernelCall) -> tuple[BatchedSpec, Mapping[Dim, Expr]]:
    """The product's sizes, and the kernel's variables for the symbolic ones."""
    node = call.group.anchor
    a, b = operands(node)
    dims: dict[Dim, Expr] = {}
    for d in (*a.shape, *b.shape):
        if isinstance(d, SymExpr):
            dims.setdefault(d, tirx.Var(f"d{len(dims)}", "int64"))

    def extents(shape: tuple[Dim, ...]) -> tuple[Expr, ...]:
        return tuple(dims.get(d, d) for d in shape)

    ta, tb = _flag(node, "transA"), _flag(node, "transB")
    (*batch, m, n) = extents(node.out.shape)
    k = extents(a.shape)[-2 if ta else -1]
    types = types_of(call, a, row_of(call, b))
    spec = BatchedSpec(tuple(batch), extents(a.shape[:-2]), extents(b.shape[:-2]), m, n, k, ta, tb, types)
    return spec, dims
