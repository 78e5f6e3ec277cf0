"""Pooling kernels as templates."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import ConfigT, Emitted, KernelCall, KernelTemplate, No, Support
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels import global_pooling, pooling, pooling_plain
from graphopt.backends.cpu.kernels.global_pooling import GlobalPoolConfig
from graphopt.backends.cpu.kernels.plain_config import PlainWindowConfig
from graphopt.backends.cpu.kernels.sliding_config import SlidingConfig
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.pooling import GlobalPoolSpec, PoolSpec
from graphopt.backends.templates.epilogue import Epilogue
from graphopt.backends.templates.fitted_epilogue import (
    extra_operands,
    plain_epilogue,
    store_style,
    symbolic_operands_fit,
)
from graphopt.backends.templates.kernel_types import computed_in_single
from graphopt.backends.templates.pooling import pool_of, pool_types
from graphopt.backends.templates.reading import plain_prologue
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle, store_accumulator
from graphopt.backends.templates.whole_maxima import bytes_compared
from graphopt.errors import GraphOptError
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Array, Value


class _Pool(KernelTemplate[ConfigT]):
    """MaxPool (values only) and AveragePool; the loops are a subclass's."""

    anchors: ClassVar[frozenset[str]] = frozenset({"MaxPool", "AveragePool"})
    converts: ClassVar[bool] = True
    slices: ClassVar[bool] = False
    """Whether windows over three axes are taken."""

    @abstractmethod
    def kernel_supports(self, spec: Conv2dSpec, caps: Caps) -> str | None:
        """Why the kernel can't run over a window, or None if it can."""

    @abstractmethod
    def kernel_default(self, pool: PoolSpec, caps: Caps) -> ConfigT:
        """The kernel's own choice of configuration."""

    @abstractmethod
    def kernel_configurations(self, pool: PoolSpec, caps: Caps) -> Iterable[ConfigT]:
        """All that the kernel could do."""

    @abstractmethod
    def kernel_seconds(self, pool: PoolSpec, caps: Caps) -> float:
        """Predicted time on one core; infinite for symbolic sizes."""

    @abstractmethod
    def kernel_emit(
        self,
        pool: PoolSpec,
        config: ConfigT,
        epilogue: EpilogueFn,
        extras: Sequence[ExtraOperand],
        name: str,
        style: StoreStyle,
    ) -> tuple[tirx.PrimFunc, list[Array]]:
        """The function ``name(data, *constants, *extras, output)`` and its constants."""

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = plain_epilogue(call.group) or plain_prologue(call)
        if reason is not None:
            return No(reason)
        node = call.group.anchor
        x: Any = node.inputs[0]
        if not computed_in_single(x) or len(x.shape) not in (4, 4 + self.slices) or not isinstance(x.shape[1], int):
            return No("needs float32 data of rank 4 with a known number of channels")
        if len(x.shape) == 5 and call.group.prologue:
            return No("needs slices that aren't converted while they are read")
        if node.output(1) is not None:
            return No("positions of maxima are wanted")
        try:
            pool, _ = pool_of(call)
        except GraphOptError as e:
            return No(e.message)
        reason = self.kernel_supports(pool.window, caps)
        return symbolic_operands_fit(call) if reason is None else No(reason)

    def default(self, call: KernelCall, caps: Caps) -> ConfigT:
        """The kernel's own choice of configuration."""
        return self.kernel_default(pool_of(call)[0], caps)

    def space(self, call: KernelCall, caps: Caps) -> Iterable[ConfigT]:
        """All that the kernel could do."""
        return self.kernel_configurations(pool_of(call)[0], caps)

    def cost(self, call: KernelCall, config: ConfigT, caps: Caps) -> float:
        """Predicted time over the cores."""
        return min(self.kernel_seconds(pool_of(call)[0], caps), 1.0) / max(caps.cores, 1)

    def emit(self, call: KernelCall, config: ConfigT, caps: Caps, name: str) -> Emitted:
        """The kernel, with the epilogue's operands after the data."""
        pool, dims = pool_of(call)
        x = call.group.anchor.inputs[0]
        assert x is not None
        if bytes_compared(call, x) is not None:  # no conversion is left for an epilogue
            function, constants = self.kernel_emit(pool, config, store_accumulator, [], name, StoreStyle.unrolled)
            return Emitted(function, [x, *constants])
        epilogue = Epilogue(call, caps, dims, axis=1, integers=_scale(call), sums=pool.window.types.sum)
        function, constants = self.kernel_emit(
            pool, config, epilogue.function(), extra_operands(epilogue), name, store_style(epilogue)
        )
        return Emitted(function, [x, *constants, *epilogue.values])


class WindowPool(_Pool[SlidingConfig]):
    """Pooling on channel blocks."""

    name: ClassVar[str] = "pooling"
    slices: ClassVar[bool] = True
    config_type: ClassVar[type[Any]] = SlidingConfig

    def kernel_supports(self, spec: Conv2dSpec, caps: Caps) -> str | None:
        """Why the kernel can't run over a window, or None if it can."""
        return pooling.supports(spec, caps)

    def kernel_default(self, pool: PoolSpec, caps: Caps) -> SlidingConfig:
        """A row of pixels that fills the registers."""
        return pooling.default_config(pool, caps)

    def kernel_configurations(self, pool: PoolSpec, caps: Caps) -> Iterable[SlidingConfig]:
        """Rows of pixels that fit the registers."""
        return pooling.configurations(pool, caps)

    def kernel_seconds(self, pool: PoolSpec, caps: Caps) -> float:
        """Additions or bytes, whichever takes longer."""
        return pooling.seconds(pool.window, math.gcd(pool.window.out_block, pool.window.types.lanes(caps)))

    def kernel_emit(
        self,
        pool: PoolSpec,
        config: SlidingConfig,
        epilogue: EpilogueFn,
        extras: Sequence[ExtraOperand],
        name: str,
        style: StoreStyle,
    ) -> tuple[tirx.PrimFunc, list[Array]]:
        """The kernel's function; it has no constants."""
        return pooling.emit(pool, config, epilogue, extras, name, style), []


