"""What a user's plan says of nodes: whether there are such nodes, and what comes of the rules where it says otherwise."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.errors import UserError, did_you_mean
from graphopt.ir.graph import Graph, Node
from graphopt.passes.precision.forced import forced_form
from graphopt.passes.precision.narrow_form import NarrowForm, touches_float32
from graphopt.passes.precision.narrow_format import NarrowFormat
from graphopt.passes.precision.neighbours import cast_from, casts_to
from graphopt.passes.precision.plan import Kept

_PLANNED = Kept("plan", "the plan has it in float32")
_SHOWN = 8


def reads_or_makes_float32(node: Node, form: NarrowFormat) -> bool:
    """Whether there is anything to decide on. A Cast between float32 and the format is what a conversion puts there itself."""
    return touches_float32(node) and cast_from(node, form.dtype) is None and not casts_to(node, form.dtype)


def require_planned(graph: Graph, form: NarrowFormat, planned: Mapping[str, str]) -> None:
    """Refuse a plan of nodes that there are not, or that there is nothing to decide on.

    Raises:
        UserError: with the nearest name that there is.
    """
    if not planned:
        return
    nodes = {node.name: node for node in graph.walk()}
    known = [name for name, node in nodes.items() if reads_or_makes_float32(node, form)]
    decidable = set(known)
    for name in planned:
        if name in decidable:
            continue
        shown = ", ".join(known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
        if name in nodes:
            raise UserError(
                f"the plan has an entry for {name!r}, which neither reads nor makes float32, or only casts to or from {form}",
                code="plan-does-not-fit", node=nodes[name].label, hint="leave the line out",
            )  # fmt: skip
        raise UserError(
            f"the plan has an entry for {name!r}, and there is no such node after optimisation", code="plan-does-not-fit",
            hint=did_you_mean(name, known) or f"leave the line out; there are {shown}",
        )  # fmt: skip


def as_planned(
    node: Node, form: NarrowFormat, max_opset: int | None, by_rule: NarrowForm | Kept, entry: str
) -> NarrowForm | Kept:
    """What is done to a node that a plan has an entry for. Where a rule agrees with the plan, its reason stays.

    Raises:
        UserError: the plan has it in 16 bits, and ONNX has no such form of it.
    """
    if entry != str(form):
        return by_rule if isinstance(by_rule, Kept) else _PLANNED
    if not isinstance(by_rule, Kept):
        return by_rule
    found = forced_form(node, form, max_opset)
    if isinstance(found, str):
        raise UserError(
            f"the plan has {form} for a node that can't be in it: {found}", code="plan-does-not-fit", node=node.label,
            hint='write "float32" there, or leave the line out to let rules decide',
        )  # fmt: skip
    return found
