"""The packed matrix product kernel as a template: MatMul and Gemm with constant right-hand sides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.packing import Packing
from graphopt.backends.base.template import Emitted, KernelCall, KernelTemplate, No, Support, Yes
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.cost.constants import CLOCK, FMA_FLOPS_PER_LANE
from graphopt.backends.cpu.kernels.matmul_packed import configurations, default_config, emit
from graphopt.backends.cpu.kernels.matmul_tile import MatmulConfig, packing, supports
from graphopt.backends.cpu.kernels.settling import SETTLE_CYCLES
from graphopt.backends.specs.dot_products import dot_product_for
from graphopt.backends.specs.matmul import MatmulSpec
from graphopt.backends.templates.epilogue import Epilogue
from graphopt.backends.templates.fitted_epilogue import extra_operands, plain_epilogue, store_style
from graphopt.backends.templates.given_zero_point import given_zero_point, with_zero_point
from graphopt.backends.templates.integer_products import (
    IntegerProducts,
    byte_products,
    integer_products,
    preferred,
    single_products,
    weight_of,
    zero_point_offset,
)
from graphopt.backends.templates.kernel_types import computed_in_single, types_of
from graphopt.backends.templates.matrix_rows import is_turned, product, unflattened
from graphopt.backends.templates.reading import constant_weight, plain_prologue, scale_of, weight_row
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle
from graphopt.backends.tensors.flatten import with_shapes
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.dims import Dim, SymExpr
from graphopt.ops.context import attr
from graphopt.ops.registry import MATRIX_PRODUCT
from graphopt.ops.table import ops_with


class PackedMatmul(KernelTemplate[MatmulConfig]):
    """MatMul of matrices and Gemm (no transA, alpha = 1) with a constant second operand."""

    name: ClassVar[str] = "matmul-packed"
    config_type: ClassVar[type[Any]] = MatmulConfig
    anchors: ClassVar[frozenset[str]] = frozenset(ops_with(MATRIX_PRODUCT))
    converts: ClassVar[bool] = True

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        node = call.group.anchor
        reason = plain_epilogue(call.group) or plain_prologue(
            call, weights={1: 0 if is_turned(node) else 1}, biases=(2,)
        )
        if reason is not None:
            return No(reason)
        a, b = node.inputs[0], node.inputs[1]
        assert a is not None
        assert b is not None
        if not computed_in_single(a, b) or len(a.shape) < 2 or len(b.shape) != 2:
            return No("needs float32 rows and a float32 matrix")
        if constant_weight(call, b) is None:
            return No("needs a constant second operand")
        if node.op == "Gemm" and (attr(node, "transA") or attr(node, "alpha") != 1.0):
            return No("transposed or scaled first operand")
        bias = node.input(2)
        if bias is not None and (
            attr(node, "beta") != 1.0 or len(bias.shape) != 1 or bias.shape[0] != node.out.shape[1]
        ):
            return No("a bias that is not one value a column")
        if not isinstance(a.shape[-1], int):
            return No("needs a known inner dimension")
        rows = {d for d in a.shape[:-1] if isinstance(d, SymExpr)}
        if any(isinstance(d, SymExpr) and d not in rows for v in call.group.inputs for d in v.shape):
            return No("an epilogue operand has a symbolic dimension of its own")
        if any(not call.layout(v).is_plain for v in (*call.group.inputs, *call.group.outputs)):
            return No("needs plain layouts")
        reason = supports(_spec_of(call, caps)[0], caps)
        return Yes() if reason is None else No(reason)

    def default(self, call: KernelCall, caps: Caps) -> MatmulConfig:
        """The tile that the kernel predicts to be fastest."""
        return default_config(_spec_of(call, caps)[0], caps)

    def space(self, call: KernelCall, caps: Caps) -> Iterable[MatmulConfig]:
        """Tiles that fit the register file, with and without blocks for the caches, prefetching and threads."""
        return configurations(_spec_of(call, caps)[0], caps)

    def cost(self, call: KernelCall, config: MatmulConfig, caps: Caps) -> float:
        """Multiply-adds over the peak rate of a core's vector units, and what it takes to add parts of sums of float16."""
        spec = _spec_of(call, caps)[0]
        most = spec.types.most_added(spec.k)
        settled = 1 + SETTLE_CYCLES * caps.fma_per_cycle / most if most else 1.0
        flops_per_second = FMA_FLOPS_PER_LANE * spec.types.lanes(caps) * CLOCK * max(caps.cores, 1)
        return settled * (spec.flops or 1e9) / flops_per_second

    def emit(self, call: KernelCall, config: MatmulConfig, caps: Caps, name: str) -> Emitted:
        """The kernel, its right-hand side packed."""
        spec, dims, integers = _spec_of(call, caps)
        order = packing(spec, config, is_turned(call.group.anchor))
        return emitted_product(call, caps, spec, dims, integers, name, lambda *rest: emit(spec, config, *rest), order)


