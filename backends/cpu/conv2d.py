"""Convolution kernels as templates: which groups they take, in which layouts, at what predicted cost."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import ConfigT, Emitted, KernelCall, KernelTemplate, No, Support, Yes
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.common.epilogue import Epilogue
from graphopt.backends.common.tensor import Expr
from graphopt.backends.cpu.kernels.conv2d_direct import Conv2dConfig, emit, pack_weight, supports
from graphopt.backends.cpu.kernels.conv2d_spec import Conv2dSpec
from graphopt.backends.cpu.kernels.direct_cost import default_config, predicted_cycles
from graphopt.backends.cpu.kernels.epilogue import EpilogueFn, ExtraOperand, StoreStyle
from graphopt.errors import GraphOptError
from graphopt.ir.dims import Dim, SymExpr, known
from graphopt.ir.dtypes import DType
from graphopt.ir.fused import Group
from graphopt.ops.context import InferContext, known_array
from graphopt.ops.conv import conv_window
from graphopt.ops.registry import ELEMENTWISE, has_trait

FLOPS_PER_LANE = 2.0
CLOCK = 2.5e9
"""Hertz assumed when predicting seconds: only ratios between templates matter."""


class Conv2dTemplate(KernelTemplate[ConfigT]):
    """Conv (rank 4, float32, constant weights) with an element-wise epilogue; the algorithm is a subclass's.

    Subclasses say which specifications they take and emit the kernel for one.
    """

    anchors: ClassVar[frozenset[str]] = frozenset({"Conv"})

    @abstractmethod
    def supports_spec(self, spec: Conv2dSpec, caps: Caps) -> str | None:
        """Why the kernel can't compute ``spec``, None if it can."""

    @abstractmethod
    def default_config(self, spec: Conv2dSpec, caps: Caps) -> ConfigT:
        """The configuration that the kernel's model predicts to be fastest."""

    @abstractmethod
    def cycles(self, spec: Conv2dSpec, config: ConfigT, caps: Caps) -> float:
        """Predicted cycles on all of the target's cores."""

    @abstractmethod
    def pack(self, weight: npt.NDArray[np.float32], spec: Conv2dSpec, config: ConfigT) -> npt.NDArray[np.float32]:
        """OIHW weights as the kernel wants them."""

    @abstractmethod
    def kernel(
        self,
        spec: Conv2dSpec,
        config: ConfigT,
        epilogue: EpilogueFn,
        extras: list[ExtraOperand],
        name: str,
        style: StoreStyle,
    ) -> Any:
        """The PrimFunc over data, packed weights, extra operands and the output."""

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = plain_epilogue(call.group)
        if reason is not None:
            return No(reason)
        node = call.group.anchor
        x, w = node.inputs[0], node.inputs[1]
        assert x is not None
        assert w is not None
        if x.dtype is not DType.f32 or len(x.shape) != 4:
            return No("needs float32 data of rank 4")
        if known_array(w) is None:
            return No("needs constant weights")
        if not isinstance(x.shape[1], int):
            return No("needs a known number of channels")
        try:
            spec, _ = spec_of(call)
        except GraphOptError as e:
            return No(e.message)
        reason = self.supports_spec(spec, caps)
        if reason is not None:
            return No(reason)
        return _symbolic_operands_fit(call)

    def default(self, call: KernelCall, caps: Caps) -> ConfigT:
        """The configuration that the kernel's model predicts to be fastest."""
        return self.default_config(spec_of(call)[0], caps)

    def cost(self, call: KernelCall, config: ConfigT, caps: Caps) -> float:
        """Predicted seconds at a nominal clock."""
        return self.cycles(spec_of(call)[0], config, caps) / CLOCK

    def emit(self, call: KernelCall, config: ConfigT, caps: Caps, name: str) -> Emitted:
        """The kernel; weights packed for the configuration, bias and residuals as epilogue operands."""
        node = call.group.anchor
        spec, dims = spec_of(call)
        x, w = node.inputs[0], node.inputs[1]
        bias = node.input(2)
        assert x is not None
        assert w is not None
        weight = known_array(w)
        assert weight is not None
        epilogue = Epilogue(call, caps, dims, (bias, 1) if bias is not None else None)
        extras = [
            ExtraOperand(f"e{i}", shape, "float32" if v.dtype is DType.f32 else str(v.dtype.numpy))
            for i, (v, shape) in enumerate(zip(epilogue.values, epilogue.shapes))
        ]
        function = self.kernel(spec, config, epilogue.function(), extras, name, store_style(epilogue))
        packed = self.pack(np.asarray(weight, np.float32), spec, config)
        return Emitted(function, [x, packed, *epilogue.values])


