"""Transposed convolution kernels as templates."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import Emitted, KernelCall, KernelTemplate, No, Support
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.common.epilogue import Epilogue
from graphopt.backends.cpu.conv2d import plain_epilogue, store_style
from graphopt.backends.cpu.conv_template import extra_operands, symbolic_operands_fit
from graphopt.backends.cpu.kernels import patch_upsample
from graphopt.backends.cpu.kernels.patch_upsample import PatchConfig, PatchSpec
from graphopt.errors import GraphOptError
from graphopt.ir.dims import Dim, SymExpr
from graphopt.ir.dtypes import DType
from graphopt.ops.context import InferContext, known_array
from graphopt.ops.conv import transposed_window


class PatchConvTranspose2d(KernelTemplate[PatchConfig]):
    """ConvTranspose with kernel = stride (float32, constant weights, no padding, one group) on plain data."""

    name: ClassVar[str] = "conv-transpose-patch"
    anchors: ClassVar[frozenset[str]] = frozenset({"ConvTranspose"})

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = plain_epilogue(call.group)
        if reason is not None:
            return No(reason)
        node = call.group.anchor
        x: Any = node.inputs[0]
        w: Any = node.inputs[1]
        if x.dtype is not DType.f32 or len(x.shape) != 4 or not isinstance(x.shape[1], int):
            return No("needs float32 data of rank 4 with a known number of channels")
        if known_array(w) is None:
            return No("needs constant weights")
        if call.block(x) or call.block(call.group.outputs[0]):
            return No("needs plain layouts")
        try:
            spec, _ = patch_of(call)
        except GraphOptError as e:
            return No(e.message)
        reason = patch_upsample.supports(spec, caps)
        return symbolic_operands_fit(call) if reason is None else No(reason)

    def default(self, call: KernelCall, caps: Caps) -> PatchConfig:
        """The tile that the kernel predicts to be fastest."""
        return patch_upsample.default_config(patch_of(call)[0], caps)

    def cost(self, call: KernelCall, config: PatchConfig, caps: Caps) -> float:
        """The kernel's predicted time over the cores."""
        return min(patch_upsample.seconds(patch_of(call)[0], config), 1.0) / max(caps.cores, 1)

    def emit(self, call: KernelCall, config: PatchConfig, caps: Caps, name: str) -> Emitted:
        """The kernel; weights packed, bias and residuals as epilogue operands."""
        node = call.group.anchor
        spec, dims = patch_of(call)
        x, w = node.inputs[0], node.inputs[1]
        bias = node.input(2)
        assert x is not None
        assert w is not None
        weight = known_array(w)
        assert weight is not None
        epilogue = Epilogue(call, caps, dims, (bias, 1) if bias is not None else None)
        function = patch_upsample.emit(
            spec, config, epilogue.function(), extra_operands(epilogue), name, store_style(epilogue)
        )
        packed = patch_upsample.pack_weight(np.asarray(weight, np.float32), spec, config)
        return Emitted(function, [x, packed, *epilogue.values])


def patch_of(call: KernelCall) -> tuple[PatchSpec, dict[Dim, Any]]:
    """The kernel's specification and its expressions for the symbolic dimensions.

    Raises:
        UnsupportedOpError: windows overlap or leave gaps, or the result is cropped or padded.
    """
    node = call.group.anchor
    assert node.graph is not None
    context = InferContext(node, node.graph)
    window = transposed_window(context)
    x, w = context.value(0), context.value(1)
    whole = tuple(d * s for d, s in zip(x.shape[2:], window.strides))
    if window.kernel != window.strides or window.dilations != (1, 1) or whole != tuple(window.out):
        raise context.unsupported("windows that overlap, leave gaps or are cropped")
    if any(p != 0 for p in (*window.pads_begin, *window.pads_end)) or int(context.attr("group") or 1) != 1:
        raise context.unsupported("padding or groups")
    dims: dict[Dim, Any] = {}
    batch, height, width = (
        d if isinstance(d, int) else dims.setdefault(d, tirx.Var(name, "int64"))
        for d, name in zip((x.shape[0], *x.shape[2:]), "nhw")
    )
    spec = PatchSpec(
        batch,
        int(x.shape[1]),  # type: ignore[arg-type]
        height,
        width,
        int(w.shape[1]),  # type: ignore[arg-type]
        (window.kernel[0], window.kernel[1]),
    )
    for dim, value in zip(node.out.shape[2:], spec.output_shape[2:]):
        if isinstance(dim, SymExpr):
            dims.setdefault(dim, value)
    return spec, dims
