"""What templates of products with constant weights have in common on GPUs: reading a call, and the operands of the kernel."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import ElementType, element_type
from graphopt.backends.base.finite import is_finite
from graphopt.backends.base.template import Computed, Emitted, KernelCall, KernelTemplate, No, Support, Yes
from graphopt.backends.cuda.cost.gemm import configurations, default_config, seconds
from graphopt.backends.cuda.kernels.gemm_config import GemmConfig
from graphopt.backends.cuda.kernels.implicit_gemm import emit, tile_count
from graphopt.backends.cuda.kernels.products import Product, product_of
from graphopt.backends.cuda.kernels.row_packing import RowOrder, RowPacking, packed_shape
from graphopt.backends.cuda.kernels.sliced import Counters
from graphopt.backends.cuda.kernels.thread_block import LARGEST_POSITION
from graphopt.backends.specs.implicit_gemm import ImplicitGemmSpec
from graphopt.backends.templates.convolution import NOMINAL_SECONDS
from graphopt.backends.templates.epilogue import Epilogue
from graphopt.backends.templates.fitted_epilogue import extra_operands, plain_epilogue
from graphopt.backends.templates.integer_products import (
    IntegerProducts,
    byte_products,
    integer_products,
    moved_weights,
    weight_of,
)
from graphopt.backends.templates.reading import constant_weight, plain_prologue, scale_of
from graphopt.backends.templates.zero_points import Offset
from graphopt.backends.tensors.tensor import Expr
from graphopt.errors import GraphOptError
from graphopt.ir.dims import Dim
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Value

MOST_GROUPS = 65535
"""Blocks that a launch may have along its second axis."""
_BYTES = (DType.i8, DType.u8)


@dataclass(frozen=True)
class Problem:
    """A call as a product of matrices.

    Attributes:
        spec: the product.
        dims: the kernel's expressions for the symbolic dimensions.
        product: how operands are multiplied.
        integers: how dequantized integers are multiplied, None if none are.
    """

    spec: ImplicitGemmSpec
    dims: dict[Dim, Expr]
    product: Product
    integers: IntegerProducts | None = None


class GemmTemplate(KernelTemplate[GemmConfig]):
    """Products with constant weights and an element-wise epilogue, by `kernels/implicit_gemm.py`."""

    config_type: ClassVar[type[Any]] = GemmConfig
    converts: ClassVar[bool] = True

    # -- what a kind of anchor says -----------------------------------------------------------------------------
    @abstractmethod
    def weight_axis(self, call: KernelCall) -> int:
        """The axis of the weight along which output channels are."""

    @abstractmethod
    def out_axis(self, call: KernelCall) -> int:
        """The axis of the result along which output channels are."""

    @abstractmethod
    def refusal(self, call: KernelCall) -> str | None:
        """Why the anchor is none that the kernel computes, None if it is one."""

    @abstractmethod
    def spec_of(self, call: KernelCall) -> tuple[ImplicitGemmSpec, dict[Dim, Expr]]:
        """The product, its types aside, and the kernel's expressions for symbolic dimensions."""

    @abstractmethod
    def offset(self, call: KernelCall, problem: Problem) -> Offset | None:
        """What is added to sums of integers for a zero point that was left in.

        Raises:
            UnsupportedOpError: such sums can't be corrected.
        """

    @abstractmethod
    def emitted(
        self, call: KernelCall, problem: Problem, config: GemmConfig, epilogue: Epilogue, name: str
    ) -> Any:  # fmt: skip
        """The function."""

    def order(self, problem: Problem, weight_axis: int) -> RowOrder:
        """How rows are taken out of the constant."""
        return RowOrder(weight_axis)

    # -- the template -------------------------------------------------------------------------------------------
    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = plain_epilogue(call.group) or plain_prologue(call, weights={1: self.weight_axis(call)}, biases=(2,))
        reason = reason or self.refusal(call)
        if reason is not None:
            return No(reason)
        weight = call.group.anchor.inputs[1]
        assert weight is not None
        stored = constant_weight(call, weight)
        if stored is None:
            return No("needs constant weights")
        if not is_finite(stored):
            return No("needs finite weights: it leaves out their products with padding, which are NaN otherwise")
        try:
            problem = self.problem(call, caps)
            if isinstance(problem, str):
                return No(problem)
            self.offset(call, problem)
        except GraphOptError as e:
            return No(e.message)
        spec = problem.spec
        if min(spec.depth, spec.columns) < 1 or spec.static_rows == 0:
            return No("an empty dimension")
        if spec.parts > MOST_GROUPS:
            return No("more groups than a launch has blocks along an axis")
        for shape in (spec.data_shape, spec.result_shape):
            if math.prod(d for d in shape if isinstance(d, int)) > LARGEST_POSITION:
                return No("positions of more than 31 bits")
        return Yes()

    def default(self, call: KernelCall, caps: Caps) -> GemmConfig:
        """The tiles with the least predicted time."""
        problem = self._problem(call, caps)
        return default_config(problem.spec, problem.product, caps, epilogue_bytes(call))

    def space(self, call: KernelCall, caps: Caps) -> Iterable[GemmConfig]:
        """Tiles that fit the registers and the shared memory."""
        problem = self._problem(call, caps)
        return configurations(problem.spec, problem.product, caps)

    def cost(self, call: KernelCall, config: GemmConfig, caps: Caps) -> float:
        """The kernel's predicted time."""
        predicted = seconds(self._problem(call, caps).spec, config, caps, epilogue_bytes(call))
        return predicted if math.isfinite(predicted) else NOMINAL_SECONDS

    def emit(self, call: KernelCall, config: GemmConfig, caps: Caps, name: str) -> Emitted:
        """The kernel; weights packed, bias and residuals as epilogue operands."""
        problem = self._problem(call, caps)
        spec, integers = problem.spec, problem.integers
        data, weight, bias = (call.group.anchor.input(i) for i in range(3))
        assert data is not None
        assert weight is not None
        if integers is not None:
            call.read.difference_update((integers.scale, integers.zero_point))  # operands
        epilogue = Epilogue(
            call, caps, problem.dims, bias=bias if integers is None else integers.bias, scale=scale_of(call, weight),
            axis=self.out_axis(call), integers=None if integers is None else integers.scale, sums=spec.types.sum,
            offset=self.offset(call, problem),
        )  # fmt: skip
        function = self.emitted(call, problem, config, epilogue, name)
        packing = RowPacking(
            tuple(int(d) for d in weight.shape),  # type: ignore[arg-type]  # of a constant
            packed_shape(spec, config),
            spec.types.weight,
            groups=spec.groups,
            rounds=problem.product.rounds,
            order=self.order(problem, self.weight_axis(call)),
        )
        operands = [data, weight_of(call, integers, weight, packing), *epilogue.values]
        if config.slices > 1:
            operands.append(Computed((call.group.source(weight),), Counters(tile_count(spec, config))))
        return Emitted(function, operands)

    def problem(self, call: KernelCall, caps: Caps) -> Problem | str:
        """The call as a product of matrices, or why it is none."""
        spec, dims = self.spec_of(call)
        data, weight = call.group.anchor.inputs[:2]
        assert data is not None
        assert weight is not None
        integers = integer_products(call, data, weight, spec.depth)
        if integers is not None:
            integers = next(iter(byte_products(call, integers)), None) or moved_weights(call, integers)
            if integers is None:
                return "needs weights that fit signed bytes once their zero point is taken out, or float32"
            spec = replace(spec, types=integers.types)
        else:
            packed = _packed_type(call, data, weight, spec.types.input)
            if packed is None:
                return "needs operands of one floating-point type, stored as they are multiplied"
            spec = replace(spec, types=replace(spec.types, weight=packed))
        product = product_of(spec.types, caps, call.fused.options.exact)
        if product is None:
            return f"no product of {spec.types.input.dtype} and {spec.types.weight.dtype}"
        return Problem(spec, dims, product, integers)

    def _problem(self, call: KernelCall, caps: Caps) -> Problem:
        problem = self.problem(call, caps)
        assert isinstance(problem, Problem)
        return problem

    @staticmethod
    def function(
        problem: Problem,
        config: GemmConfig,
        epilogue: Epilogue,
        name: str,
        shape: Sequence[Expr] = (),
        apply: Any = None,
        where: str = "",
    ) -> Any:
        """The kernel of a product with an epilogue; ``apply`` stands in for the epilogue's function."""
        extras = extra_operands(epilogue)
        return emit(problem.spec, config, apply or epilogue.function(), extras, name, shape, where)


def epilogue_bytes(call: KernelCall) -> int:
    """Bytes of the operands of known size that an epilogue reads, the anchor's own aside."""
    own = {call.group.source(v) for v in call.group.anchor.inputs[:2] if v is not None}
    others = [v for v in call.group.inputs if v not in own]
    return sum((v.tensor.num_elements or 0) * v.dtype.numpy.itemsize for v in others)


def _packed_type(call: KernelCall, data: Value, weight: Value, row: ElementType) -> ElementType | None:
    """In which a constant is packed that is multiplied with data of a type; None if that would lose something."""
    stored = call.group.source(weight).dtype
    if row.conversion is not None or stored not in (row.dtype, *_BYTES):
        return None
    return element_type(row.dtype)
