"""Layout assignment: channels in blocks through regions of convolutions, plain everywhere else, copies at the borders."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.fused import FusedGraph, Group, GroupKind
from graphopt.ir.graph import Node, Value
from graphopt.ir.layout import PLAIN, Layout
from graphopt.ops.context import InferContext, attr
from graphopt.ops.infer import infer_node
from graphopt.ops.movement import slice_bounds, split_sizes
from graphopt.ops.registry import ANY_LAYOUT, CUT, ELEMENTWISE, has_trait
from graphopt.passes.layout.borders import Border, LayoutCosts, cheapest_border


@dataclass(frozen=True)
class LayoutPolicy:
    """Layouts of a target.

    Attributes:
        wanted: the layout that a group's kernel would like its result in.
        element_types: those of values that may be stored otherwise than plainly.
        reads: whether a group has a kernel for its operands as the fused graph has them, whatever its result is stored in.
        is_generic: whether a group has no other kernel than a loop nest, which reads any layout.
    """

    wanted: Callable[[FusedGraph, Group], Layout]
    element_types: Collection[DType]
    reads: Callable[[FusedGraph, Group], bool] = lambda *_: False
    is_generic: Callable[[FusedGraph, Group], bool] = lambda *_: True


def assign_layouts(fused: FusedGraph, policy: LayoutPolicy, costs: LayoutCosts | None = None) -> FusedGraph:
    """Decide ``fused.layouts`` and insert copies where a blocked value meets a group that wants it plain.

    A value is blocked if its kernel produces blocks (a convolution) or passes them on (element-wise, pooling, Concat) from operands
    of the same block. A copy of a value with one pixel is a view. The graph is edited in place.

    With ``costs``, a convolution whose operands or results are plain anyway has the layouts of least predicted time, copies
    included; else one of more than a pixel's window has its result in blocks, and operands stay as they come.
    """
    users = _users(fused)
    editor = Editor(fused.graph, infer_node)
    kept = {s.present for s in fused.options.states}
    fused.layouts.update((v, s.layout) for s in fused.options.states for v in (s.past, s.present))
    copies: dict[Value, Value] = {}
    ordered: list[Group] = []
    for group in fused.groups:
        border = _border(fused, group, users, policy, costs, copies)
        for value in border.copied:
            assert costs is not None
            if value not in copies:
                ordered.append(_copy_into_blocks(editor, value, group))
                copies[value] = ordered[-1].outputs[0]
                fused.layouts[copies[value]] = costs.layout(value)
            _read_from(editor, group, value, copies[value])
            users.setdefault(copies[value], []).append(group)
            users[value].remove(group)
        ordered.append(group)
        if not border.layout.is_plain:
            for value in group.outputs:
                fused.layouts[value] = border.layout
    fused.groups, ordered = ordered, []
    for group in fused.groups:
        ordered.append(group)
        for value in list(group.outputs):
            layout = fused.layout(value)
            if layout.is_plain:
                continue
            refusing = [g for g in users.get(value, []) if not _accepts(fused, g, value, layout, policy)]
            leaves = value.escapes > 0 and value not in kept
            if refusing or leaves:
                copy = _copy(editor, value, refusing, leaves)
                kind = GroupKind.view if layout.keeps_order(value.shape) else GroupKind.kernel
                ordered.append(Group([copy], copy, kind, outputs=[copy.out]))
    fused.groups = ordered
    return fused


def _border(
    fused: FusedGraph,
    group: Group,
    users: dict[Value, list[Group]],
    policy: LayoutPolicy,
    costs: LayoutCosts | None,
    copies: dict[Value, Value],
) -> Border:
    """The layouts of a group."""
    if any(_is_kept(fused, v) for v in group.outputs):
        return Border(fused.layout(group.outputs[0]))
    layout = _layout_of(fused, group, policy)
    if layout.is_plain:
        # of planes of unknown size, the only kernel of a depthwise convolution may be that for blocks
        if costs is None or not _is_sparse_conv(group) or not policy.is_generic(fused, group):
            return Border(PLAIN)
        blocks = costs.layout(group.outputs[0])
        found = None if blocks.is_plain else cheapest_border(fused, group, blocks, False, costs, set(copies))
        return found or Border(PLAIN)
    wanted = all(layout.keeps_order(v.shape) for v in group.outputs) or any(
        _accepts(fused, g, v, layout, policy) for v in group.outputs for g in users.get(v, [])
    )
    if costs is not None and _is_dense_conv(group):
        found = cheapest_border(fused, group, layout, wanted, costs, set(copies))
        if found is not None:
            return found
    return Border(layout if wanted or _pays_for_a_copy(group) else PLAIN)


def _users(fused: FusedGraph) -> dict[Value, list[Group]]:
    out: dict[Value, list[Group]] = {}
    for group in fused.groups:
        for value in group.inputs:
            out.setdefault(value, []).append(group)
    return out


def _eligible(value: Value, layout: Layout, policy: LayoutPolicy) -> bool:
    return value.dtype in policy.element_types and _is_image(value, layout) and layout.fits(value.shape)


def _is_image(value: Value, layout: Layout) -> bool:
    """Whether a value has the rank that a layout is for: that of images or of stacks of them, where it says none."""
    return len(value.shape) in ((4, 5) if layout.order is None else (len(layout.order),))


def _layout_of(fused: FusedGraph, group: Group, policy: LayoutPolicy) -> Layout:
    """The layout that a group's results will have: its own wish, or that of its operands if it passes layouts on."""
    if group.kind is not GroupKind.kernel:
        return PLAIN
    layout = policy.wanted(fused, group)
    first = group.anchor.output(0)
    if layout.is_plain and first is not None:
        rank = len(first.shape)
        passed = [v for v in group.inputs if len(v.shape) == rank and not v.is_const and not _is_kept(fused, v)]
        operands = {fused.layout(v) for v in passed} - {PLAIN}
        if len(operands) == 1 and _transparent(group, *operands):
            layout = operands.pop()
    return layout if all(_eligible(v, layout, policy) for v in group.outputs) else PLAIN


