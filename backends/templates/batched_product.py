"""Matrix products of two operands made at run time: which calls kernels can compute, and as what."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.backends.base.template import KernelCall
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.matmul import BatchedSpec
from graphopt.backends.templates.fitted_epilogue import plain_epilogue
from graphopt.backends.templates.kernel_types import computed_in_single, types_of
from graphopt.backends.templates.reading import constant_weight, plain_prologue, row_of
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.dims import Dim, SymExpr
from graphopt.ir.graph import Node, Value
from graphopt.ops.context import attr


def refusal(call: KernelCall) -> str | None:
    """Why a call is no such product with an element-wise epilogue, None if it is one."""
    reason = plain_epilogue(call.group) or plain_prologue(call, data=(0, 1), biases=(2,))
    if reason is not None:
        return reason
    node = call.group.anchor
    a, b = operands(node)
    if not computed_in_single(a, b):
        return "needs float32"
    if len(a.shape) < 2 or len(b.shape) < 2:
        return "needs matrices"
    if len(b.shape) == 2 and constant_weight(call, b) is not None:
        return "a constant is packed at compile time"
    if any(d == 0 for v in (a, b) for d in v.shape):
        return "an empty dimension"
    if node.op == "Gemm":
        bias = node.input(2)
        if attr(node, "alpha") != 1.0 or (bias is not None and attr(node, "beta") != 1.0):
            return "scaled operands"
        if bias is not None and (len(bias.shape) != 1 or bias.shape[0] != node.out.shape[1]):
            return "a bias that is not one value a column"
    for v in (a, b):
        lead = v.shape[:-2]
        if any(d not in (1, o) for d, o in zip(lead[::-1], node.out.shape[:-2][::-1])):
            return "leading dimensions that are not known to agree"
    inner_a, inner_b = a.shape[-2 if _flag(node, "transA") else -1], b.shape[-1 if _flag(node, "transB") else -2]
    if inner_a != inner_b:
        return "inner dimensions that are not known to agree"
    allowed = {d for d in (*a.shape, *b.shape) if isinstance(d, SymExpr)}
    if any(isinstance(d, SymExpr) and d not in allowed for v in call.group.inputs for d in v.shape):
        return "an epilogue operand has a symbolic dimension of its own"
    if any(not call.layout(v).is_plain for v in (*call.group.inputs, *call.group.outputs)):
        return "needs plain layouts"
    return None


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
