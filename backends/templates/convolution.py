"""What templates of convolutions with constant weights have in common: reading a call, and the operands of the kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import element_type
from graphopt.backends.base.finite import is_finite
from graphopt.backends.base.packing import Packing
from graphopt.backends.base.template import ConfigT, Emitted, KernelCall, KernelTemplate, No, Support
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.slices import Slices
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.specs.window import Window as Sliding
from graphopt.backends.templates.assumed_plane import assumed_plane
from graphopt.backends.templates.epilogue import Epilogue
from graphopt.backends.templates.fitted_epilogue import (
    extra_operands,
    plain_epilogue,
    store_style,
    symbolic_operands_fit,
)
from graphopt.backends.templates.flat_plane import flat_plane, with_plane
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
from graphopt.backends.templates.reading import constant_weight, plain_prologue, scale_of, weight_row
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle
from graphopt.backends.templates.sum_bits import sum_bits
from graphopt.backends.templates.zero_points import Offset
from graphopt.backends.tensors.tensor import Expr
from graphopt.errors import GraphOptError
from graphopt.ir.dims import Dim, SymExpr
from graphopt.ir.dtypes import DType
from graphopt.ir.layout import PLAIN, Layout, channel_blocks, channels_last
from graphopt.ops.context import InferContext
from graphopt.ops.conv import conv_window

NOMINAL_SECONDS = 1.0
"""Predicted time where a template can't tell because sizes are symbolic."""


@dataclass(frozen=True)
class ConvKernel(Generic[ConfigT]):
    """The functions of a kernel that takes a ``Conv2dSpec``.

    Attributes:
        supports: why it can't compute a specification, or None if it can.
        default_config: its own choice of configuration.
        configurations: all that it could do, that one among them.
        seconds: predicted time on all cores of the capabilities; infinite where sizes are symbolic and nothing is assumed.
        packing: the order in which the kernel reads OIHW weights.
        stored_weight: whether the packed weights keep the element type that the model has them in.
        integers: name of the dot product that multiplies the integers of a specification that has them, empty where none does;
            left out where the kernel has no use for dot products.
        sums_products: whether what it sums are the products of its operands, which are whole numbers where these are.
        slices: whether it takes specifications of slices: convolutions over three axes.
        settles: whether it adds up any number of products of float16, by sums in float32.
        emit: ``(spec, config, epilogue, extras, name, style)`` to the function ``name(data, weight, *extras, output)``.
    """

    supports: Callable[[Conv2dSpec, Caps], str | None]
    default_config: Callable[[Conv2dSpec, Caps], ConfigT]
    configurations: Callable[[Conv2dSpec, Caps], Iterable[ConfigT]]
    seconds: Callable[[Conv2dSpec, ConfigT, Caps], float]
    packing: Callable[[Conv2dSpec, ConfigT], Packing]
    emit: Callable[[Conv2dSpec, ConfigT, EpilogueFn, Sequence[ExtraOperand], str, StoreStyle], tirx.PrimFunc]
    stored_weight: bool = True
    integers: Callable[[Conv2dSpec, Caps], str] | None = None
    sums_products: bool = True
    slices: bool = False
    settles: bool = False


