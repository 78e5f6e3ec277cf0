"""How to quantize, once it is known to be possible."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.errors import UserError
from graphopt.passes.quant.parameters import IntegerForm, form_of
from graphopt.passes.quant.ranges import PERCENTILE, Method, method_of


@dataclass(frozen=True)
class Settings:
    """What holds for a whole model.

    Attributes:
        method: that ranges are chosen by.
        percentile: of numbers in a range, where the method asks for it.
        activations, weights: how they are stored.
        per_channel: whether a weight has a scale for each output channel.
    """

    method: Method
    percentile: float
    activations: IntegerForm
    weights: IntegerForm
    per_channel: bool

    @property
    def wide(self) -> IntegerForm:
        """The form of 16 bits that activations may have instead."""
        return form_of("s16" if self.activations.dtype.is_signed else "u16", self.activations.symmetric)


def settings_of(
    method: str, percentile: float, per_channel: bool, activations: str, symmetric: bool | None, weights: str
) -> Settings:
    """Settings from what a user wrote.

    Raises:
        UserError: unknown method or form, or an impossible percentile.
    """
    if weights != "s8":
        raise UserError(f"weights can't be stored as {weights!r}", code="bad-option", hint="weights are s8")
    require_percentile(percentile)
    return Settings(method_of(method), percentile, form_of(activations, symmetric), form_of(weights, True), per_channel)


def require_percentile(percentile: float) -> None:
    """Refuse what no range can hold.

    Raises:
        UserError: with a hint.
    """
    if not 50 < percentile <= 100:
        raise UserError(
            f"a range can't hold {percentile} percent of the numbers", code="bad-option", hint=f"try {PERCENTILE}"
        )
