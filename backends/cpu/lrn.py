"""Local response normalisation as a template."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import Emitted, KernelCall, KernelTemplate, No, Support, Yes
from graphopt.backends.cpu.cost.constants import CLOCK
from graphopt.backends.cpu.kernels.lrn import OPERATIONS, LrnConfig, default_config, emit
from graphopt.backends.specs.normalization import LrnSpec
from graphopt.backends.templates.kernel_types import computed_in_single, types_of
from graphopt.backends.templates.reading import plain_prologue
from graphopt.ops.context import attr


class BlockedLrn(KernelTemplate[LrnConfig]):
    """LRN on channel blocks of known sizes."""

    name: ClassVar[str] = "lrn-blocked"
    config_type: ClassVar[type[Any]] = LrnConfig
    anchors: ClassVar[frozenset[str]] = frozenset({"LRN"})
    converts: ClassVar[bool] = True

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        node = call.group.anchor
        x: Any = node.inputs[0]
        if call.group.epilogue:
            return No("an epilogue")
        reason = plain_prologue(call)
        if reason is not None:
            return No(reason)
        if not computed_in_single(x) or len(x.shape) != 4 or not all(isinstance(d, int) and d > 0 for d in x.shape):
            return No("needs float32 data of rank 4 and known sizes")
        block = call.layout(x).channel_block
        if block < 4 or call.layout(node.out) != call.layout(x):
            return No("needs data and result in the same channel blocks")
        spec = spec_of(call)
        return Yes() if max(spec.before, spec.after) <= block else No("a window that is wider than two blocks")

    def default(self, call: KernelCall, caps: Caps) -> LrnConfig:
        """Threads where they pay."""
        return default_config(spec_of(call), caps)

    def space(self, call: KernelCall, caps: Caps) -> Iterable[LrnConfig]:
        """With threads or without."""
        return map(LrnConfig, caps.thread_choices)

    def cost(self, call: KernelCall, config: LrnConfig, caps: Caps) -> float:
        """Operations over the rate of a core's vector units."""
        n, c, h, w = spec_of(call).shape
        return n * c * h * w * OPERATIONS / (spec_of(call).types.lanes(caps) * CLOCK * max(caps.cores, 1))

    def emit(self, call: KernelCall, config: LrnConfig, caps: Caps, name: str) -> Emitted:
        """The kernel."""
        x = call.group.anchor.inputs[0]
        assert x is not None
        return Emitted(emit(spec_of(call), config.parallel, name), [x])


def spec_of(call: KernelCall) -> LrnSpec:
    """The kernel's specification."""
    node = call.group.anchor
    x: Any = node.inputs[0]
    number = {a: float(attr(node, a)) for a in ("alpha", "beta", "bias")}
    return LrnSpec(
        tuple(x.shape), call.layout(x).channel_block, int(attr(node, "size")), **number, types=types_of(call, x)
    )