class ConvTemplate(KernelTemplate[ConfigT]):
    """Conv over two axes, or three, with constant weights and an element-wise epilogue, by a ``ConvKernel``."""

    anchors: ClassVar[frozenset[str]] = frozenset({"Conv"})
    converts: ClassVar[bool] = True
    kernel: ConvKernel[ConfigT]

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = plain_epilogue(call.group) or plain_prologue(call, weights={1: 0}, biases=(2,))
        if reason is not None:
            return No(reason)
        node = call.group.anchor
        x, w = node.inputs[0], node.inputs[1]
        assert x is not None
        assert w is not None
        if not computed_in_single(x, w) or len(x.shape) != 4 + (self.kernel.slices and len(x.shape) > 4):
            return No("needs float32 data of rank 4")
        if len(x.shape) == 5 and call.group.prologue:
            return No("needs slices that aren't converted while they are read")
        weight = constant_weight(call, w)
        if weight is None:
            return No("needs constant weights")
        if not is_finite(weight):
            return No("needs finite weights: it leaves out their products with padding, which are NaN otherwise")
        try:
            spec, _ = self.spec_of(call, caps)
        except GraphOptError as e:
            return No(e.message)
        reason = self.kernel.supports(spec, caps)
        return symbolic_operands_fit(call) if reason is None else No(reason)

    def spec_of(self, call: KernelCall, caps: Caps) -> tuple[Conv2dSpec, dict[Dim, Expr]]:
        """`spec_of`, with operands in the types that the kernel multiplies."""
        spec, dims = spec_of(call)
        spec = flat_plane(call, spec) or spec
        if not self.kernel.settles:
            spec = replace(spec, types=spec.types.within(spec.reduction))
        integers = self._integers(call, spec, caps)
        if integers is not None:
            return self._of_integers(call, spec, integers), dims
        if not self.kernel.stored_weight:
            spec = replace(spec, types=replace(spec.types, weight=spec.types.accumulator))
        return spec, dims

    def default(self, call: KernelCall, caps: Caps) -> ConfigT:
        """The configuration that the kernel predicts to be fastest."""
        return self.kernel.default_config(self.spec_of(call, caps)[0], caps)

    def space(self, call: KernelCall, caps: Caps) -> Iterable[ConfigT]:
        """All that the kernel could do."""
        return self.kernel.configurations(self.spec_of(call, caps)[0], caps)

    def cost(self, call: KernelCall, config: ConfigT, caps: Caps) -> float:
        """The kernel's predicted time."""
        seconds = self.kernel.seconds(self.spec_of(call, caps)[0], config, caps)
        return seconds if math.isfinite(seconds) else NOMINAL_SECONDS

    def emit(self, call: KernelCall, config: ConfigT, caps: Caps, name: str) -> Emitted:
        """The kernel; weights packed, bias and residuals as epilogue operands."""
        spec, dims = self.spec_of(call, caps)
        integers = self._integers(call, spec, caps)
        offset = zero_point_offset(call, integers, axis=0, out_axis=1, spec=spec)
        return emitted(call, caps, self.kernel, spec, config, dims, name, integers, offset)

    def _integers(self, call: KernelCall, spec: Conv2dSpec, caps: Caps) -> IntegerProducts | None:
        """How the kernel multiplies integers, None if it doesn't."""
        x, w = call.group.anchor.inputs[:2]
        assert x is not None
        assert w is not None
        found = integer_products(call, x, w, spec.reduction)
        if found is None:
            return None
        single = single_products(call, found, x, w) if self.kernel.sums_products else None
        if self.kernel.integers is not None:
            for products in (*byte_products(call, found), found):
                if products.keeps_zero_point and any(spec.pads) and spec.static_plane is None:
                    continue  # how many products a sum has is known at run time
                dot = self.kernel.integers(self._of_integers(call, spec, products), caps)
                if dot and preferred(single, dot):
                    return products
        return single

    def _of_integers(self, call: KernelCall, spec: Conv2dSpec, integers: IntegerProducts) -> Conv2dSpec:
        """The specification of a kernel that multiplies integers."""
        x, w = call.group.anchor.inputs[:2]
        assert x is not None
        assert w is not None
        types = integers.types
        if not self.kernel.stored_weight:
            types = replace(types, weight=element_type(DType.i16))
        return replace(spec, types=types, sum_bits=sum_bits(call, x, w))


