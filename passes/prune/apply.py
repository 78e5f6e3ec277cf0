"""The surgery: carries out a plan on a copy of the graph, in one edit, and checks every shape afterwards."""

from __future__ import annotations

import numpy as np

from graphopt.errors import GraphOptError, InternalError, UserError
from graphopt.ir.dims import Dim, SymExpr, subs, symbols_of
from graphopt.ir.editor import Editor, clone
from graphopt.ir.graph import Array, Graph, Node, Use, Value
from graphopt.ir.types import TensorType
from graphopt.ops.infer import infer_node
from graphopt.ops.settle import settle
from graphopt.passes.prune.labels import Slot, shape_of, slot_value
from graphopt.passes.prune.plan import Mask, PrunePlan
from graphopt.passes.prune.rules.registry import AdjustContext, CannotFollow, adjust_rule
from graphopt.passes.prune.rules.shape import stale_values


def apply_plan(plan: PrunePlan) -> Graph:
    """The graph without the plan's channels. Names of nodes, values and weights stay; the analysed graph is not touched.

    Raises:
        GraphOptError: a node can't follow; it is named. Nothing is changed then.
    """
    work = clone(plan.groups.graph)
    _carry_out(plan, work)
    return work


def apply_in_place(plan: PrunePlan, graph: Graph) -> None:
    """Remove the plan's channels from ``graph``, of which the plan's own graph is a clone. Rehearsed on another clone.

    Raises:
        GraphOptError: a node can't follow; it is named. Nothing is changed then.
    """
    apply_plan(plan)
    _carry_out(plan, graph)


def _carry_out(plan: PrunePlan, work: Graph) -> None:
    if plan.is_empty:
        return
    graph = plan.groups.graph
    _check_rest(plan)
    editor = Editor(work, infer_node)
    pairs = list(zip(graph.nodes, list(work.nodes), strict=True))
    stale = stale_values(graph.nodes, _changed(plan))
    for old, new in pairs:
        _adjust(plan, old, new, editor, frozenset(i for i, v in enumerate(old.inputs) if v in stale))
    left = set(map(id, work.nodes))  # others computed extents that are numbers now
    pairs = [(old, new) for old, new in pairs if id(new) in left]
    _slice_constants(plan, pairs, editor)
    work.constraints = _given_constraints(graph)
    for node in work.nodes:
        _infer(node)
    settle(work)  # by what bounds extents, which inference may meet behind what depends on it
    _check_shapes(plan, pairs)


def _changed(plan: PrunePlan) -> dict[Value, set[int]]:
    """Values computed at run time that lose something, with the axes."""
    found: dict[Value, set[int]] = {}
    for slot in plan.groups.labelling.slots:
        if isinstance(slot, Value):
            axes = {axis for axis, mask in enumerate(plan.keep(slot)) if mask is not None and not mask.all()}
            if axes:
                found[slot] = axes
    return found


def _check_rest(plan: PrunePlan) -> None:
    """Every axis has to keep something. (Where an index goes with one of two channels, all can go though not all
    channels do.)"""
    for slot in plan.groups.labelling.slots:
        for axis, mask in enumerate(plan.keep(slot)):
            if mask is not None and len(mask) and not mask.any():
                node = slot.node if isinstance(slot, Use) else slot.producer
                raise UserError(
                    f"nothing would be left of axis {axis} of %{slot_value(slot).name}",
                    code="nothing-left",
                    node=None if node is None else node.label,
                    hint="remove fewer channels, or leave the layers around it out with --exclude",
                )


def _given_constraints(graph: Graph) -> dict[tuple[Dim, Dim], str]:
    """Assumptions that don't come from inferring types, which is repeated on what is left."""
    if not graph.constraints:
        return {}
    bare = clone(graph)
    bare.constraints = {}
    for node in bare.nodes:
        _infer(node)
    return {pair: why for pair, why in graph.constraints.items() if pair not in bare.constraints}


def keep_of(plan: PrunePlan, node: Node, index: int) -> list[Mask | None]:
    """What stays of each axis of an input of a node of the analysed graph."""
    value = node.input(index)
    if value is None:
        return []
    slot: Slot = Use(node, index) if value.is_const else value
    masks = plan.keep(slot)
    if masks or not shape_of(value):
        return masks
    return [np.ones(d, bool) if isinstance(d, int) else None for d in shape_of(value) or ()]


