"""Convolutions with constant weights on GPUs, of any rank, in groups too."""

from __future__ import annotations

from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import KernelCall
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cuda.gemm_template import GemmTemplate, Problem
from graphopt.backends.cuda.kernels.gemm_config import GemmConfig
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.implicit_gemm import ImplicitGemmSpec
from graphopt.backends.specs.window import Window
from graphopt.backends.templates.epilogue import Epilogue
from graphopt.backends.templates.fitted_epilogue import symbolic_operands_fit
from graphopt.backends.templates.integer_products import zero_point_offset
from graphopt.backends.templates.kernel_types import types_of
from graphopt.backends.templates.zero_points import Offset
from graphopt.backends.tensors.tensor import Expr
from graphopt.errors import UnsupportedOpError
from graphopt.ir.dims import Dim, SymExpr
from graphopt.ir.layout import Layout, channels_last
from graphopt.ops.context import InferContext, attr
from graphopt.ops.conv import conv_window

_FEWEST_CHANNELS = 4
"""Of a group, below which most of a tile is padding: such layers have kernels of their own."""


def takes_channels_last(layout: Layout) -> bool:
    """Whether a layout is plain, or has channels innermost and nothing else moved."""
    return layout.is_plain or (layout.order is not None and layout == channels_last(len(layout.order)))


class GemmConv(GemmTemplate):
    """Conv as an implicit product of matrices."""

    name: ClassVar[str] = "implicit-gemm"
    anchors: ClassVar[frozenset[str]] = frozenset({"Conv"})

    def takes(self, layout: Layout) -> bool:
        """Channels in their place, or innermost."""
        return takes_channels_last(layout)

    def wanted_layout(self, call: KernelCall, caps: Caps) -> Layout:
        """Channels innermost."""
        return channels_last(len(call.group.anchor.out.shape))

    def weight_axis(self, call: KernelCall) -> int:
        """The first."""
        return 0

    def out_axis(self, call: KernelCall) -> int:
        """The second."""
        return 1

    def refusal(self, call: KernelCall) -> str | None:
        """Data of unknown channels, thin groups, operands with dimensions of their own."""
        node = call.group.anchor
        data, weight = node.inputs[:2]
        assert data is not None
        assert weight is not None
        if not isinstance(data.shape[1], int):
            return "needs a known number of channels"
        groups = int(attr(node, "group") or 1)
        if groups > 1 and min(int(weight.shape[0]) // groups, int(weight.shape[1])) < _FEWEST_CHANNELS:  # type: ignore[arg-type]
            return f"needs {_FEWEST_CHANNELS} channels in a group"
        fits = symbolic_operands_fit(call)
        return getattr(fits, "reason", None)

    def spec_of(self, call: KernelCall) -> tuple[ImplicitGemmSpec, dict[Dim, Expr]]:
        """Windows along all spatial axes."""
        return convolution_spec(call)

    def offset(self, call: KernelCall, problem: Problem) -> Offset | None:
        """Near borders, that of the weights which meet data."""
        spec, integers = problem.spec, problem.integers
        if integers is None or not integers.keeps_zero_point:
            return None
        padded = any(w.lead for w in spec.windows) or any(spec.trails)
        plane = None
        if padded:
            if len(spec.windows) != 2 or not all(isinstance(e, int) for e in spec.outputs):
                raise UnsupportedOpError(
                    "a zero point and padding, unless along two axes of known extent", node=call.group.anchor.label
                )
            (rows, columns), trails = spec.windows, spec.trails
            plane = Conv2dSpec(
                1, spec.in_channels, rows.extent, columns.extent, spec.out_channels, (rows.kernel, columns.kernel),
                (rows.stride, columns.stride), (rows.lead, columns.lead, trails[0], trails[1]),
                (rows.dilation, columns.dilation), spec.groups,
            )  # fmt: skip
        return zero_point_offset(call, integers, axis=0, out_axis=1, spec=plane)

    def emitted(
        self, call: KernelCall, problem: Problem, config: GemmConfig, epilogue: Epilogue, name: str
    ) -> Any:  # fmt: skip
        """The function."""
        return self.function(problem, config, epilogue, name, where=call.group.anchor.label)


def convolution_spec(call: KernelCall) -> tuple[ImplicitGemmSpec, dict[Dim, Expr]]:
    """A Conv with windows along all its spatial axes, and the kernel's expressions for symbolic dimensions.

    Raises:
        UnsupportedOpError: padding depends on a symbolic size.
    """
    node = call.group.anchor
    assert node.graph is not None
    context = InferContext(node, node.graph)
    window = conv_window(context)
    x, w = context.value(0), context.value(1)
    dims: dict[Dim, Any] = {}

    def extent(dim: Dim, name: str) -> Any:
        if isinstance(dim, int):
            return dim
        if dim not in dims:
            dims[dim] = tirx.Var(name, "int64")
        return dims[dim]

    if not all(isinstance(p, int) for p in (*window.pads_begin, *window.pads_end)):
        raise context.unsupported("padding that depends on a symbolic size")
    windows = tuple(
        Window(
            extent(d, f"d{i}"), window.kernel[i], window.strides[i], window.dilations[i], int(window.pads_begin[i])  # type: ignore[arg-type]
        )
        for i, d in enumerate(x.shape[2:])
    )  # fmt: skip
    spec = ImplicitGemmSpec(
        batch=extent(x.shape[0], "n"),
        in_channels=int(x.shape[1]),  # type: ignore[arg-type]
        out_channels=int(w.shape[0]),  # type: ignore[arg-type]
        windows=windows,
        trails=tuple(int(p) for p in window.pads_end),  # type: ignore[arg-type]
        groups=int(context.attr("group") or 1),
        data_last=not call.layout(x).is_plain,
        result_last=not call.layout(call.group.outputs[0]).is_plain,
        types=types_of(call, x),
    )
    for dim, value in zip(node.out.shape[2:], spec.outputs):
        if isinstance(dim, SymExpr):
            dims.setdefault(dim, value)
    return spec, dims
