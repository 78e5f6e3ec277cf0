"""Plans of precisions held against what is asked for beside them and against the model, and carried out as they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from graphopt.driver.optimizing import EXPORT_MAX_OPSET, optimize
from graphopt.driver.plans import does_not_fit, graph_digest
from graphopt.driver.precision.conversion import Conversion
from graphopt.errors import UserError, did_you_mean
from graphopt.ir.export_opset import EXPORT_OPSET_FLOOR
from graphopt.ir.graph import Graph
from graphopt.ir.levels import DEFAULT_LEVEL
from graphopt.ir.precision_choices import PrecisionChoices, is_plan_file
from graphopt.passes.precision.narrow_format import NarrowFormat, format_of
from graphopt.passes.precision.plan import Io
from graphopt.passes.precision.small_weights import enlarge_small_weights
from graphopt.rewrite.passes import PassContext

if TYPE_CHECKING:
    from graphopt.rewrite.remarks import Remarks

_IO = ("keep", "cast")


@dataclass(frozen=True)
class Settings:
    """How to convert, once a plan and what a user asked for beside it agree.

    Attributes:
        form: the 16-bit format.
        io: whether inputs and outputs keep float32.
        level: of the optimisation before.
        choices: the plan, which says nothing of nodes where there is none.
    """

    form: NarrowFormat
    io: Io
    level: int
    choices: PrecisionChoices


def settings_of(
    choices: PrecisionChoices | None, precision: str | None = None, io: str | None = None, level: int | None = None
) -> Settings:
    """How to convert: as the plan says, and as asked for where it says nothing.

    Args:
        choices: the plan.
        precision, io, level: what a user asked for, None for nothing.

    Raises:
        UserError: there is no such precision or ``io``, none was given, or the plan says otherwise.
    """
    if precision is not None and is_plan_file(precision):
        raise UserError(
            f"{precision} is no precision", code="unknown-precision",
            hint=f"a plan is given with --plan {precision} (plan= in Python)",
        )  # fmt: skip
    if precision is not None:
        format_of(precision)
    if io is not None and io not in _IO:
        raise UserError(f"io is {io!r}", code="bad-option", hint=did_you_mean(str(io), _IO) or "keep or cast")
    choices = choices or PrecisionChoices({})
    if precision and choices.precision and precision != choices.precision:
        raise UserError(
            f"the plan is one of {choices.precision}, not of {precision}", code="plan-does-not-fit",
            hint=f"leave --precision out, or write a plan of {precision}",
        )  # fmt: skip
    if io and choices.io and io != choices.io:
        raise does_not_fit("io", f"the plan was written with --io {choices.io}, not with --io {io}")
    chosen = precision or choices.precision
    if not chosen:
        raise UserError(
            "it isn't said what to convert to", code="bad-option",
            hint="give --precision fp16 or --precision bf16, or a plan that says it (--plan FILE)",
        )  # fmt: skip
    if level is not None and choices.level is not None and level != choices.level:
        raise does_not_fit("level", f"the plan was written at -O{choices.level}, and nodes are others at -O{level}")
    at = next(n for n in (level, choices.level, DEFAULT_LEVEL) if n is not None)
    choices = replace(choices, precision=chosen).checked()
    return Settings(format_of(chosen), cast("Io", io or choices.io or "keep"), at, choices)


def require_model(choices: PrecisionChoices, model: str) -> None:
    """Refuse a plan that was written for another model.

    Args:
        model: digest of the imported graph.

    Raises:
        UserError: with a hint.
    """
    if choices.model and choices.model != model and not choices.fitting_only:
        raise does_not_fit(
            "model", "the plan was written for another model, or for other shapes or values of its inputs"
        )


def conversion_of(
    original: Graph, settings: Settings, keep: Sequence[str] = (), *, skip: Sequence[str] = (), verify_each: bool = False,
    remarks: Remarks | None = None,
) -> Conversion:  # fmt: skip
    """The conversion of a graph, once it is optimised.

    Args:
        original: as imported.
        keep: what stays in float32 beside what the plan says.
        skip, verify_each, remarks: as for ``optimize``.
    """
    graph = optimize(original, settings.level, skip=skip, verify_each=verify_each, remarks=remarks)
    enlarge_small_weights(graph, settings.form, PassContext().editor(graph))
    planned = settings.choices.nodes
    if settings.choices.fitting_only:
        names = {node.name for node in graph.walk()}
        planned = {name: entry for name, entry in planned.items() if name in names}
    max_opset = max(graph.opset, EXPORT_MAX_OPSET, EXPORT_OPSET_FLOOR)
    return Conversion(graph, settings.form, settings.io, tuple(keep), max_opset, planned)


def cast_as_planned(
    original: Graph, choices: PrecisionChoices, level: int, *, skip: Sequence[str] = (), verify_each: bool = False,
    remarks: Remarks | None = None,
) -> Graph:  # fmt: skip
    """The graph that ``graphopt.convert`` makes by a plan.

    Args:
        original: as imported; it is not touched.
        choices: the plan.
        level: of the optimisation before, where the plan doesn't say it.
        skip, verify_each, remarks: as for ``optimize``.

    Raises:
        UserError: the plan doesn't fit, with the node and why.
    """
    require_model(choices, graph_digest(original))
    settings = settings_of(choices, level=level if choices.level is None else None)
    conversion = conversion_of(original, settings, skip=skip, verify_each=verify_each, remarks=remarks)
    return conversion.carry_out({}, remarks).graph
