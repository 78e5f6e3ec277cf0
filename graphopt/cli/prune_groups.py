"""``graphopt inspect --prune-groups``: which channels go together, what one of them costs, and which can't go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.cli import console

if TYPE_CHECKING:
    from graphopt.passes.prune.choice.size import Size
    from graphopt.passes.prune.groups import ChannelGroup, FrozenGroup, Member


def show_groups(model: Path, how: dict[str, Any], json: bool) -> None:
    """Print the groups of a model as imported; ``how`` are arguments of ``import_onnx``."""
    with console.working(f"reading {model.name}"):
        from graphopt.driver.importing import import_onnx
        from graphopt.passes.prune.choice.channel_cost import channel_costs
        from graphopt.passes.prune.groups import find_groups
        from graphopt.passes.prune.prepare import prepare

        graph = import_onnx(model, **how)
        prepare(graph)
        found = find_groups(graph)
        costs = channel_costs(found)
    if json:
        console.print_json(
            {
                "model": str(model),
                "groups": [_entry(group, cost) for group, cost in zip(found.groups, costs)],
                "frozen": [{"layer": f.name, "channels": f.size, "reason": f.reason} for f in found.frozen],
            }
        )
        return
    numbers = ("channels", "parameters a channel", "FLOPs a channel")
    channels = sum(group.size for group in found.groups)
    count = f"{len(found.groups)} group{'' if len(found.groups) == 1 else 's'}"
    title = f"{model.name}: {count}, {channels} channels that can be removed"
    table = console.make_table(title, "group", *numbers, "members", right=numbers)
    for group, cost in zip(found.groups, costs):
        cells = [group.name, str(group.size), f"{cost.parameters:,}", f"{cost.flops:,}"]
        table.add_row(*map(console.plain, [*cells, members_text(group)]))
    console.print_table(table)
    print_frozen(found.frozen)


def print_frozen(frozen: tuple[FrozenGroup, ...]) -> None:
    """The table of channels that have to stay."""
    if frozen:
        table = console.make_table("Channels that stay", "layer", "channels", "because", right=("channels",))
        for entry in frozen:
            table.add_row(*map(console.plain, [entry.name, str(entry.size), entry.reason]))
        console.print_table(table)


def members_text(group: ChannelGroup) -> str:
    """Layers and their roles; the values in between where no layer has weights of the group."""
    roles: dict[str, list[str]] = {}
    for member in group.members:
        name, role = _place(member)
        if role and role not in roles.setdefault(name, []):
            roles[name].append(role)
    if roles:
        weights = {name: [r for r in ("out", "in") if r in found] or found for name, found in roles.items()}
        return ", ".join(f"{name} ({' and '.join(found)})" for name, found in weights.items())
    return ", ".join(f"%{member.value.name}" for member in group.members)


def _place(member: Member) -> tuple[str, str]:
    """Node and role of a constant's axis; the value's name and no role for what is computed."""
    from graphopt.ir.graph import Use

    if isinstance(member.slot, Use):
        return (member.layer or member.slot.node).name, member.role.value if member.role else ""
    return member.value.name, ""


def _entry(group: ChannelGroup, cost: Size) -> dict[str, Any]:
    from graphopt.ir.graph import Use

    return {
        "name": group.name,
        "channels": group.size,
        "parameters_per_channel": cost.parameters,
        "bytes_per_channel": cost.bytes,
        "flops_per_channel": cost.flops,
        "layers": [node.name for node in group.layers],
        "members": [
            {
                "tensor": member.value.name,
                "node": (member.layer or member.slot.node).name if isinstance(member.slot, Use) else None,
                "axis": member.axis,
                "extent": member.extent,
                "copies": int(member.positions.shape[1]),
                "role": member.role.value if member.role else None,
            }
            for member in group.members
        ],
    }
