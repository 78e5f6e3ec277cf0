"""Products of matrices with a constant second operand on GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from graphopt.backends.base.template import KernelCall
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cuda.gemm_template import GemmTemplate, Problem
from graphopt.backends.cuda.kernels.gemm_config import GemmConfig
from graphopt.backends.specs.implicit_gemm import ImplicitGemmSpec
from graphopt.backends.templates.epilogue import Epilogue
from graphopt.backends.templates.integer_products import zero_point_offset
from graphopt.backends.templates.kernel_types import types_of
from graphopt.backends.templates.matrix_rows import is_turned, product, unflattened
from graphopt.backends.templates.zero_points import Offset
from graphopt.backends.tensors.flatten import with_shapes
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.dims import Dim, SymExpr
from graphopt.ops.context import attr
from graphopt.ops.registry import MATRIX_PRODUCT
from graphopt.ops.table import ops_with


class GemmMatmul(GemmTemplate):
    """MatMul of matrices and Gemm (no transA, alpha = 1) with a constant second operand."""

    name: ClassVar[str] = "matmul-tiles"
    anchors: ClassVar[frozenset[str]] = frozenset(ops_with(MATRIX_PRODUCT))

    def weight_axis(self, call: KernelCall) -> int:
        """The first of a transposed matrix."""
        return 0 if is_turned(call.group.anchor) else 1

    def out_axis(self, call: KernelCall) -> int:
        """The last."""
        return len(call.group.anchor.out.shape) - 1

    def refusal(self, call: KernelCall) -> str | None:
        """Operands that are no matrices, scaled ones."""
        node = call.group.anchor
        a, b = node.inputs[:2]
        assert a is not None
        assert b is not None
        if len(a.shape) < 2 or len(b.shape) != 2:
            return "needs rows and a matrix"
        if node.op == "Gemm" and (attr(node, "transA") or attr(node, "alpha") != 1.0):
            return "transposed or scaled first operand"
        bias = node.input(2)
        if bias is not None and (
            attr(node, "beta") != 1.0 or len(bias.shape) != 1 or bias.shape[0] != node.out.shape[1]
        ):
            return "a bias that is not one value a column"
        if not isinstance(a.shape[-1], int):
            return "needs a known inner dimension"
        rows = {d for d in a.shape[:-1] if isinstance(d, SymExpr)}
        if any(isinstance(d, SymExpr) and d not in rows for v in call.group.inputs for d in v.shape):
            return "an epilogue operand has a symbolic dimension of its own"
        if any(not call.layout(v).is_plain for v in (*call.group.inputs, *call.group.outputs)):
            return "needs plain layouts"
        return None

    def spec_of(self, call: KernelCall) -> tuple[ImplicitGemmSpec, dict[Dim, Expr]]:
        """A row for each position along the leading dimensions."""
        node = call.group.anchor
        a: Any = node.inputs[0]
        dims: dict[Dim, Expr] = {}
        for d in a.shape[:-1]:
            if isinstance(d, SymExpr):
                dims.setdefault(d, tirx.Var(f"d{len(dims)}", "int64"))
        lead = [dims.get(d, d) for d in a.shape[:-1]]
        rows = product(lead)
        if not isinstance(rows, int) and len(lead) > 1:
            rows = tirx.Var("m", "int64")
        columns = int(node.out.shape[-1])  # type: ignore[arg-type]
        return ImplicitGemmSpec(rows, int(a.shape[-1]), columns, types=types_of(call, a)), dims

    def offset(self, call: KernelCall, problem: Problem) -> Offset | None:
        """A number a column."""
        return zero_point_offset(call, problem.integers, self.weight_axis(call), self.out_axis(call))

    def emitted(
        self, call: KernelCall, problem: Problem, config: GemmConfig, epilogue: Epilogue, name: str
    ) -> Any:  # fmt: skip
        """The function, its operands in the shapes of the model."""
        spec, dims = problem.spec, problem.dims
        a: Any = call.group.anchor.inputs[0]
        rows = [dims.get(d, d) for d in a.shape[:-1]]
        apply = epilogue.function()

        def finish(accumulator: Expr, index: tuple[Expr, ...], operands: Sequence[Any]) -> Expr:
            row, column = index
            return apply(accumulator, (*unflattened(row, rows), column), operands)

        function = self.function(
            problem, config, epilogue, name, (*rows, spec.out_channels), finish, call.group.anchor.label
        )
        if len(rows) == 1:
            return function
        shapes = {0: (*rows, spec.in_channels), len(function.params) - 1: (*rows, spec.out_channels)}
        return with_shapes(function, shapes, {} if spec.static_rows is not None else {spec.batch: product(rows)})