def _adjust(plan: PrunePlan, old: Node, new: Node, editor: Editor, stale: frozenset[int]) -> None:
    rule = adjust_rule(old)
    if rule is None or any(v is not None and shape_of(v) is None for v in (*old.inputs, *old.outputs)):
        return
    inputs = [keep_of(plan, old, i) for i in range(len(old.inputs))]
    outputs = [[] if v is None else plan.keep(v) for v in old.outputs]
    try:
        rule(AdjustContext(new, inputs, outputs, editor, stale))
    except CannotFollow as e:
        raise _cannot_follow(old, str(e)) from e


def _slice_constants(plan: PrunePlan, pairs: list[tuple[Node, Node]], editor: Editor) -> None:
    """Uses of a constant that keep the same share it; the first keeps its name."""
    made: dict[Value, dict[tuple[bytes, ...], Value]] = {}
    whole: set[Value] = set()
    wanted: list[tuple[Node, int, Value, tuple[bytes, ...], Array]] = []
    for old, new in pairs:
        for index, value in enumerate(old.inputs):
            if value is None or value.data is None or new.input(index) is None:
                continue
            own = new.inputs[index]
            assert own is not None
            masks = plan.keep(Use(old, index))
            if own.data is not value.data or all(m is None or m.all() for m in masks):
                whole.add(own)
                continue
            data = value.data
            for axis, mask in enumerate(masks):
                if mask is not None and not mask.all():
                    data = np.compress(mask, data, axis)
            key = tuple(b"" if m is None else m.tobytes() for m in masks)
            wanted.append((new, index, own, key, np.ascontiguousarray(data)))
    for node, index, own, key, data in wanted:
        known = made.setdefault(own, {})
        if key not in known:
            alone = not known and own not in whole and not own.escapes and not _used_inside(own, node.graph)
            if alone and all(k == key for _, _, v, k, _ in wanted if v is own):
                editor.set_constant(own, data)
                known[key] = own
            else:
                known[key] = editor.constant(data, own.name)
        editor.set_input(node, index, known[key])


def _used_inside(value: Value, graph: Graph | None) -> bool:
    return any(use.node.graph is not graph for use in value.uses)


def _infer(node: Node) -> None:
    try:
        infer_node(node)
    except InternalError:
        raise
    except GraphOptError as e:
        raise _cannot_follow(node, e.message) from e


def _check_shapes(plan: PrunePlan, pairs: list[tuple[Node, Node]]) -> None:
    for old, new in pairs:
        for before, after in zip(old.outputs, new.outputs):
            if before is None or after is None or shape_of(before) is None:
                continue
            masks = plan.keep(before)
            for dim, mask, now in zip(before.shape, masks, after.shape, strict=True):
                want = dim if mask is None else int(mask.sum())
                if not _agree(now, want):
                    raise _cannot_follow(old, f"an extent of %{before.name} comes out as {now} instead of {want}")
            extents = (old_dim if mask is None else now for old_dim, mask, now in zip(before.shape, masks, after.shape))
            after.type = TensorType(after.dtype, tuple(extents))  # symbolic ones as they were written before


def _agree(now: Dim, want: object) -> bool:
    """Whether two extents are equal; expressions that are written differently are compared by numbers."""
    if now == want or not (isinstance(now, SymExpr) and isinstance(want, SymExpr)):
        return now == want
    names = sorted(symbols_of(now, want))
    try:
        return all(
            subs(now, env) == subs(want, env)
            for start in (1, 1009, 7919)
            for env in [{name: start + 13 * i for i, name in enumerate(names)}]
        )
    except ZeroDivisionError:
        return False


def _cannot_follow(node: Node, why: str) -> GraphOptError:
    return InternalError(
        f"the removal of channels doesn't fit a node: {why}",
        code="prune-misfit",
        node=node.label,
        hint=f"leave the layers around it out with --exclude, and report this: {node.op} lacks a rule for this case",
    )