class DirectConv2d(Conv2dTemplate[Conv2dConfig]):
    """Direct convolution of one group, channels blocked or plain."""

    name: ClassVar[str] = "conv2d-direct"

    def supports_spec(self, spec: Conv2dSpec, caps: Caps) -> str | None:
        """Why the kernel can't compute ``spec``, None if it can."""
        return supports(spec, caps)

    def default_config(self, spec: Conv2dSpec, caps: Caps) -> Conv2dConfig:
        """The tile that the kernel predicts to be fastest."""
        return default_config(spec, caps)

    def cycles(self, spec: Conv2dSpec, config: Conv2dConfig, caps: Caps) -> float:
        """Predicted cycles on all of the target's cores."""
        return predicted_cycles(spec, config, caps)

    def pack(self, weight: npt.NDArray[np.float32], spec: Conv2dSpec, config: Conv2dConfig) -> npt.NDArray[np.float32]:
        """Weights in panels of the tile's channels."""
        return pack_weight(weight, spec, config)

    def kernel(
        self,
        spec: Conv2dSpec,
        config: Conv2dConfig,
        epilogue: EpilogueFn,
        extras: list[ExtraOperand],
        name: str,
        style: StoreStyle,
    ) -> Any:
        """The PrimFunc over data, packed weights, extra operands and the output."""
        return emit(spec, config, epilogue, extras, name, style)

    def wanted_block(self, call: KernelCall, caps: Caps) -> int:
        """A vector of channels, or 8 where that does not divide them."""
        channels = call.group.anchor.out.shape[1]
        return channel_block(channels, caps)


LONG_EPILOGUE = 24
"""Operations in an epilogue above which one copy of it a tile is worth a trip of the accumulators through L1."""


def store_style(epilogue: Epilogue) -> StoreStyle:
    """How to write the loops around an epilogue."""
    if epilogue.conditional:
        return StoreStyle.scalar
    return StoreStyle.rolled if epilogue.weight > LONG_EPILOGUE else StoreStyle.unrolled


def channel_block(channels: Dim, caps: Caps) -> int:
    """The channel block for a number of channels: 16 or a vector if that is longer, 8 where 16 does not divide, else plain."""
    if not isinstance(channels, int):
        return 0
    for block in (16, 8):
        if channels % block == 0 and caps.lanes(4) <= 16:
            return block
    return 0


def plain_epilogue(group: Group) -> str | None:
    """Why a group's epilogue can't be evaluated on an accumulator, None if it can."""
    if len(group.outputs) != 1 or group.outputs[0].producer is not group.nodes[-1]:
        return "more than one result"
    out = group.anchor.out
    for node in group.epilogue:
        if not has_trait(node.op, ELEMENTWISE, node.domain) or len(node.outputs) != 1:
            return f"{node.op} in the epilogue"
        if node.out.shape != out.shape or node.out.dtype is not DType.f32:
            return f"{node.op} changes shape or type"
    return None


def _symbolic_operands_fit(call: KernelCall) -> Support:
    """Epilogue operands may use only the dimensions that the kernel can read off its data."""
    node = call.group.anchor
    x = node.inputs[0]
    assert x is not None
    allowed = {d for d in (*x.shape, *node.out.shape) if isinstance(d, SymExpr)}
    for n in call.group.epilogue:
        for v in n.inputs:
            if v is not None and not known(d for d in v.shape if d not in allowed):
                return No("an epilogue operand has a symbolic dimension of its own")
    return Yes()


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
    top, left, bottom, right = (int(p) for p in pads)  # type: ignore[arg-type]
    out_block = call.block(call.group.outputs[0]) or 1
    spec = Conv2dSpec(
        batch=extent(x.shape[0], "n"),
        in_channels=int(x.shape[1]),  # type: ignore[arg-type]
        in_height=extent(x.shape[2], "h"),
        in_width=extent(x.shape[3], "w"),
        out_channels=int(w.shape[0]),  # type: ignore[arg-type]
        kernel=(window.kernel[0], window.kernel[1]),
        strides=(window.strides[0], window.strides[1]),
        pads=(top, left, bottom, right),
        dilations=(window.dilations[0], window.dilations[1]),
        groups=int(context.attr("group") or 1),
        in_block=call.block(x) or 1,
        out_block=out_block,
    )
    for dim, value in ((node.out.shape[2], spec.out_height), (node.out.shape[3], spec.out_width)):
        if isinstance(dim, SymExpr):
            dims.setdefault(dim, value)
    return spec, dims
