"""What the passes that choose layouts ask of a target: which layouts its templates want, and what they save."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import SINGLE_TYPES
from graphopt.backends.base.template import KernelCall, Yes, asked, weigh
from graphopt.backends.program.call_signature import Key, Signatures
from graphopt.backends.program.platform import Platform
from graphopt.backends.templates.convolution import channel_layout
from graphopt.ir.dtypes import DType
from graphopt.ir.fused import FusedGraph, Group
from graphopt.ir.graph import Value
from graphopt.ir.layout import PLAIN, Layout
from graphopt.passes.layout.assign import LayoutPolicy
from graphopt.passes.layout.borders import LayoutCosts

BLOCKED_TYPES = SINGLE_TYPES | {DType.i8, DType.u8}
"""Element types for which there are kernels on channel blocks, or which they convert."""


def layout_policy(platform: Platform, caps: Caps) -> LayoutPolicy:
    """Layouts that the target's templates ask for."""
    templates = platform.templates()

    def wanted(fused: FusedGraph, group: Group) -> Layout:
        call = KernelCall(fused, group)
        for template in templates:
            if template.is_for(call):
                layout = template.wanted_layout(call, caps)
                if not layout.is_plain and isinstance(asked(template, _stored(call, layout), caps), Yes):
                    return layout
        return PLAIN

    def reads(fused: FusedGraph, group: Group) -> bool:
        call = KernelCall(fused, group)
        reading = (t for t in templates if t.reads_blocks and t.is_for(call))
        return any(isinstance(asked(t, call, caps), Yes) for t in reading)

    def is_generic(fused: FusedGraph, group: Group) -> bool:
        plain = KernelCall(fused.trial(dict.fromkeys(group.inputs, PLAIN)), group)
        return not any(t.is_for(plain) and isinstance(asked(t, plain, caps), Yes) for t in templates)

    return LayoutPolicy(wanted, BLOCKED_TYPES, reads, is_generic)


def template_takes(platform: Platform, caps: Caps) -> Callable[[FusedGraph, Group], bool]:
    """Whether a template of the target takes a group, such as one that converts operands while it reads them.

    Layouts aren't assigned yet: a result may come in blocks of channels as well, and data too if a kernel gives it.
    """
    templates = platform.templates()

    def takes(fused: FusedGraph, group: Group) -> bool:
        if not templates:
            return False
        call = KernelCall(fused, group)
        competing = [t for t in templates if t.is_for(call)]
        if any(isinstance(asked(t, call, caps), Yes) for t in competing):
            return True
        result, data = group.outputs[0], group.anchor.inputs[0]
        layout = channel_layout(result.shape[1], caps) if len(result.shape) == 4 else PLAIN
        if layout.is_plain or data is None or group.source(data).producer is None:
            return False
        stored = _stored(call, layout)
        in_blocks = KernelCall(stored.fused.trial({group.source(data): layout}), group)
        return any(isinstance(asked(t, form, caps), Yes) for t in competing for form in (stored, in_blocks))

    return takes


def layout_costs(platform: Platform, caps: Caps) -> LayoutCosts | None:
    """What layouts cost by the models of the target's templates; None where it has none."""
    templates = platform.templates()
    if not templates:
        return None

    signatures = Signatures()
    known: dict[Key, float | None] = {}

    def kernel(fused: FusedGraph, group: Group) -> float | None:
        call = KernelCall(fused, group)
        key = signatures.of(call).key
        if key not in known:
            candidates = weigh(templates, call, caps)
            known[key] = candidates[0].seconds if candidates else None
        return known[key]

    def read(value: Value) -> Layout:
        return channel_layout(value.shape[1], caps) if value.dtype in BLOCKED_TYPES else PLAIN

    return LayoutCosts(kernel, lambda v: platform.costs.copy_seconds(v, caps), read)


def _stored(call: KernelCall, layout: Layout) -> KernelCall:
    """The call as it would be with its results in a layout."""
    return KernelCall(call.fused.trial(dict.fromkeys(call.group.outputs, layout)), call.group)
