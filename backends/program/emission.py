"""The kernels of a program's groups, each chosen and written once for all groups that have the same signature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphopt.backends.base.callbacks import REFUSE, RESERVE
from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import element_type
from graphopt.backends.base.template import (
    Candidate,
    Computed,
    Emitted,
    KernelCall,
    KernelTemplate,
    Operand,
    Packed,
    weigh,
)
from graphopt.backends.base.tvm_api import tvm, tvm_ffi
from graphopt.backends.build.chunks import with_duration
from graphopt.backends.lower.generic import emit_generic
from graphopt.backends.program.call_signature import Key, Signature, Signatures
from graphopt.backends.program.planned import choice_of, planned
from graphopt.backends.program.platform import Platform
from graphopt.backends.program.scratch import scratch_outside
from graphopt.backends.program.work import rough_seconds
from graphopt.backends.tensors.builder import SCRATCH
from graphopt.errors import InternalError
from graphopt.ir.graph import Value
from graphopt.ir.kernel_plan import KernelChoice


@dataclass(frozen=True)
class Kernel:
    """How a group is computed.

    Attributes:
        emitted: the function, and the group's own operands.
        candidates: what the templates for the anchor had to say.
        chosen: the one that was taken; None for the generic schedule.
        choice: the same as a plan holds it.
    """

    emitted: Emitted
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    choice: KernelChoice


class Emission:
    """Makes the kernels of one program."""

    def __init__(self, templates: Sequence[KernelTemplate[Any]], caps: Caps, platform: Platform) -> None:
        self._templates = templates
        self._caps = caps
        self._platform = platform
        self._signatures = Signatures()
        self._known: dict[Key, tuple[Signature, Kernel]] = {}

    def kernel(self, call: KernelCall) -> Kernel:
        """The kernel of a call.

        Raises:
            UnsupportedOpError: an operator has no lowering.
        """
        signature = self._signatures.of(call)
        plan = call.fused.options.plan
        asked_for = None if plan is None else planned(plan, self._templates, call, self._caps)
        key = (*signature.key, asked_for)
        known = self._known.get(key)
        if known is not None:
            first, kernel = known
            others = dict(zip(first.values, signature.values))
            inputs = [_instead(operand, others) for operand in kernel.emitted.inputs]
            return Kernel(replace(kernel.emitted, inputs=inputs), kernel.candidates, kernel.chosen, kernel.choice)
        kernel = self._made(call, asked_for)
        if _is_shareable(kernel.emitted, call, signature):
            self._known[key] = signature, kernel
        return kernel

    def _made(self, call: KernelCall, asked_for: tuple[Candidate | None] | None) -> Kernel:
        candidates = weigh(self._templates, call, self._caps)
        best = next((c for c in candidates if c.seconds is not None), None) if asked_for is None else asked_for[0]
        choice = choice_of(call, best)
        if best is not None:
            emitted = _unconverted(best.template.emit(call, best.config, self._caps, "kernel"), call)
            _require_types(emitted, call)
            return Kernel(self._timed(emitted, best.seconds, self._caps.cores), tuple(candidates), best, choice)
        emitted = emit_generic(call, self._caps, "kernel", self._platform.schedule)
        return Kernel(self._timed(emitted, rough_seconds(call.group), 1), tuple(candidates), None, choice)

    def _timed(self, emitted: Emitted, seconds: float | None, threads: int) -> Emitted:
        """The kernel with what it is predicted to take on ``threads`` threads, its scratch memory as the platform wants it."""
        if self._platform.plans_scratch:
            emitted = scratch_outside(emitted)
        if self._caps.cores < 2 or not self._platform.runs_on_pool or seconds is None:
            return emitted
        return replace(emitted, function=with_duration(emitted.function, seconds * threads))


def _unconverted(emitted: Emitted, call: KernelCall) -> Emitted:
    """The kernel of a template with what the prologue converts as its operands: that is what it reads."""
    inputs = [call.group.source(o) if isinstance(o, Value) else o for o in emitted.inputs]
    return replace(emitted, inputs=inputs)


def _require_types(emitted: Emitted, call: KernelCall) -> None:
    """Refuse a kernel of a template that takes an operand in another element type than the value is stored in.

    Raises:
        InternalError: the template's specification holds the wrong type.
    """
    for operand, parameter in zip(emitted.inputs, emitted.function.params):
        if isinstance(operand, Value):
            stored, taken = element_type(operand.dtype).storage, str(parameter.ty.dtype)
            if stored != taken:
                raise InternalError(
                    f"a kernel takes %{operand.name} as {taken}, which is stored as {stored}",
                    node=call.group.anchor.label,
                )


def _instead(operand: Operand, others: dict[Value, Value]) -> Operand:
    """The operand of another group that has the place of ``operand``."""
    if isinstance(operand, Packed):
        return Packed(others[operand.value], operand.packing)
    if isinstance(operand, Computed):
        return Computed(tuple(others[v] for v in operand.values), operand.formula)
    return others[operand] if isinstance(operand, Value) else operand


def _is_shareable(emitted: Emitted, call: KernelCall, signature: Signature) -> bool:
    """Whether the kernel depends on nothing but the signature."""
    own = [v for operand in emitted.inputs for v in _values(operand)]
    made = any(isinstance(o, np.ndarray) for o in emitted.inputs)  # of constants' elements, for all that is known
    if not signature.outlined.isdisjoint(call.read) or (made and signature.outlined):
        return False
    return set(own) <= set(signature.values) and not _mentions_names(emitted.function)


def _values(operand: Operand) -> tuple[Value, ...]:
    """The values of the model that an operand is or is made of."""
    if isinstance(operand, Value):
        return (operand,)
    if isinstance(operand, Packed):
        return (operand.value,)
    return operand.values if isinstance(operand, Computed) else ()


def _mentions_names(function: Any) -> bool:
    """Whether a kernel says what a node or value is called when it refuses what it is given."""
    texts: set[str] = set()
    tvm_ffi.structural_walk(function.body, [(tvm.ir.expr.StringImm, lambda text: texts.add(str(text.value)))])
    return REFUSE in texts or (RESERVE in texts and SCRATCH not in texts)