class PlainWindowPool(_Pool[PlainWindowConfig]):
    """Pooling on plain data."""

    name: ClassVar[str] = "pooling-plain"
    config_type: ClassVar[type[Any]] = PlainWindowConfig

    def kernel_supports(self, spec: Conv2dSpec, caps: Caps) -> str | None:
        """Why the kernel can't run over a window, or None if it can."""
        return pooling_plain.supports(spec, caps)

    def kernel_default(self, pool: PoolSpec, caps: Caps) -> PlainWindowConfig:
        """Tile and strip that fit registers and cache."""
        return pooling_plain.default_config(pool, caps)

    def kernel_configurations(self, pool: PoolSpec, caps: Caps) -> Iterable[PlainWindowConfig]:
        """Tiles and strips that fit registers and cache."""
        return pooling_plain.configurations(pool, caps)

    def kernel_seconds(self, pool: PoolSpec, caps: Caps) -> float:
        """Predicted time on one core."""
        return pooling_plain.predicted_seconds(pool.window, caps)

    def kernel_emit(
        self,
        pool: PoolSpec,
        config: PlainWindowConfig,
        epilogue: EpilogueFn,
        extras: Sequence[ExtraOperand],
        name: str,
        style: StoreStyle,
    ) -> tuple[tirx.PrimFunc, list[Array]]:
        """The kernel's function, and for a mean what sums are multiplied with."""
        function = pooling_plain.emit(pool, config, epilogue, extras, name, style)
        return function, [pooling_plain.factors(pool)] if pooling_plain.has_factors(pool) else []


class GlobalPool(KernelTemplate[GlobalPoolConfig]):
    """GlobalAveragePool and GlobalMaxPool on channel blocks."""

    name: ClassVar[str] = "global-pooling"
    config_type: ClassVar[type[Any]] = GlobalPoolConfig
    anchors: ClassVar[frozenset[str]] = frozenset({"GlobalAveragePool", "GlobalMaxPool"})
    converts: ClassVar[bool] = True

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        reason = plain_epilogue(call.group) or plain_prologue(call)
        if reason is not None:
            return No(reason)
        x: Any = call.group.anchor.inputs[0]
        if not computed_in_single(x) or len(x.shape) not in (4, 5) or not isinstance(x.shape[1], int):
            return No("needs float32 data of rank 4 or 5 with a known number of channels")
        block = call.layout(x).channel_block
        if not block or block % 4 or call.layout(call.group.outputs[0]) != call.layout(x):
            return No("needs data and result in channel blocks of the same multiple of 4")
        if any(isinstance(d, int) and d < 1 for d in x.shape):
            return No("an empty dimension")
        return symbolic_operands_fit(call)

    def default(self, call: KernelCall, caps: Caps) -> GlobalPoolConfig:
        """Whole vectors; threads where they pay."""
        return global_pooling.default_config(global_pool_of(call)[0], caps)

    def space(self, call: KernelCall, caps: Caps) -> Iterable[GlobalPoolConfig]:
        """With threads or without."""
        return [replace(self.default(call, caps), parallel=parallel) for parallel in caps.thread_choices]

    def cost(self, call: KernelCall, config: GlobalPoolConfig, caps: Caps) -> float:
        """Bytes over the rate at which one core reads."""
        return min(global_pooling.seconds(global_pool_of(call)[0]), 1.0)

    def emit(self, call: KernelCall, config: GlobalPoolConfig, caps: Caps, name: str) -> Emitted:
        """The kernel, with the epilogue's operands after the data."""
        spec, dims = global_pool_of(call)
        epilogue = Epilogue(call, caps, dims, axis=1, integers=_scale(call), sums=spec.types.sum)
        function = global_pooling.emit(
            spec, config, epilogue.function(), extra_operands(epilogue), name, store_style(epilogue)
        )
        x = call.group.anchor.inputs[0]
        assert x is not None
        return Emitted(function, [x, *epilogue.values])


def _scale(call: KernelCall) -> Value | None:
    """What a kernel's results are multiplied with."""
    return pool_types(call)[1]


def global_pool_of(call: KernelCall) -> tuple[GlobalPoolSpec, dict[Dim, Any]]:
    """The kernel's specification and its variables for the symbolic dimensions."""
    node = call.group.anchor
    x: Any = node.inputs[0]
    dims: dict[Dim, Any] = {}
    batch, *depth, height, width = (
        d if isinstance(d, int) else dims.setdefault(d, tirx.Var(name, "int64"))
        for d, name in zip((x.shape[0], *x.shape[2:]), "nhw" if len(x.shape) == 4 else "ndhw")
    )
    average = node.op == "GlobalAveragePool"
    types, _ = pool_types(call)
    block = call.layout(x).channel_block
    return GlobalPoolSpec(batch, x.shape[1], height, width, block, average, types, *depth), dims
