"""Dead channels: those that can't influence any output of the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.errors import GraphOptError
from graphopt.ir.editor import clone
from graphopt.ir.graph import Graph, Node, Use, Value
from graphopt.ops.registry import LINEAR, MOVEMENT, PART, RECURRENT, has_trait
from graphopt.passes.prune.apply import apply_in_place
from graphopt.passes.prune.dead.constant_channels import movable, move
from graphopt.passes.prune.dead.fates import Fates
from graphopt.passes.prune.dead.readers import unread
from graphopt.passes.prune.dead.zero_rules import rule_of
from graphopt.passes.prune.dead.zeros import Zeros
from graphopt.passes.prune.groups import ChannelGroup, PruneGroups, find_groups
from graphopt.passes.prune.labels import Role
from graphopt.passes.prune.plan import Mask, PrunePlan
from graphopt.rewrite.passes import Pass, PassContext, register_pass

_ROUNDS = 4


@register_pass
@dataclass(frozen=True)
class RemoveDeadChannels(Pass):
    """Removes channels that can't influence the outputs: zero for every input, or read by nothing but zero weights.

    A channel goes with everything that depends on it, where every node that sums over it multiplies it by zero or gets zero
    from it. Chains are followed: the weights of a dead channel no longer read its inputs. Zeros come from weights and biases,
    from normalisations with a scale of zero, from activations of known numbers; one channel of each coupled group stays.

    Values computed at run time are taken to be finite: an infinity or NaN in a dead channel, which 0 times it would spread,
    is lost. Sums may be rounded in another order.

    Attributes:
        multiple: so many dead channels stay that what is left of a group is a multiple of it.
    """

    name: ClassVar[str] = "remove-dead-channels"
    multiple: int = 1

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """The outermost graph only: what branches and bodies use stays."""
        for _ in range(_ROUNDS):  # what is coupled anew after a removal may set more free
            if not _may_be_dead(graph) or not self._once(graph, ctx):
                break

    def _once(self, graph: Graph, ctx: PassContext) -> bool:
        copy, groups, found = _search(graph)
        while _move_constants(graph, copy, found, ctx):
            copy, groups, found = _search(graph)
        for mask in found.removed.values():
            _round(mask, self.multiple)
        plan = PrunePlan(groups, {i: mask for i, mask in found.removed.items() if mask.any()})
        nodes = dict(zip(copy.nodes, graph.nodes, strict=True))
        if not plan.is_empty:
            try:
                apply_in_place(plan, graph)
            except GraphOptError as e:
                first = next(groups.groups[i] for i in plan.removed)
                ctx.refuse(nodes[_layer(first)], f"dead channels stay: {e.message}")
                return False
        for group in groups.groups:
            gone = plan.removed.get(group.index)
            if gone is not None:
                what = f"{int(gone.sum())} of {group.size} channels of group {group.name} were dead"
                ctx.applied(nodes[_layer(group)], what)
        if plan.is_empty:
            _explain(found, nodes, ctx)
        return not plan.is_empty


@dataclass(frozen=True)
class DeadChannels:
    """What a search found.

    Attributes:
        groups: that were searched.
        removed: by group index: bool [channels], True for those that can go without changing any output.
        zeros: what is known of zeros once they are gone.
    """

    groups: PruneGroups
    removed: dict[int, Mask]
    zeros: Zeros


def _search(graph: Graph) -> tuple[Graph, PruneGroups, DeadChannels]:
    copy = clone(graph)
    groups = find_groups(copy)
    return copy, groups, find_dead(groups)


def _move_constants(graph: Graph, copy: Graph, found: DeadChannels, ctx: PassContext) -> bool:
    """Move what constant channels add into biases wherever that makes the channels dead; whether there were any."""
    if not any((_constant(g, found.zeros) & ~found.removed[g.index]).any() for g in found.groups.groups):
        return False
    more = find_dead(found.groups, constants=True)
    plan = PrunePlan(found.groups, more.removed)
    editor = ctx.editor(graph)
    moved = 0
    for node, target in zip(copy.nodes, list(graph.nodes), strict=True):
        channels = movable(found.zeros, node)
        if channels is None:
            continue
        assert node.inputs[0] is not None
        keep = plan.keep(node.inputs[0])
        gone = np.zeros_like(channels) if not keep or keep[1] is None else ~keep[1]
        if (channels & gone).any():
            count = move(found.zeros, node, target, channels & gone, editor)
            moved += count
            if count:
                ctx.applied(target, f"what {count} constant input channels add is in the bias now")
    return moved > 0


def find_dead(groups: PruneGroups, *, constants: bool = False) -> DeadChannels:
    """The channels of all groups that can go without changing any output.

    Every round takes out what is dead by what is left. It is the same graph as before with more zeros in it, so each channel
    is judged by itself: where it is zero nothing changes, and where it is not nothing reads it.

    Args:
        constants: channels that are one number everywhere count as not read by layers that could hold it in their bias.
    """
    removed = {group.index: np.zeros(group.size, bool) for group in groups.groups}
    fates = Fates(groups)
    while True:
        fates.decide(removed)
        zeros = Zeros(groups.graph, rule_of, fates.keep)
        found = {g.index: removed[g.index] | _dead(g, zeros, constants) for g in groups.groups}
        for index, mask in found.items():
            if mask.all():
                mask[np.flatnonzero(~removed[index])[0]] = False
        _keep_axes(groups, fates, found, removed)
        if all((found[i] == removed[i]).all() for i in found):
            return DeadChannels(groups, removed, zeros)
        removed = found


def _round(mask: Mask, multiple: int) -> None:
    """Keep some dead channels after all. Nothing notices: they stay zero or unread without the others too."""
    gone = np.flatnonzero(mask)
    more = -(len(mask) - len(gone)) % multiple
    mask[gone[:more]] = False


def _dead(group: ChannelGroup, zeros: Zeros, constants: bool) -> Mask:
    dead = np.ones(group.size, bool)
    for member in group.members:
        slot, axis = member.slot, member.axis
        uses: Sequence[Use] = list(slot.uses) if isinstance(slot, Value) else [slot]
        silent = zeros.zero_slot(slot, axis)
        for use in uses:
            idle = silent | unread(zeros, use, axis)
            if constants and ((use.index, axis) == (0, 1) or member.role is Role.IN):
                number = movable(zeros, use.node)
                idle = idle if number is None or number.shape != idle.shape else idle | number
            dead &= idle[member.positions].all(axis=1)
        if not dead.any():
            break
    return dead


def _keep_axes(groups: PruneGroups, fates: Fates, found: dict[int, Mask], removed: dict[int, Mask]) -> None:
    """Let no axis lose its last index: a piece of a group, such as a part of a Split, needs one as well."""
    fates.decide(found)
    for labels in fates.emptied():
        for token in labels.tolist():
            new = [fates.place[a] for a in groups.labelling.tokens.atoms(token) if a in fates.place]
            if not any(removed[g][i] for g, i in new):
                for g, i in new:
                    found[g][i] = False
                break


def _may_be_dead(graph: Graph) -> bool:
    """Whether it is worth looking at channels at all."""
    zeros = Zeros(graph, rule_of)
    if not zeros.is_empty:
        return True
    for node in graph.nodes:
        if has_trait(node, MOVEMENT) and has_trait(node, PART) and node.out.dtype.is_float:
            return True
        if (has_trait(node, LINEAR) or has_trait(node, RECURRENT)) and any(
            _has_zero_column(zeros, node, i) for i in (0, 1)
        ):
            return True
    return False


def _has_zero_column(zeros: Zeros, node: Node, index: int) -> bool:
    value, partner = node.input(index), node.input(1 - index)
    if value is None or value.is_const or partner is None or not partner.is_const:
        return False
    use = Use(node, index)
    return any(
        isinstance(d, int) and d > 1 and not (passing := unread(zeros, use, axis)).all() and bool(passing.any())
        for axis, d in enumerate(value.shape)
    )


def _layer(group: ChannelGroup) -> Node:
    makers = [m.layer for m in group.of_role(Role.OUT) if m.layer is not None]
    return (makers or list(group.layers))[0]


def _constant(group: ChannelGroup, zeros: Zeros) -> Mask:
    """Channels that are one number other than zero somewhere."""
    constant = np.zeros(group.size, bool)
    for member in group.members:
        known = zeros.known(member.slot, member.axis) if isinstance(member.slot, Value) else None
        if known is not None:
            constant |= (known.mask & (known.value != 0))[member.positions].all(axis=1)
    return constant


def _explain(found: DeadChannels, nodes: dict[Node, Node], ctx: PassContext) -> None:
    """Why channels that look dead stay."""
    for group in found.groups.groups:
        count = int(_constant(group, found.zeros).sum())
        if count:
            what = (
                f"{count} of {group.size} channels of group {group.name} are the same number everywhere, but not zero"
            )
            ctx.refuse(nodes[_layer(group)], f"{what}, and not all that read them could hold that in a bias")
    _explain_frozen(found.groups, found.zeros, nodes, ctx)


def _explain_frozen(groups: PruneGroups, zeros: Zeros, nodes: dict[Node, Node], ctx: PassContext) -> None:
    tokens = groups.labelling.tokens
    for (use, axis), role in groups.labelling.roles.items():
        labels = groups.labelling.slots[use][axis]
        if role is not Role.OUT or labels is None or use.index == 0:
            continue
        silent = zeros.zero_slot(use, axis)
        if not silent.any():
            continue
        reasons = Counter(tokens.reason(int(t)) for t in labels[silent] if not tokens.atoms(int(t)))
        for reason, count in reasons.items():
            ctx.refuse(nodes[use.node], f"{count} output channels with weights of zero stay: {reason}")