def emitted_product(
    call: KernelCall, caps: Caps, spec: MatmulSpec, dims: dict[Dim, Expr], integers: IntegerProducts | None, name: str,
    emit: Callable[[EpilogueFn, Sequence[ExtraOperand], str, StoreStyle], tirx.PrimFunc], order: Packing,
) -> Emitted:  # fmt: skip
    """The kernel of a product with a constant second operand; weights packed, bias and residuals as operands of the epilogue.

    Args:
        call: the group.
        caps: of the target.
        spec: the product.
        dims: the kernel's variables for symbolic dimensions.
        integers: how it multiplies integers, None if it doesn't.
        name: of the function.
        emit: ``(epilogue, extras, name, style)`` to the function ``name(a, weight, *extras, output)`` of a matrix.
        order: in which it reads the second operand.
    """
    node = call.group.anchor
    a, b = node.inputs[0], node.inputs[1]
    bias = node.input(2)
    assert a is not None
    assert b is not None
    if integers is not None:
        call.read.difference_update((integers.scale, integers.zero_point))  # operands
    rows = [dims.get(d, d) for d in a.shape[:-1]]
    offset = zero_point_offset(call, integers, 0 if is_turned(node) else 1, len(a.shape) - 1)
    epilogue = Epilogue(
        call, caps, dims, bias=bias if integers is None else integers.bias, scale=scale_of(call, b), axis=len(a.shape) - 1,
        integers=None if integers is None else integers.scale, sums=spec.types.sum, offset=offset,
    )  # fmt: skip
    apply = epilogue.function()

    def finish(accumulator: Expr, index: tuple[Expr, ...], operands: Sequence[Any]) -> Expr:
        row, column = index
        return apply(accumulator, (*unflattened(row, rows), column), operands)

    parameters, operands = given_zero_point(spec.types, integers)
    extras = [*extra_operands(epilogue), *parameters]
    function = with_zero_point(emit(finish, extras, name, store_style(epilogue)), spec.types)

    if len(rows) > 1:
        shapes = {0: (*rows, spec.k), len(function.params) - 1: (*rows, spec.n)}
        defined = {} if spec.static_m is not None else {spec.m: product(rows)}
        function = with_shapes(function, shapes, defined)
    weights = weight_of(call, integers, b, order)
    return Emitted(function, [a, weights, *epilogue.values, *operands])


def spec_of(call: KernelCall) -> tuple[MatmulSpec, dict[Dim, Expr]]:
    """Sizes of the product, leading dimensions flattened, and the kernel's variables for the symbolic ones."""
    node = call.group.anchor
    a: Any = node.inputs[0]
    dims: dict[Dim, Expr] = {}
    for d in a.shape[:-1]:
        if isinstance(d, SymExpr):
            dims.setdefault(d, tirx.Var(f"d{len(dims)}", "int64"))
    lead = [dims.get(d, d) for d in a.shape[:-1]]
    m = product(lead)
    if not isinstance(m, int) and len(lead) > 1:
        m = tirx.Var("m", "int64")
    b = node.inputs[1]
    assert b is not None
    types = types_of(call, a, weight_row(call, b))
    return MatmulSpec(m, int(node.out.shape[-1]), int(a.shape[-1]), types), dims  # type: ignore[arg-type]


def _spec_of(call: KernelCall, caps: Caps) -> tuple[MatmulSpec, dict[Dim, Expr], IntegerProducts | None]:
    """`spec_of`, and how the kernel multiplies integers if it does."""
    spec, dims = spec_of(call)
    a, b = call.group.anchor.inputs[:2]
    assert a is not None
    assert b is not None
    integers = integer_products(call, a, b, spec.k)
    if integers is None:
        return spec, dims, None
    single = single_products(call, integers, a, b, axis=0 if is_turned(call.group.anchor) else 1)
    assert single is not None
    for products in (*byte_products(call, integers), integers):
        dot = dot_product_for(products.types, spec.k, caps)
        if dot and preferred(single, dot):
            return replace(spec, types=products.types), dims, products
    return replace(spec, types=single.types), dims, single
