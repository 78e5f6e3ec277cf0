"""How to quantize, once it is known to be possible."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.errors import UserError
from graphopt.passes.quant.parameters import IntegerForm, form_of
from graphopt.passes.quant.ranges import PERCENTILE, Method, method_of
from graphopt.passes.quant.runtimes import ANY, Runtime, runtime_of


@dataclass(frozen=True)
class Settings:
    """What holds for a whole model.

    Attributes:
        method: that ranges are chosen by.
        percentile: of numbers in a range, where the method asks for it.
        activations, weights: how they are stored.
        per_channel: whether a weight has a scale for each output channel.
        runtime: whose rules are followed.
    """

    method: Method
    percentile: float
    activations: IntegerForm
    weights: IntegerForm
    per_channel: bool
    runtime: Runtime = ANY

    @property
    def wide(self) -> IntegerForm:
        """The form of 16 bits that activations may have instead."""
        return form_of("s16" if self.activations.dtype.is_signed else "u16", self.activations.symmetric)


def settings_of(
    method: str, percentile: float, per_channel: bool, activations: str | None, symmetric: bool | None, weights: str,
    runtime: str | None,
) -> Settings:  # fmt: skip
    """Settings from what a user wrote.

    Raises:
        UserError: unknown method, form or runtime, an impossible percentile, or a form that the runtime doesn't take.
    """
    if weights != "s8":
        raise UserError(f"weights can't be stored as {weights!r}", code="bad-option", hint="weights are s8")
    require_percentile(percentile)
    rules = runtime_of(runtime)
    form = form_of(activations or rules.activations or "u8", symmetric)
    require_form(rules, form)
    return Settings(method_of(method), percentile, form, form_of(weights, True), per_channel, rules)


def require_form(runtime: Runtime, form: IntegerForm) -> None:
    """Refuse a form of data that a runtime doesn't take.

    Raises:
        UserError: with the form that it takes.
    """
    wanted = form_of(runtime.activations, runtime.symmetric) if runtime.activations else form
    if form != wanted:
        raise UserError(
            f"{runtime.name} takes data as {wanted}, not as {form}",
            code="bad-option",
            hint=f"leave it out of --for {runtime.name}",
        )


def require_percentile(percentile: float) -> None:
    """Refuse what no range can hold.

    Raises:
        UserError: with a hint.
    """
    if not 50 < percentile <= 100:
        raise UserError(
            f"a range can't hold {percentile} percent of the numbers", code="bad-option", hint=f"try {PERCENTILE}"
        )
