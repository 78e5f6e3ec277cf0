"""Depthwise convolutions on GPUs: a group for every input channel, along two axes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import ElementType
from graphopt.backends.base.finite import is_finite
from graphopt.backends.base.packing import Packing
from graphopt.backends.base.template import Emitted, KernelCall, KernelTemplate, No, Support
from graphopt.backends.cuda.conv import convolution_spec, takes_channels_last
from graphopt.backends.cuda.cost.chips import chip_of
from graphopt.backends.cuda.cost.gemm import LAUNCH_SECONDS
from graphopt.backends.cuda.kernels.depthwise import DepthwiseConfig, emit
from graphopt.backends.cuda.kernels.thread_block import LARGEST_POSITION
from graphopt.backends.specs.implicit_gemm import ImplicitGemmSpec
from graphopt.backends.templates.convolution import NOMINAL_SECONDS
from graphopt.backends.templates.epilogue import Epilogue
from graphopt.backends.templates.fitted_epilogue import extra_operands, plain_epilogue, symbolic_operands_fit
from graphopt.backends.templates.given_zero_point import given_zero_point
from graphopt.backends.templates.integer_products import (
    IntegerProducts,
    integer_products,
    single_products,
    weight_of,
)
from graphopt.backends.templates.reading import constant_weight, plain_prologue, scale_of
from graphopt.backends.tensors.tensor import Expr
from graphopt.errors import GraphOptError
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Array
from graphopt.ir.layout import Layout, channels_last
from graphopt.ops.context import attr

_WIDEST = 16
_PIXELS = 4
_LONGEST = 32
_ENOUGH_THREADS = 1024
"""Of a multiprocessor, that keep its memory busy."""


@dataclass(frozen=True)
class FilterColumns(Packing):
    """(output channels, 1, height, width) weights as elements of the window, each with all channels.

    Attributes:
        type: of the packed weights.
    """

    type: ElementType

    def packed(self, array: Array) -> Array:
        """Turned."""
        turned = array.reshape(array.shape[0], -1).T.astype(self.type.dtype.numpy, copy=False)
        return np.ascontiguousarray(turned).reshape(-1)


class DepthwiseConv(KernelTemplate[DepthwiseConfig]):
    """Conv with one input channel a group."""

    name: ClassVar[str] = "depthwise"
    config_type: ClassVar[type[Any]] = DepthwiseConfig
    anchors: ClassVar[frozenset[str]] = frozenset({"Conv"})
    converts: ClassVar[bool] = True

    def takes(self, layout: Layout) -> bool:
        """Channels in their place, or innermost."""
        return takes_channels_last(layout)

    def wanted_layout(self, call: KernelCall, caps: Caps) -> Layout:
        """Channels innermost."""
        return channels_last(len(call.group.anchor.out.shape))

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = plain_epilogue(call.group) or plain_prologue(call, weights={1: 0}, biases=(2,))
        if reason is not None:
            return No(reason)
        node = call.group.anchor
        data, weight = node.inputs[:2]
        assert data is not None
        assert weight is not None
        if len(data.shape) != 4 or weight.shape[1] != 1 or attr(node, "group") != data.shape[1]:
            return No("needs an input channel a group, and two spatial axes")
        stored = constant_weight(call, weight)
        if stored is None or not is_finite(stored):
            return No("needs finite constant weights: it leaves out their products with padding")
        try:
            spec, _, _ = _problem(call)
        except GraphOptError as e:
            return No(e.message)
        if spec.types.sum not in ("float32", "int32"):
            return No(f"sums of {spec.types.sum}")
        if any(w.kernel > _LONGEST for w in spec.windows):
            return No("a long window, whose elements would each be code of their own")
        if spec.static_rows == 0 or math.prod(d for d in spec.data_shape if isinstance(d, int)) > LARGEST_POSITION // 2:
            return No("an empty result, or positions of more than 31 bits")
        if spec.data_last != spec.result_last:
            return No("data and result in different layouts")
        return symbolic_operands_fit(call)

    def default(self, call: KernelCall, caps: Caps) -> DepthwiseConfig:
        """As many neighbours as 16 bytes hold, as many pixels as leave enough threads."""
        return default_config(_problem(call)[0], caps)

    def space(self, call: KernelCall, caps: Caps) -> Iterable[DepthwiseConfig]:
        """Fewer neighbours, fewer pixels."""
        spec = _problem(call)[0]
        most = neighbours(spec)
        for channels in (most, most // 2, most // 4):
            if channels and (channels == most or channels * spec.types.input.bytes >= 4):
                yield from (DepthwiseConfig(channels, pixels) for pixels in (1, 2, 4))

    def cost(self, call: KernelCall, config: DepthwiseConfig, caps: Caps) -> float:
        """Bytes, or multiply-adds of the lanes."""
        spec = _problem(call)[0]
        chip = chip_of(caps)
        if spec.static_rows is None:
            return NOMINAL_SECONDS
        data, result = (math.prod(int(d) for d in shape) for shape in (spec.data_shape, spec.result_shape))
        moved = data * spec.types.input.bytes + result * spec.types.output.bytes
        arithmetic = 3 * result * spec.taps / (chip.fmas * chip.multiprocessors * chip.clock)
        return max(moved / chip.memory, arithmetic) + LAUNCH_SECONDS

    def emit(self, call: KernelCall, config: DepthwiseConfig, caps: Caps, name: str) -> Emitted:
        """The kernel; weights turned, bias and residuals as epilogue operands."""
        spec, dims, integers = _problem(call)
        data, weight, bias = (call.group.anchor.input(i) for i in range(3))
        assert data is not None
        assert weight is not None
        if integers is not None:
            call.read.difference_update((integers.scale, integers.zero_point))  # operands
        epilogue = Epilogue(
            call, caps, dims, bias=bias if integers is None else integers.bias, scale=scale_of(call, weight), axis=1,
            integers=None if integers is None else integers.scale, sums=spec.types.sum,
        )  # fmt: skip
        parameters, operands = given_zero_point(spec.types, integers)
        extras = [*extra_operands(epilogue), *parameters]
        factor = spec.types.accumulator
        function = emit(spec, config, epilogue.function(), extras, name, factor, call.group.anchor.label)
        packing = FilterColumns(tuple(int(d) for d in weight.shape), factor)  # type: ignore[arg-type]  # of a constant
        return Emitted(function, [data, weight_of(call, integers, weight, packing), *epilogue.values, *operands])


def default_config(spec: ImplicitGemmSpec, caps: Caps) -> DepthwiseConfig:
    """As many neighbours as 16 bytes hold, and the most pixels a thread with which threads fill the device."""
    channels = neighbours(spec)
    if spec.static_rows is None:
        return DepthwiseConfig(channels, 2)
    threads = spec.static_rows * spec.out_channels // channels
    pixels = next((p for p in (_PIXELS, 2) if threads // p >= caps.cores * _ENOUGH_THREADS), 1)
    return DepthwiseConfig(channels, pixels)


def neighbours(spec: ImplicitGemmSpec) -> int:
    """Channels that a thread can have at once."""
    if not spec.data_last or spec.columns != 1:
        return 1
    widest = max(spec.types.input.bytes, spec.types.output.bytes)
    least = min(spec.types.input.bytes, spec.types.output.bytes)
    counts = (_WIDEST // widest, _WIDEST // widest // 2)
    return next((c for c in counts if c > 1 and c * least >= 4 and spec.in_channels % c == 0), 1)


def _problem(call: KernelCall) -> tuple[ImplicitGemmSpec, dict[Dim, Expr], IntegerProducts | None]:
    spec, dims = convolution_spec(call)
    data, weight = call.group.anchor.inputs[:2]
    assert data is not None
    assert weight is not None
    integers = single_products(call, integer_products(call, data, weight, spec.depth), data, weight)
    if integers is not None:
        spec = replace(spec, types=integers.types)
    return spec, dims, integers
