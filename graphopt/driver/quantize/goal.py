"""What quantized models have to be as good as: a user's metric, or the signal-to-noise ratio of the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphopt.driver.calibration import Feed
from graphopt.driver.named_object import is_name, named_object
from graphopt.driver.precision.noise import Noise
from graphopt.errors import GraphOptError, UserError
from graphopt.ir.graph import Array

Outputs: TypeAlias = Sequence[Mapping[str, Array]]
"""Of a model, one mapping a feed."""
Metric: TypeAlias = Callable[[Outputs, Sequence[Feed]], float]
"""How good outputs are for the feeds that they come from; higher is better."""


def named_metric(text: str) -> Metric:
    """The metric that a user named on the command line as ``module:function``.

    Raises:
        UserError: there is no such function.
    """
    hint = "name a function of outputs and feeds as module:function"
    if not is_name(text):
        raise UserError(f"the metric {text!r} is no module:function", code="no-metric", hint=hint)
    found = named_object(text, "metric", "no-metric", hint)
    if not callable(found):
        raise UserError(f"the metric {text} is a {type(found).__name__}", code="no-metric", hint=hint)

    def metric(outputs: Outputs, feeds: Sequence[Feed]) -> Any:
        return found(outputs, feeds)

    metric.__name__ = text
    return metric


@dataclass(frozen=True)
class Asked:
    """What a user asks of the results.

    Attributes:
        metric: None for none.
        max_drop: how much less than float's it may be.
        min_sqnr: of every output, in dB.
    """

    metric: Metric | None = None
    max_drop: float | None = None
    min_sqnr: float | None = None

    def __post_init__(self) -> None:
        """Refuse what can't be asked.

        Raises:
            UserError: with a hint.
        """
        if self.max_drop is not None and self.metric is None:
            raise UserError(
                "a largest drop is one of a metric, and none is given: float's own SQNR is infinite", code="bad-option",
                hint="give a metric (--metric module:function, metric=), or ask for an SQNR (--min-sqnr DB, min_sqnr=)",
            )  # fmt: skip
        if self.max_drop is not None and not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise UserError(
                f"a metric can't drop by at most {self.max_drop}",
                code="bad-option",
                hint="give 0 or more, such as 0.01",
            )
        if self.min_sqnr is not None and not math.isfinite(self.min_sqnr):
            raise UserError(
                f"an SQNR of {self.min_sqnr} dB can't be asked for", code="bad-option",
                hint="give a number of decibels, such as 30",
            )  # fmt: skip

    @property
    def limits(self) -> bool:
        """Whether results may miss it."""
        return self.max_drop is not None or self.min_sqnr is not None

    @property
    def name(self) -> str:
        """Of the metric."""
        return getattr(self.metric, "__name__", type(self.metric).__name__) if self.metric is not None else ""

    def score(self, outputs: Outputs, feeds: Sequence[Feed]) -> float | None:
        """What the metric says, None without one.

        Raises:
            UserError: it fails, or says no number.
        """
        if self.metric is None:
            return None
        try:
            found = float(self.metric(outputs, feeds))
        except GraphOptError:
            raise
        except Exception as error:  # of any class: it is the user's code that runs
            raise UserError(
                f"the metric {self.name} failed with {type(error).__name__}: {error}", code="bad-metric",
                hint="it is called with the outputs and the feeds, a sequence of arrays by name each, and returns a number",
            ) from error  # fmt: skip
        if math.isnan(found):
            raise UserError(f"the metric {self.name} is NaN", code="bad-metric", hint="let it return a number")
        return found


class Goal:
    """What is asked, beside what float gives.

    Attributes:
        asked: by the user.
        want: outputs in float.
        feeds: that they come from.
        float_score: what the metric says of float, None without one.
    """

    def __init__(self, asked: Asked, want: Outputs, feeds: Sequence[Feed]) -> None:
        self.asked, self.want, self.feeds = asked, want, feeds
        self.float_score = asked.score(want, feeds)

    def holds(self, got: Outputs) -> bool:
        """Whether outputs are as good as asked."""
        asked = self.asked
        if asked.min_sqnr is not None and least_sqnr(self.want, got) < asked.min_sqnr:
            return False
        if asked.max_drop is None:
            return True
        score = asked.score(got, self.feeds)
        assert score is not None
        assert self.float_score is not None
        return score >= self.float_score - asked.max_drop

    def words(self) -> str:
        """What is asked."""
        asked, parts = self.asked, []
        if asked.max_drop is not None:
            parts.append(f"{asked.name} at most {asked.max_drop:g} below float's {self.float_score:.6g}")
        if asked.min_sqnr is not None:
            parts.append(f"every output at {asked.min_sqnr:g} dB at least")
        return " and ".join(parts)

    def result(self, got: Outputs) -> str:
        """How good outputs are, in the same terms."""
        score = self.asked.score(got, self.feeds)
        return f"{least_sqnr(self.want, got):.1f} dB" + ("" if score is None else f", {self.asked.name} {score:.6g}")


def noise_of(want: Outputs, got: Outputs) -> dict[str, Noise]:
    """By name, how float outputs differ."""
    found: dict[str, Noise] = {}
    for exact, other in zip(want, got, strict=True):
        for name, array in exact.items():
            if array.dtype.kind == "f":
                found.setdefault(name, Noise()).add(array, other[name])
    return found


def least_sqnr(want: Outputs, got: Outputs) -> float:
    """The signal-to-noise ratio in dB of the output that has the least."""
    return min((noise.sqnr_db for noise in noise_of(want, got).values()), default=math.inf)