def _is_kept(fused: FusedGraph, value: Value) -> bool:
    """Whether a value is part of a state, whose order in memory only those follow that read it."""
    return any(value in (s.past, s.present) for s in fused.options.states)


def _transparent(group: Group, layout: Layout) -> bool:
    node = group.anchor
    if has_trait(node, CUT):
        return _cuts_on_blocks(node, layout)
    return has_trait(node, ELEMENTWISE) or has_trait(node, ANY_LAYOUT)


def _cuts_on_blocks(node: Node, layout: Layout) -> bool:
    """Whether a Split or Slice takes whole blocks."""
    assert node.graph is not None
    context = InferContext(node, node.graph)
    if len(context.shape(0)) < 3:
        return False
    if node.op == "Split":
        axis = context.axis(int(context.attr("axis")), len(context.shape(0)))
        return all(layout.is_aligned(axis, s) for s in split_sizes(context))
    return all(
        layout.block(axis) == 1 or (step == 1 and layout.is_aligned(axis, first) and layout.is_aligned(axis, extent))
        for axis, (first, extent, step) in enumerate(slice_bounds(context))
    )


def _accepts(fused: FusedGraph, group: Group, value: Value, layout: Layout, policy: LayoutPolicy) -> bool:
    """Whether a group reads ``value`` in a layout without loss."""
    if group.kind is not GroupKind.kernel:
        return False
    if _transparent(group, layout) or _is_dense_conv(group):
        return True
    if _is_kept(fused, value) and policy.is_generic(fused, group):
        return True
    # what it wants may depend on how its operand comes
    trial = fused.trial({value: layout})
    return not policy.wanted(trial, group).is_plain or policy.reads(trial, group)


def _pays_for_a_copy(group: Group) -> bool:
    """Whether blocks are better even where nobody reads them so: sums over windows take longer than the copy.

    Convolutions in groups that ask for blocks have no other fast form for their data.
    """
    node, weight = group.anchor, group.anchor.input(1)
    windows = weight is not None and any(d != 1 for d in weight.shape[2:])
    return node.op == "Conv" and not node.domain and (windows or not _is_dense_conv(group))


def _is_dense_conv(group: Group) -> bool:
    node = group.anchor
    return node.op == "Conv" and not node.domain and attr(node, "group") == 1


def _is_sparse_conv(group: Group) -> bool:
    """Whether a convolution of images, or of stacks of them, sums over some of the channels only."""
    node = group.anchor
    is_conv = group.kind is GroupKind.kernel and node.op == "Conv" and not node.domain
    return is_conv and len(node.out.shape) in (4, 5) and attr(node, "group") != 1


def _copy_into_blocks(editor: Editor, value: Value, group: Group) -> Group:
    """A kernel that copies a plain value, before the first node of ``group``."""
    first = min(group.nodes, key=editor.graph.position)
    node = editor.node("Identity", [value], before=first, name=f"{value.name}_blocked")
    return Group([node], node, GroupKind.kernel, outputs=[node.out])


def _read_from(editor: Editor, group: Group, value: Value, copy: Value) -> None:
    """Makes the nodes of a group read ``copy`` in place of ``value``."""
    for use in list(value.uses):
        if use.node in group.nodes:
            editor.set_input(use.node, use.index, copy)


def _copy(editor: Editor, value: Value, refusing: list[Group], escaping: bool) -> Node:
    """A plain copy of a blocked value for the groups that want it so, and for the outside if it is ``escaping``."""
    members = {n for g in refusing for n in g.nodes}
    first = min(members, key=editor.graph.position, default=None)
    node = editor.node("Identity", [value], before=None if escaping else first, name=f"{value.name}_plain")
    for use in list(value.uses):
        if use.node in members:
            editor.set_input(use.node, use.index, node.out)
    if escaping:
        # the copy takes the output's name; it must stand right after the producer
        assert value.producer is not None
        following = _next(editor, value.producer)
        if following is not node:
            editor.move_before(node, following)
        for i, out in enumerate(editor.graph.outputs):
            if out is value:
                editor.set_output(editor.graph, i, node.out)
        editor.swap_names(value, node.out)
    return node


def _next(editor: Editor, node: Node) -> Node:
    nodes = editor.graph.nodes
    return nodes[editor.graph.position(node) + 1]
