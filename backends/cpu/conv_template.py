"""What templates of convolutions with constant weights have in common: reading a call, and the operands of the kernel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import ConfigT, Emitted, KernelCall, KernelTemplate, No, Support, Yes
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.common.epilogue import Epilogue
from graphopt.backends.cpu.conv2d import plain_epilogue, spec_of, store_style
from graphopt.backends.cpu.kernels.conv2d_spec import Conv2dSpec
from graphopt.backends.cpu.kernels.epilogue import EpilogueFn, ExtraOperand, StoreStyle
from graphopt.errors import GraphOptError
from graphopt.ir.dims import SymExpr, known
from graphopt.ir.dtypes import DType
from graphopt.ops.context import known_array


class ConvTemplate(KernelTemplate[ConfigT]):
    """Conv (rank 4, float32, constant weights) with an element-wise epilogue, by a kernel that takes a ``Conv2dSpec``."""

    anchors: ClassVar[frozenset[str]] = frozenset({"Conv"})

    @abstractmethod
    def kernel_supports(self, spec: Conv2dSpec, caps: Caps) -> str | None:
        """Why the kernel can't compute ``spec``, or None if it can."""

    @abstractmethod
    def kernel_default(self, spec: Conv2dSpec, caps: Caps) -> ConfigT:
        """The kernel's own choice of configuration."""

    @abstractmethod
    def kernel_seconds(self, spec: Conv2dSpec, config: ConfigT, caps: Caps) -> float:
        """Predicted time on one core; infinite for symbolic sizes."""

    @abstractmethod
    def kernel_weight(
        self, weight: npt.NDArray[np.float32], spec: Conv2dSpec, config: ConfigT
    ) -> npt.NDArray[np.float32]:
        """Packed weights."""

    @abstractmethod
    def kernel_emit(
        self,
        spec: Conv2dSpec,
        config: ConfigT,
        epilogue: EpilogueFn,
        extras: Sequence[ExtraOperand],
        name: str,
        style: StoreStyle,
    ) -> tirx.PrimFunc:
        """The function ``name(data, weight, *extras, output)``."""

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
        reason = self.kernel_supports(spec, caps)
        return symbolic_operands_fit(call) if reason is None else No(reason)

    def default(self, call: KernelCall, caps: Caps) -> ConfigT:
        """The configuration that the kernel predicts to be fastest."""
        return self.kernel_default(spec_of(call)[0], caps)

    def cost(self, call: KernelCall, config: ConfigT, caps: Caps) -> float:
        """The kernel's predicted time over the cores."""
        return min(self.kernel_seconds(spec_of(call)[0], config, caps), 1.0) / max(caps.cores, 1)

    def emit(self, call: KernelCall, config: ConfigT, caps: Caps, name: str) -> Emitted:
        """The kernel; weights packed, bias and residuals as epilogue operands."""
        node = call.group.anchor
        spec, dims = spec_of(call)
        x, w = node.inputs[0], node.inputs[1]
        bias = node.input(2)
        assert x is not None
        assert w is not None
        weight = known_array(w)
        assert weight is not None
        epilogue = Epilogue(call, caps, dims, (bias, 1) if bias is not None else None)
        function = self.kernel_emit(
            spec, config, epilogue.function(), extra_operands(epilogue), name, store_style(epilogue)
        )
        packed = self.kernel_weight(np.asarray(weight, np.float32), spec, config)
        return Emitted(function, [x, packed, *epilogue.values])


def extra_operands(epilogue: Epilogue) -> list[ExtraOperand]:
    """Parameters of a kernel that its epilogue reads."""
    return [
        ExtraOperand(f"e{i}", shape, "float32" if v.dtype is DType.f32 else str(v.dtype.numpy))
        for i, (v, shape) in enumerate(zip(epilogue.values, epilogue.shapes))
    ]


def symbolic_operands_fit(call: KernelCall) -> Support:
    """Epilogue operands may use only the dimensions that the kernel can read off its data."""
    node = call.group.anchor
    x: Any = node.inputs[0]
    allowed = {d for d in (*x.shape, *node.out.shape) if isinstance(d, SymExpr)}
    for n in call.group.epilogue:
        for v in n.inputs:
            if v is not None and not known(d for d in v.shape if d not in allowed):
                return No("an epilogue operand has a symbolic dimension of its own")
    return Yes()
