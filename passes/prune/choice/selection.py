"""Which groups a request is about: names and patterns of layers, ratios of their own, exclusions, and why nothing may be left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from graphopt.errors import UserError, did_you_mean
from graphopt.passes.prune.groups import ChannelGroup, PruneGroups
from graphopt.passes.prune.labels import Role

SHOWN_REASONS = 3


def producers(group: ChannelGroup) -> tuple[str, ...]:
    """Names of the layers whose output channels the group holds."""
    return tuple(dict.fromkeys(m.layer.name for m in group.of_role(Role.OUT) if m.layer is not None))


def check_ratio(ratio: float, what: str = "the ratio", *, zero: bool = False) -> None:
    """A part of channels that go.

    Raises:
        UserError: it is not strictly between 0 and 1 (0 itself being allowed or not).
    """
    if not (0 < ratio < 1 or (zero and ratio == 0)):
        raise UserError(
            f"{what} must be {'at least' if zero else 'above'} 0 and below 1, not {ratio:g}",
            code="bad-ratio",
            hint="it is the part of the channels to remove: 0.5 removes every other one",
        )


@dataclass(frozen=True)
class Wanted:
    """What is asked of groups that may lose channels.

    Attributes:
        ratios: by group index: the part of its channels to remove.
        own: indices of groups whose ratio was given for them.
    """

    ratios: Mapping[int, float]
    own: frozenset[int]


def wanted_ratios(groups: PruneGroups, ratio: float, ratios: Mapping[str, float], exclude: Sequence[str]) -> Wanted:
    """Which groups may lose which part of their channels.

    A pattern means a group by the group's name or by the name of a layer whose output channels it holds. Of several
    patterns in ``ratios`` the last one that fits counts; ``exclude`` counts more than ``ratios``.

    Raises:
        UserError: a ratio out of range, a name of nothing, or no group left.
    """
    check_ratio(ratio)
    for pattern, own in ratios.items():
        check_ratio(own, f"the ratio of {pattern!r}", zero=True)
    _check_names(groups, [*ratios, *exclude])
    wanted: dict[int, float] = {}
    special: set[int] = set()
    for group in groups.groups:
        names = (group.name, *producers(group))
        if not any(fits(pattern, names) for pattern in exclude):
            given = next((r for p, r in reversed(list(ratios.items())) if fits(p, names)), None)
            if given is not None:
                special.add(group.index)
            if given != 0:
                wanted[group.index] = ratio if given is None else given
    if not wanted:
        raise _nothing_left(groups, exclude)
    return Wanted(wanted, frozenset(special))


def fits(pattern: str, names: Iterable[str]) -> bool:
    """Whether a pattern is or matches one of the names (``*``, ``?``, ``[abc]``; case counts)."""
    return any(pattern == name or fnmatchcase(name, pattern) for name in names)


def _check_names(groups: PruneGroups, patterns: Iterable[str]) -> None:
    layers = {use.node.name for use, _ in groups.labelling.roles}
    known = dict.fromkeys([*(g.name for g in groups.groups), *sorted(layers)])
    for pattern in patterns:
        if not fits(pattern, known):
            raise UserError(
                f"no layer and no group of channels is called {pattern!r}",
                code="unknown-layer",
                hint=did_you_mean(pattern, known)
                or "`graphopt inspect MODEL --prune-groups` lists them; * and ? may stand in names",
            )


def _nothing_left(groups: PruneGroups, exclude: Sequence[str]) -> UserError:
    reasons = Counter[str]()
    for frozen in groups.frozen:
        reasons[frozen.reason] += frozen.size
    notes = [f"{count} channels stay: {reason}" for reason, count in reasons.most_common(SHOWN_REASONS)]
    if len(reasons) > SHOWN_REASONS:
        notes.append(f"{len(reasons) - SHOWN_REASONS} more reasons")
    if groups.groups:
        return UserError(
            f"every one of the {len(groups.groups)} groups of channels is excluded or has a ratio of 0",
            code="nothing-to-prune", notes=notes, hint="leave out fewer layers",
        )  # fmt: skip
    return UserError(
        "no channel can be removed from this model" if notes else "the model has no layers with channels to remove",
        code="nothing-to-prune", notes=notes, hint="`graphopt inspect MODEL --prune-groups` shows every layer with its reason",
    )  # fmt: skip
