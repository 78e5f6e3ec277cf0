"""What a plan says of kernels: whether it fits a call, and the candidate that it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.config_codec import from_json, to_json
from graphopt.backends.base.template import Candidate, KernelCall, KernelTemplate, No, asked
from graphopt.errors import UserError, did_you_mean
from graphopt.ir.graph import Value
from graphopt.ir.kernel_plan import GENERIC, KernelChoice, KernelPlan
from graphopt.ir.printer import format_attr

if TYPE_CHECKING:
    from graphopt.backends.program.program import Program


def signature_text(call: KernelCall) -> str:
    """What a kernel computes: operators with attributes, types and layouts of operands and results. Names are not in it."""
    group = call.group
    numbers: dict[Value, str] = {v: f"${i}" for i, v in enumerate(group.inputs)}
    steps = []
    for node in group.nodes:
        attrs = ", ".join(f"{k}={format_attr(v)}" for k, v in sorted(node.attrs.items()))
        operands = ", ".join("_" if v is None else numbers[v] for v in node.inputs)
        for v in node.outputs:
            if v is not None:
                numbers[v] = f"${len(numbers)}"
        steps.append(f"{node.qualified_op}({operands})" + (f" {{{attrs}}}" if attrs else ""))
    ins, outs = (", ".join(_typed(call, v) for v in values) for values in (group.inputs, group.outputs))
    return f"({ins}) -> ({outs}): {'; '.join(steps)}"


def _typed(call: KernelCall, value: Value) -> str:
    layout = call.layout(value)
    return str(value.type) if layout.is_plain else f"{value.type} {layout.name(len(value.shape))}"


def choice_of(call: KernelCall, chosen: Candidate | None) -> KernelChoice:
    """What was chosen, as a plan holds it."""
    if chosen is None:
        return KernelChoice(signature_text(call), GENERIC)
    return KernelChoice(signature_text(call), chosen.template.name, to_json(chosen.config))


def plan_of(program: Program) -> KernelPlan:
    """How the kernels of a program are computed."""
    from importlib.metadata import version

    target = program.target
    return KernelPlan(program.choices(), version("graphopt"), target.name, target.caps.cores, program.model)


def planned(
    plan: KernelPlan, templates: Sequence[KernelTemplate[Any]], call: KernelCall, caps: Caps
) -> tuple[Candidate | None] | None:
    """The candidate that a plan asks for, in a tuple (None in it is the generic schedule); None if it says nothing.

    Raises:
        UserError: the plan asks for what the call is not, or for what can't compute it.
    """
    node = call.group.anchor
    choice = plan.kernels.get(node.name)
    if choice is None:
        return None
    if choice.signature != (found := signature_text(call)):
        if plan.fitting_only:
            return None
        raise _refused(
            "the plan was written for another kernel under this name", node.label,
            "leave the entry out, or write a new plan with the same model, shapes and options",
            [f"plan:  {choice.signature}", f"model: {found}"],
        )  # fmt: skip
    plan.used.add(node.name)
    if choice.template == GENERIC:
        return (None,)
    competing = {t.name: t for t in templates if t.is_for(call)}
    template = competing.get(choice.template)
    if template is None:
        names = [*competing, GENERIC]
        raise _refused(
            f"no template {choice.template!r} computes {node.qualified_op} on this target", node.label,
            did_you_mean(choice.template, names) or f"there are {', '.join(names)}",
        )  # fmt: skip
    answer = asked(template, call, caps)
    if isinstance(answer, No):
        raise _refused(
            f"{template.name} can't compute it: {answer.reason}", node.label,
            f"choose another template or {GENERIC}, or leave the entry out",
        )  # fmt: skip
    config = _config(template, choice, call, caps)
    return (Candidate(template, config, template.cost(call, config, caps)),)


def _config(template: KernelTemplate[Any], choice: KernelChoice, call: KernelCall, caps: Caps) -> Any:
    default = template.default(call, caps)
    if choice.config is None:
        return default
    label = call.group.anchor.label
    try:
        config = from_json(template.config_type, choice.config, template.name)
    except UserError as e:
        raise UserError(e.message, code=e.code, hint=e.hint, node=label) from e
    if config == default:
        return config
    space = list(template.space(call, caps))
    if config in space:
        return config
    nearest = min(space, key=lambda c: _distance(to_json(c), to_json(config)))
    raise _refused(
        f"{template.name} has no configuration {config} for it", label,
        f"the nearest of {len(space)} is {nearest}; leave config out for the default",
    )  # fmt: skip


def _distance(a: dict[str, Any], b: dict[str, Any]) -> tuple[int, float]:
    """How many fields differ, and by how much."""
    differ = [(a[k], b[k]) for k in a if a[k] != b[k]]
    return len(differ), sum(
        abs(x - y) for x, y in differ if isinstance(x, (int, float)) and isinstance(y, (int, float))
    )


def _refused(message: str, node: str, hint: str, notes: Sequence[str] = ()) -> UserError:
    return UserError(message, code="plan-does-not-fit", node=node, hint=hint, notes=notes)
