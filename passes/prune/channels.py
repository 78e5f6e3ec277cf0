"""Channel pruning as a pass: by the weights alone, with everything that depends on a channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.errors import UserError
from graphopt.ir.editor import clone
from graphopt.ir.graph import Graph
from graphopt.passes.prune.apply import apply_in_place
from graphopt.passes.prune.choice.ranking import Ranking, select
from graphopt.passes.prune.choice.selection import producers
from graphopt.passes.prune.groups import find_groups
from graphopt.passes.prune.importance import CRITERIA, criterion
from graphopt.passes.prune.prepare import prepare
from graphopt.rewrite.passes import Pass, PassContext, register_pass


@register_pass
@dataclass(frozen=True)
class PruneChannels(Pass):
    """Removes the channels that matter least by their weights alone, all over the graph. Results change.

    Attributes:
        ratio: part of the channels to remove.
        criterion: what tells importance, of ``graphopt.passes.prune.importance.CRITERIA`` without calibration data.
        ranking: over which channels the ratio holds; see ``graphopt.passes.prune.choice.ranking.select``.
        multiple: channels that stay are rounded to multiples of it.
        exclude: layers that keep all output channels, by name or pattern.
        seed: of the random criterion.
    """

    name: ClassVar[str] = "prune-channels"
    ratio: float = 0.5
    criterion: str = "l2"
    ranking: Ranking = "local"
    multiple: int = 1
    exclude: tuple[str, ...] = ()
    seed: int = 0

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """The analysis is made on a copy that stays whole while the graph itself is cut."""
        chosen = criterion(self.criterion)
        if chosen.needs_data:
            raise UserError(
                f"criterion {self.criterion!r} needs calibration data, which a pass can't have",
                code="criterion-needs-data",
                hint=f"`graphopt prune MODEL --criterion {self.criterion} --calib DATA` takes some; "
                f"a pass knows {', '.join(n for n, c in CRITERIA.items() if not c.needs_data)}",
            )
        prepare(graph, ctx)
        groups = find_groups(clone(graph))
        plan = select(
            groups, chosen.score(groups, seed=self.seed), ratio=self.ratio, ranking=self.ranking,
            multiple=self.multiple, exclude=self.exclude, normalise=not chosen.comparable,
        )  # fmt: skip
        apply_in_place(plan, graph)
        fallbacks = chosen.fallbacks(groups)
        nodes = {node.name: node for node in graph.nodes}
        for group in groups.groups:
            kept = plan.kept(group)
            layer = nodes[(producers(group) or [node.name for node in group.layers])[0]]
            if group.name in fallbacks:
                ctx.refuse(layer, f"{self.criterion} can't judge group {group.name}: the L2 norm of its weights does")
            if kept < group.size:
                ctx.applied(layer, f"{kept} of {group.size} channels of group {group.name} are left")
            else:
                ctx.refuse(layer, f"group {group.name} keeps its {group.size} channels")
        for frozen in groups.frozen:
            ctx.refuse(nodes[frozen.name], f"{frozen.size} channels stay: {frozen.reason}")
