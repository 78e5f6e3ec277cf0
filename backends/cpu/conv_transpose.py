"""Transposed convolution kernels as templates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import ConfigT, Emitted, KernelCall, KernelTemplate, No, Support
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels import conv_transpose, patch_upsample
from graphopt.backends.cpu.kernels.patch_upsample import PatchConfig
from graphopt.backends.cpu.kernels.sliding_config import SlidingConfig
from graphopt.backends.specs.transposed_convolution import PatchSpec, TransposedSpec
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.templates.convolution import channel_layout, emitted
from graphopt.backends.templates.fitted_epilogue import (
    plain_epilogue,
    symbolic_operands_fit,
)
from graphopt.backends.templates.integer_products import IntegerProducts, integer_products, single_products
from graphopt.backends.templates.kernel_types import computed_in_single, types_of
from graphopt.backends.templates.reading import constant_weight, plain_prologue, weight_row
from graphopt.errors import GraphOptError
from graphopt.ir.dims import Dim, SymExpr
from graphopt.ir.graph import Value
from graphopt.ir.layout import PLAIN, Layout
from graphopt.ops.context import InferContext
from graphopt.ops.conv import transposed_window


class _ConvTranspose(KernelTemplate[ConfigT]):
    """ConvTranspose (rank 4, constant weights, one group) with an element-wise epilogue.

    Attributes:
        kernel: the module that emits the code.
    """

    anchors: ClassVar[frozenset[str]] = frozenset({"ConvTranspose"})
    converts: ClassVar[bool] = True
    kernel: ClassVar[Any]

    @abstractmethod
    def spec(self, call: KernelCall) -> tuple[Any, dict[Dim, Any]]:
        """The kernel's specification and its expressions for the symbolic dimensions.

        Raises:
            UnsupportedOpError: the kernel has no form for the node.
        """

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = plain_epilogue(call.group) or plain_prologue(call, weights={1: 1}, biases=(2,))
        if reason is not None:
            return No(reason)
        node = call.group.anchor
        x: Any = node.inputs[0]
        w: Any = node.inputs[1]
        if not computed_in_single(x, w) or len(x.shape) != 4 or not isinstance(x.shape[1], int):
            return No("needs float32 data of rank 4 with a known number of channels")
        if constant_weight(call, w) is None:
            return No("needs constant weights")
        try:
            spec, _ = self.spec(call)
        except GraphOptError as e:
            return No(e.message)
        reason = self.kernel.supports(spec, caps)
        return symbolic_operands_fit(call) if reason is None else No(reason)

    def default(self, call: KernelCall, caps: Caps) -> ConfigT:
        """The tile that the kernel predicts to be fastest."""
        config: ConfigT = self.kernel.default_config(self.spec(call)[0], caps)
        return config

    def space(self, call: KernelCall, caps: Caps) -> Iterable[ConfigT]:
        """Tiles that fit the registers."""
        found: Iterable[ConfigT] = self.kernel.configurations(self.spec(call)[0], caps)
        return found

    def cost(self, call: KernelCall, config: ConfigT, caps: Caps) -> float:
        """The kernel's predicted time over the cores."""
        return min(float(self.kernel.seconds(self.spec(call)[0], config, caps)), 1.0) / max(caps.cores, 1)

    def emit(self, call: KernelCall, config: ConfigT, caps: Caps, name: str) -> Emitted:
        """The kernel; weights packed, bias and residuals as epilogue operands."""
        spec, dims = self.spec(call)
        return emitted(call, caps, self.kernel, spec, config, dims, name, _integers(call))


class PatchConvTranspose2d(_ConvTranspose[PatchConfig]):
    """Kernel = stride and no padding, on plain data."""

    name: ClassVar[str] = "conv-transpose-patch"
    config_type: ClassVar[type[Any]] = PatchConfig
    kernel: ClassVar[Any] = patch_upsample

    def spec(self, call: KernelCall) -> tuple[PatchSpec, dict[Dim, Any]]:
        """The kernel's specification."""
        if any(
            v is not None and call.layout(v).channel_block for v in (call.group.anchor.inputs[0], call.group.outputs[0])
        ):
            raise _context(call).unsupported("channel blocks")
        return patch_of(call)


class PhasedConvTranspose2d(_ConvTranspose[SlidingConfig]):
    """Kernels no shorter than the stride, undilated, on plain data or channel blocks."""

    name: ClassVar[str] = "conv-transpose"
    config_type: ClassVar[type[Any]] = SlidingConfig
    kernel: ClassVar[Any] = conv_transpose

    def spec(self, call: KernelCall) -> tuple[TransposedSpec, dict[Dim, Any]]:
        """The kernel's specification."""
        return transposed_of(call)

    def wanted_layout(self, call: KernelCall, caps: Caps) -> Layout:
        """A vector of channels; patches only stay in blocks between neighbours that are."""
        node = call.group.anchor
        x: Any = node.inputs[0]
        blocked = channel_layout(node.out.shape[1], caps) if len(node.out.shape) == 4 else PLAIN
        try:
            patch_of(call)
        except GraphOptError:
            return blocked
        readers = {use.node.op for use in call.group.outputs[0].uses}
        return blocked if call.layout(x).channel_block and readers and readers <= _READERS_OF_BLOCKS else PLAIN