def emitted(
    call: KernelCall, caps: Caps, kernel: Any, spec: Any, config: Any, dims: Mapping[Dim, Expr], name: str,
    integers: IntegerProducts | None, offset: Offset | None = None,
) -> Emitted:  # fmt: skip
    """The kernel of a convolution, transposed or not; weights packed, bias and residuals as operands of the epilogue.

    Args:
        call: the group.
        caps: of the target.
        kernel: what emits the function and packs the weights.
        spec: its specification.
        config: its configuration.
        dims: its expressions for symbolic dimensions.
        name: of the function.
        integers: how it multiplies integers, None if it doesn't.
        offset: what is added to their sums.
    """
    x, w, bias = (call.group.anchor.input(i) for i in range(3))
    assert x is not None
    assert w is not None
    if integers is not None:
        call.read.difference_update((integers.scale, integers.zero_point))  # operands
    epilogue = Epilogue(
        call, caps, dims, bias=bias if integers is None else integers.bias, scale=scale_of(call, w), axis=1,
        integers=None if integers is None else integers.scale, sums=spec.types.sum, offset=offset,
    )  # fmt: skip
    parameters, operands = given_zero_point(spec.types, integers)
    extras = [*extra_operands(epilogue), *parameters]
    function = kernel.emit(spec, config, epilogue.function(), extras, name, store_style(epilogue))
    if isinstance(spec, Conv2dSpec):
        function = with_plane(call, function, spec, dims)
    weights = weight_of(call, integers, w, kernel.packing(spec, config))
    return Emitted(with_zero_point(function, spec.types), [x, weights, *epilogue.values, *operands])


def channel_layout(channels: Dim, caps: Caps) -> Layout:
    """The layout for a number of channels: on CPUs blocks of 16, of 8 if 16 does not divide them, or plain; on GPUs innermost."""
    if caps.warp:
        return channels_last(4)
    if not isinstance(channels, int):
        return PLAIN
    for block in (16, 8):
        if channels % block == 0 and KernelTypes().lanes(caps) <= 16:
            return channel_blocks(block)
    return PLAIN


def spec_of(call: KernelCall) -> tuple[Conv2dSpec, dict[Dim, Expr]]:
    """The kernel's specification and its expressions for the symbolic dimensions.

    Dimensions that are symbolic become variables of the kernel, read off the shape of its data.
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

    pads = (*window.pads_begin, *window.pads_end)
    if not all(isinstance(p, int) for p in pads):
        raise context.unsupported("padding that depends on a symbolic size")
    *_, top, left = (int(p) for p in window.pads_begin)  # type: ignore[arg-type]
    *_, bottom, right = (int(p) for p in window.pads_end)  # type: ignore[arg-type]
    groups = int(context.attr("group") or 1)
    batch, channels = extent(x.shape[0], "n"), int(w.shape[1]) * groups  # type: ignore[arg-type]
    if not isinstance(x.shape[1], int):  # the weight knows it, and that they agree is checked before anything runs
        dims[x.shape[1]] = channels
    slices = None
    if len(x.shape) == 5:
        lead, trail = int(window.pads_begin[0]), int(window.pads_end[0])  # type: ignore[arg-type]
        along = Sliding(extent(x.shape[2], "d"), window.kernel[0], window.strides[0], window.dilations[0], lead)
        slices = Slices.of(batch, channels, along, trail)
        depth = node.out.shape[2]
        if isinstance(depth, SymExpr):
            dims.setdefault(depth, slices.count)
    out_block = call.layout(call.group.outputs[0]).channel_block or 1
    spec = Conv2dSpec(
        batch=batch if slices is None else batch * slices.count,
        in_channels=channels if slices is None else channels * slices.window.kernel,
        in_height=extent(x.shape[-2], "h"),
        in_width=extent(x.shape[-1], "w"),
        out_channels=int(w.shape[0]),  # type: ignore[arg-type]
        kernel=(window.kernel[-2], window.kernel[-1]),
        strides=(window.strides[-2], window.strides[-1]),
        pads=(top, left, bottom, right),
        dilations=(window.dilations[-2], window.dilations[-1]),
        groups=groups,
        in_block=call.layout(x).channel_block or 1,
        out_block=out_block,
        types=types_of(call, x, weight_row(call, w)),
        slices=slices,
        nominal=assumed_plane(call, x.shape[0], node.out.shape),
    )
    for dim, value in ((node.out.shape[-2], spec.out_height), (node.out.shape[-1], spec.out_width)):
        if isinstance(dim, SymExpr):
            dims.setdefault(dim, value)
    return spec, dims
