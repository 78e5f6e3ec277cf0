"""Transposed convolutions with constant weights on GPUs: a convolution of stride 1 for each place within a stride."""

from __future__ import annotations

from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import KernelCall
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cuda.conv import takes_channels_last
from graphopt.backends.cuda.gemm_template import GemmTemplate, Problem
from graphopt.backends.cuda.kernels.gemm_config import GemmConfig
from graphopt.backends.cuda.kernels.row_packing import RowOrder
from graphopt.backends.specs.implicit_gemm import ImplicitGemmSpec, Phases
from graphopt.backends.specs.window import Window
from graphopt.backends.templates.epilogue import Epilogue
from graphopt.backends.templates.fitted_epilogue import symbolic_operands_fit
from graphopt.backends.templates.kernel_types import types_of
from graphopt.backends.templates.zero_points import Offset
from graphopt.backends.tensors.tensor import Expr
from graphopt.errors import UnsupportedOpError
from graphopt.ir.dims import Dim, SymExpr
from graphopt.ir.layout import Layout, channels_last
from graphopt.ops.context import InferContext
from graphopt.ops.conv import transposed_window


class GemmConvTranspose(GemmTemplate):
    """ConvTranspose without dilation."""

    name: ClassVar[str] = "transposed-gemm"
    anchors: ClassVar[frozenset[str]] = frozenset({"ConvTranspose"})

    def takes(self, layout: Layout) -> bool:
        """Channels in their place, or innermost."""
        return takes_channels_last(layout)

    def wanted_layout(self, call: KernelCall, caps: Caps) -> Layout:
        """Channels innermost."""
        return channels_last(len(call.group.anchor.out.shape))

    def weight_axis(self, call: KernelCall) -> int:
        """The second."""
        return 1

    def out_axis(self, call: KernelCall) -> int:
        """The second."""
        return 1

    def order(self, problem: Problem, weight_axis: int) -> RowOrder:
        """By phases."""
        phases = problem.spec.phases
        assert phases is not None
        return RowOrder(weight_axis, phases.strides, phases.leads)

    def refusal(self, call: KernelCall) -> str | None:
        """Dilated kernels, sizes or padding that only run time tells."""
        node = call.group.anchor
        data = node.inputs[0]
        assert data is not None
        assert node.graph is not None
        if not all(isinstance(d, int) for d in (*data.shape[1:], *node.out.shape[1:])):
            return "needs sizes that are known, the batch's aside"
        window = transposed_window(InferContext(node, node.graph))
        if any(d != 1 for d in window.dilations):
            return "a dilated kernel"
        if any(not isinstance(p, int) or p < 0 for p in window.pads_begin):
            return "padding that is negative or not known"
        fits = symbolic_operands_fit(call)
        return getattr(fits, "reason", None)

    def spec_of(self, call: KernelCall) -> tuple[ImplicitGemmSpec, dict[Dim, Expr]]:
        """Windows of the longest phase."""
        node = call.group.anchor
        assert node.graph is not None
        context = InferContext(node, node.graph)
        window = transposed_window(context)
        x = context.value(0)
        dims: dict[Dim, Any] = {}
        batch = x.shape[0]
        if isinstance(batch, SymExpr):
            dims[batch] = tirx.Var("n", "int64")
        leads = tuple(int(p) for p in window.pads_begin)  # type: ignore[arg-type]  # `refusal` says that they are known
        longest = [-(-k // s) for k, s in zip(window.kernel, window.strides)]
        extents = tuple(int(d) for d in node.out.shape[2:])  # type: ignore[arg-type]
        spec = ImplicitGemmSpec(
            batch=dims.get(batch, batch),
            in_channels=int(x.shape[1]),  # type: ignore[arg-type]
            out_channels=int(node.out.shape[1]),  # type: ignore[arg-type]
            windows=tuple(Window(int(d), j, 1, 1, j - 1) for d, j in zip(x.shape[2:], longest)),  # type: ignore[arg-type]
            trails=tuple(0 for _ in longest),
            groups=int(context.attr("group") or 1),
            data_last=not call.layout(x).is_plain,
            result_last=not call.layout(call.group.outputs[0]).is_plain,
            types=types_of(call, x),
            phases=Phases(tuple(window.strides), leads, extents),
        )
        return spec, dims

    def offset(self, call: KernelCall, problem: Problem) -> Offset | None:
        """None: near borders, what is missing of a window depends on the phase."""
        if problem.integers is not None and problem.integers.keeps_zero_point:
            raise UnsupportedOpError(
                "a zero point in the data of a transposed convolution", node=call.group.anchor.label
            )  # fmt: skip
        return None

    def emitted(
        self, call: KernelCall, problem: Problem, config: GemmConfig, epilogue: Epilogue, name: str
    ) -> Any:  # fmt: skip
        """The function."""
        return self.function(problem, config, epilogue, name, where=call.group.anchor.label)