_READERS_OF_BLOCKS = frozenset({"Conv", "Concat", "Add"})


def patch_of(call: KernelCall) -> tuple[PatchSpec, dict[Dim, Any]]:
    """The patch kernel's specification, layouts aside, and its expressions for the symbolic dimensions.

    Raises:
        UnsupportedOpError: windows overlap or leave gaps, or the result is cropped or padded.
    """
    node = call.group.anchor
    context = _context(call)
    window = transposed_window(context)
    x = context.value(0)
    whole = tuple(d * s for d, s in zip(x.shape[2:], window.strides))
    if window.kernel != window.strides or window.dilations != (1, 1) or whole != tuple(window.out):
        raise context.unsupported("windows that overlap, leave gaps or are cropped")
    if any(p != 0 for p in (*window.pads_begin, *window.pads_end)) or int(context.attr("group") or 1) != 1:
        raise context.unsupported("padding or groups")
    in_channels, out_channels = _channels(context)
    (batch, height, width), dims = _extents(x)
    spec = PatchSpec(
        batch,
        in_channels,
        height,
        width,
        out_channels,
        (window.kernel[0], window.kernel[1]),
        _types(call),
    )
    _name(dims, node.out.shape[2:], spec.output_shape[2:])
    return spec, dims


def _channels(context: InferContext) -> tuple[int, int]:
    """Of the image, of which the weight may know more, and of the result of one group.

    Raises:
        UnsupportedOpError: only run time knows them.
    """
    found, made = context.value(1).shape[:2]
    if not isinstance(found, int) or not isinstance(made, int):
        raise context.unsupported("channels that are a symbol")
    return found, made


def transposed_of(call: KernelCall) -> tuple[TransposedSpec, dict[Dim, Any]]:
    """The phased kernel's specification and its expressions for the symbolic dimensions.

    Raises:
        UnsupportedOpError: groups, dilation, or padding that depends on a symbolic size.
    """
    node = call.group.anchor
    context = _context(call)
    window = transposed_window(context)
    x = context.value(0)
    if window.dilations != (1, 1) or int(context.attr("group") or 1) != 1:
        raise context.unsupported("dilation or groups")
    ends = [
        (extent - 1) * stride + kernel - begin - out
        for extent, stride, kernel, begin, out in zip(
            x.shape[2:], window.strides, window.kernel, window.pads_begin, window.out
        )
    ]
    if not all(isinstance(p, int) for p in (*window.pads_begin, *ends)):
        raise context.unsupported("padding that depends on a symbolic size")
    top, left, bottom, right = (int(p) for p in (*window.pads_begin, *ends))  # type: ignore[arg-type]
    in_channels, out_channels = _channels(context)
    (batch, height, width), dims = _extents(x)
    spec = TransposedSpec(
        batch=batch,
        in_channels=in_channels,
        height=height,
        width=width,
        out_channels=out_channels,
        kernel=(window.kernel[0], window.kernel[1]),
        strides=(window.strides[0], window.strides[1]),
        pads=(top, left, bottom, right),
        in_block=call.layout(x).channel_block or 1,
        out_block=call.layout(call.group.outputs[0]).channel_block or 1,
        types=_types(call),
    )
    _name(dims, node.out.shape[2:], (spec.out_extent(0), spec.out_extent(1)))
    return spec, dims


def _types(call: KernelCall) -> KernelTypes:
    """Of the operands of a kernel: dequantized bytes are multiplied as whole numbers."""
    integers = _integers(call)
    if integers is not None:
        return integers.types
    x, weight = call.group.anchor.inputs[:2]
    assert x is not None
    assert weight is not None
    products = stored.size // max(stored.shape[1], 1) if (stored := constant_weight(call, weight)) is not None else None
    return types_of(call, x, weight_row(call, weight)).within(products)


def _integers(call: KernelCall) -> IntegerProducts | None:
    """How integers are multiplied; no sum has more products than those of all channels and all of the kernel's elements."""
    x, weight = call.group.anchor.inputs[:2]
    assert x is not None
    assert weight is not None
    stored = constant_weight(call, weight)
    if stored is None:
        return None
    found = integer_products(call, x, weight, stored.size // max(stored.shape[1], 1))
    return single_products(call, found, x, weight, axis=1)


def _context(call: KernelCall) -> InferContext:
    node = call.group.anchor
    assert node.graph is not None
    return InferContext(node, node.graph)


def _extents(x: Value) -> tuple[list[Any], dict[Dim, Any]]:
    """Batch, height and width, symbolic ones as variables of the kernel."""
    dims: dict[Dim, Any] = {}
    extents = [
        d if isinstance(d, int) else dims.setdefault(d, tirx.Var(name, "int64"))
        for d, name in zip((x.shape[0], *x.shape[2:]), "nhw")
    ]
    return extents, dims


def _name(dims: dict[Dim, Any], shape: Sequence[Dim], extents: Sequence[Any]) -> None:
    """Expressions for the symbolic dimensions of a result."""
    for dim, value in zip(shape, extents):
        if isinstance(dim, SymExpr):
            dims.setdefault(dim, value)
