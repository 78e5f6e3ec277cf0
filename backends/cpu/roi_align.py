"""RoiAlign as a template."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import element_type
from graphopt.backends.base.template import Emitted, KernelCall, KernelTemplate, No, Support, Yes
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.cost.constants import CLOCK
from graphopt.backends.cpu.kernels.register_tile import ON_STACK
from graphopt.backends.cpu.kernels.roi_align import RoiAlignConfig, configurations, default_config, emit, supports
from graphopt.backends.specs.roi_align import RoiAlignSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.tensors.checks import refuse_if
from graphopt.backends.tensors.index import i64
from graphopt.ir.dims import Dim
from graphopt.ir.dtypes import DType
from graphopt.ops.context import attr

_TYPICAL = 256
"""Regions assumed where their number is symbolic."""
_TAPS = 12
"""Pixels of a bin, typically."""


class VectorRoiAlign(KernelTemplate[RoiAlignConfig]):
    """RoiAlign of a known number of channels, on plain data or on channel blocks; sizes may be symbolic."""

    name: ClassVar[str] = "roi-align"
    config_type: ClassVar[type[Any]] = RoiAlignConfig
    anchors: ClassVar[frozenset[str]] = frozenset({"RoiAlign"})
    reads_blocks: ClassVar[bool] = True

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        node = call.group.anchor
        x, rois, images = node.inputs
        assert x is not None
        assert rois is not None
        assert images is not None
        if len(call.group.nodes) != 1:
            return No("neighbours in the same kernel")
        if (x.dtype, rois.dtype) != (DType.f32, DType.f32):
            return No("needs float32 data")
        if images.is_const:
            return No("needs numbers of images that aren't known yet")  # those are checked while it is compiled
        if not isinstance(x.shape[1], int) or any(d == 0 for d in (*x.shape, *node.out.shape)):
            return No("needs a known number of channels and no empty dimension")
        if (attr(node, "mode") or "avg") not in ("avg", "max"):
            return No(f"mode {attr(node, 'mode')}")
        if not call.layout(node.out).is_plain or not (call.layout(rois).is_plain and call.layout(images).is_plain):
            return No("needs a plain result")
        reason = supports(_spec_of(call), caps)
        return Yes() if reason is None else No(reason)

    def default(self, call: KernelCall, caps: Caps) -> RoiAlignConfig:
        """Whole vectors of channels, as many as registers take."""
        return default_config(_spec_of(call), caps)

    def space(self, call: KernelCall, caps: Caps) -> Iterable[RoiAlignConfig]:
        """More or fewer vectors at once, with threads or without."""
        return configurations(_spec_of(call), caps)

    def cost(self, call: KernelCall, config: RoiAlignConfig, caps: Caps) -> float:
        """A load and a multiply-add for every vector of every pixel of a bin."""
        spec = _spec_of(call)
        rois = spec.rois if isinstance(spec.rois, int) else _TYPICAL
        vectors = rois * spec.bins[0] * spec.bins[1] * spec.channels / config.lanes
        return vectors * _TAPS / CLOCK / max(caps.cores, 1)

    def emit(self, call: KernelCall, config: RoiAlignConfig, caps: Caps, name: str) -> Emitted:
        """The kernel over feature map, regions and numbers of images."""
        node = call.group.anchor
        spec = _spec_of(call)
        x, rois, images = node.inputs
        assert x is not None
        assert rois is not None
        assert images is not None

        def check(numbers: View) -> None:
            _refuse_unknown_images(numbers, spec, node.label, images.name)

        return Emitted(emit(spec, config, name, element_type(images.dtype), check), [x, rois, images])


def _refuse_unknown_images(numbers: View, spec: RoiAlignSpec, where: str, name: str) -> None:
    """Emits the check that every region's image exists."""
    ends = T.alloc_buffer((2,), "int64", scope="local", annotations=ON_STACK)
    T.buffer_store(ends, T.int64(0), [0])
    T.buffer_store(ends, T.int64(0), [1])
    with T.serial(0, spec.rois) as i:
        number = tirx.Cast("int64", numbers[i])
        T.buffer_store(ends, tirx.min(ends[0], number), [0])
        T.buffer_store(ends, tirx.max(ends[1], number), [1])
    low, high, last = ends[0], ends[1], i64(spec.batch) - 1
    shown = [(name, tirx.Select(low < 0, low, high)), ("least", i64(0)), ("most", last)]
    outside = tirx.Or(low < 0, high > last)
    T.add_to_parent(refuse_if(outside, where, "RoiAlign: batch index out of range", shown))


def _spec_of(call: KernelCall) -> RoiAlignSpec:
    node = call.group.anchor
    x = node.inputs[0]
    assert x is not None
    dims: dict[Dim, Any] = {}

    def extent(dim: Dim, name: str) -> Any:
        return dim if isinstance(dim, int) else dims.setdefault(dim, tirx.Var(name, "int64"))

    n, c, h, w = x.shape
    assert isinstance(c, int)
    return RoiAlignSpec(
        batch=extent(n, "n"),
        channels=c,
        height=extent(h, "h"),
        width=extent(w, "w"),
        rois=extent(node.out.shape[0], "r"),
        bins=(int(attr(node, "output_height")), int(attr(node, "output_width"))),
        samples=max(int(attr(node, "sampling_ratio") or 0), 0),
        scale=float(attr(node, "spatial_scale")),
        half_pixel=(attr(node, "coordinate_transformation_mode") or "half_pixel") == "half_pixel",
        maximum=(attr(node, "mode") or "avg") == "max",
        in_block=call.layout(x).channel_block or 1,
    )
