"""Budgets: how small or fast a model has to become, as text, and the plan that just gets there."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from graphopt.errors import UserError, did_you_mean
from graphopt.passes.prune.choice.ranking import Ranking, select
from graphopt.passes.prune.choice.size import SizeModel
from graphopt.passes.prune.groups import ChannelGroup, PruneGroups
from graphopt.passes.prune.plan import Mask, PrunePlan

Quantity = Literal["params", "flops", "bytes", "latency"]
Measure = Callable[[PrunePlan], float]

_ALIASES: Mapping[str, Quantity] = {
    "params": "params", "parameters": "params", "weights": "params", "flops": "flops", "bytes": "bytes", "size": "bytes",
    "latency": "latency", "time": "latency",
}  # fmt: skip
_WHAT: Mapping[Quantity, str] = {
    "params": "parameters", "flops": "operations", "bytes": "bytes of weights", "latency": "seconds",
}  # fmt: skip
_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_UNITS: Mapping[Quantity, Mapping[str, float]] = {
    "params": _COUNTS,
    "flops": {**_COUNTS, "kflop": 1e3, "mflop": 1e6, "gflop": 1e9, "tflop": 1e12},
    "bytes": {
        "": 1.0,
        "b": 1.0,
        "kb": 1e3,
        "mb": 1e6,
        "gb": 1e9,
        "kib": 1024.0,
        "mib": 1024.0**2,
        "gib": 1024.0**3,
    },
    "latency": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9},
}
_TEXT = re.compile(r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-z%]*)", re.IGNORECASE)
_EXAMPLES = "latency=0.6x, latency=3ms, params=50%, params=1.5M, flops=0.5x, bytes=4MB"

ALMOST_ALL = 1 - 1e-9
"""The ratio that leaves of every group as little as rounding allows."""
BISECTIONS = 24
"""Halvings of the interval of ratios: finer than the channels of any layer."""


@dataclass(frozen=True)
class Budget:
    """At most so much of a quantity.

    Attributes:
        quantity: of which.
        amount: a part of what the model has when ``relative``, else parameters, operations, bytes, or seconds.
        relative: what the amount is.
    """

    quantity: Quantity
    amount: float
    relative: bool

    def limit(self, original: float) -> float:
        """The amount, for a model that has ``original``.

        Raises:
            UserError: the model keeps to it as it is.
        """
        limit = self.amount * original if self.relative else self.amount
        if limit >= original:
            raise UserError(
                f"the budget {self} asks for nothing: the model has {amount_text(self.quantity, original)}",
                code="budget-met", hint=f"ask for less than that, such as {self.quantity}=0.5x",
            )  # fmt: skip
        return limit

    def __str__(self) -> str:
        return f"{self.quantity}={f'{self.amount:g}x' if self.relative else amount_text(self.quantity, self.amount)}"


def parse_budget(text: str) -> Budget:
    """``QUANTITY=AMOUNT``, such as ``latency=0.6x``, ``latency=3ms``, ``params=50%``, ``flops=2G``, ``bytes=4MB``.

    Raises:
        UserError: no such form, quantity or unit; zero, or not less than the whole.
    """
    name, equals, rest = text.partition("=")
    key = name.strip().lower()
    if not equals:
        raise UserError(f"{text!r} is no budget", code="bad-budget", hint=f"write QUANTITY=AMOUNT: {_EXAMPLES}")
    if key not in _ALIASES:
        raise UserError(
            f"a budget can't be given in {name.strip()!r}",
            code="bad-budget", hint=did_you_mean(key, _ALIASES) or "quantities: params, flops, bytes, latency",
        )  # fmt: skip
    quantity = _ALIASES[key]
    match = _TEXT.fullmatch(rest.strip())
    if match is None:
        raise UserError(
            f"{rest.strip()!r} is no amount of {_WHAT[quantity]}",
            code="bad-budget", hint=f"a positive number with a unit, x or %: {_EXAMPLES}",
        )  # fmt: skip
    number, unit = float(match[1]), match[2].lower()
    relative = unit in ("x", "%")
    units = _UNITS[quantity]
    if not relative and unit not in units:
        known = ", ".join(u for u in units if u)
        raise UserError(
            f"{match[2]!r} is no unit of {_WHAT[quantity]}" if unit else f"an amount of {_WHAT[quantity]} needs a unit",
            code="bad-budget", hint=f"units: {known}; or a part of what the model has: {quantity}=0.5x",
        )  # fmt: skip
    amount = number * (1.0 if unit == "x" else 0.01 if unit == "%" else units[unit])
    if not 0 < amount < float("inf"):
        raise UserError(f"a budget of {rest.strip()} is nothing", code="bad-budget", hint=f"examples: {_EXAMPLES}")
    if relative and amount >= 1:
        raise UserError(
            f"a budget of {rest.strip()} of what the model has asks for nothing",
            code="bad-budget", hint="0.5x is half of what it has now",
        )  # fmt: skip
    return Budget(quantity, amount, relative)


def amount_text(quantity: Quantity, amount: float) -> str:
    """``1.5M parameters``-style text of an amount."""
    if quantity == "latency":
        unit, name = next(((u, n) for u, n in ((1.0, "s"), (1e-3, "ms")) if amount >= u), (1e-6, "us"))
        return f"{amount / unit:.3g}{name}"
    unit, name = next(((u, n) for u, n in ((1e9, "G"), (1e6, "M"), (1e3, "K")) if amount >= u), (1.0, ""))
    text = f"{amount / unit:.4g}{name}"
    return text + ("B" if quantity == "bytes" else "")


def size_measure(groups: PruneGroups, quantity: Quantity, model: SizeModel | None = None) -> Measure:
    """What a plan leaves of parameters, operations or bytes, from shapes alone."""
    sizes = model or SizeModel(groups)
    if quantity == "params":
        return lambda plan: float(sizes.of(plan).parameters)
    if quantity == "flops":
        return lambda plan: float(sizes.of(plan).flops)
    if quantity == "bytes":
        return lambda plan: float(sizes.of(plan).bytes)
    raise ValueError(f"{quantity} isn't known from shapes")


def fit_budget(
    groups: PruneGroups,
    scores: Mapping[int, npt.NDArray[np.float64]],
    budget: Budget,
    measure: Measure,
    *,
    ranking: Ranking = "local",
    multiple: int = 1,
    ratios: Mapping[str, float] = {},
    exclude: Sequence[str] = (),
    normalise: bool = True,
) -> PrunePlan:
    """The smallest removal that keeps to a budget: bisection on the ratio, then group by group between its last two steps.

    Args:
        measure: what a plan leaves of the budget's quantity; should not grow when more goes. `size_measure` has those
            that follow from shapes.
        ranking: and what follows, as in ``ranking.select``.

    Raises:
        UserError: the model keeps to the budget as it is, or nothing that may go is enough: says what can be reached.
    """
    original = measure(PrunePlan(groups, {}))
    limit = budget.limit(original)

    def at(ratio: float) -> PrunePlan:
        return select(
            groups, scores, ratio=ratio, ranking=ranking, multiple=multiple, ratios=ratios, exclude=exclude,
            normalise=normalise,
        )  # fmt: skip

    most = at(ALMOST_ALL)
    lowest = measure(most)
    if lowest > limit:
        raise out_of_reach(budget, limit, lowest, original, multiple=multiple, ratios=ratios, exclude=exclude)
    least = at(1 - ALMOST_ALL)  # groups with ratios of their own lose theirs whatever the budget
    if measure(least) <= limit:
        return least
    low, high = 0.0, 1.0
    below, above = least, most
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        plan = at(middle)
        if measure(plan) <= limit:
            high, above = middle, plan
        else:
            low, below = middle, plan
        if _same(below, above):
            break
    return _between(groups, below, above, limit, measure)


def out_of_reach(
    budget: Budget, limit: float, lowest: float, original: float, *, multiple: int = 1,
    ratios: Mapping[str, float] = {}, exclude: Sequence[str] = (),
) -> UserError:  # fmt: skip
    """The error that says how far one gets, and with what."""
    notes = [
        f"the lowest that can be reached is {amount_text(budget.quantity, lowest)} ({lowest / original:.3g}x), "
        f"with {'one channel' if multiple == 1 else f'up to {multiple} channels'} left in every group that may lose any"
    ]
    notes += [f"{len(exclude)} pattern{'s' if len(exclude) > 1 else ''} of layers excluded"] if exclude else []
    notes += (
        [f"{len(ratios)} pattern{'s' if len(ratios) > 1 else ''} of layers with ratios of their own"] if ratios else []
    )
    loosen = [name for name, given in (("multiple", multiple > 1), ("exclude", exclude), ("ratios", ratios)) if given]
    return UserError(
        f"the budget {budget} can't be met: {amount_text(budget.quantity, limit)} of {amount_text(budget.quantity, original)}",
        code="impossible-budget", notes=notes,
        hint="ask for more than that" + (f", or loosen {' and '.join(loosen)}" if loosen else ""),
    )  # fmt: skip


def _same(a: PrunePlan, b: PrunePlan) -> bool:
    return a.removed.keys() == b.removed.keys() and all((mask == b.removed[i]).all() for i, mask in a.removed.items())


def _between(groups: PruneGroups, below: PrunePlan, above: PrunePlan, limit: float, measure: Measure) -> PrunePlan:
    """``below`` with as many groups as ``above`` has them, in graph order from the end, as the limit asks for.

    Layers at the end come first: what they lose, nothing that follows builds on.
    """

    def mask(plan: PrunePlan, group: ChannelGroup) -> Mask:
        found = plan.removed.get(group.index)
        return np.zeros(group.size, bool) if found is None else found

    changed = [g.index for g in reversed(groups.groups) if not np.array_equal(mask(below, g), mask(above, g))]

    def mixed(count: int) -> PrunePlan:
        removed = {**below.removed, **{i: above.removed[i] for i in changed[:count] if i in above.removed}}
        return PrunePlan(groups, removed)

    counts = range(1, len(changed))
    found = mixed(1 + bisect_left(counts, True, key=lambda count: measure(mixed(count)) <= limit))
    return found if measure(found) <= limit else above
