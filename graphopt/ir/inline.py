"""Replacing an ``If`` by the branch that is always taken."""

from __future__ import annotations

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node


def inline_subgraph(node: Node, branch: Graph, editor: Editor) -> list[Node]:
    """Move the nodes of ``branch`` to where ``node`` stands, reroute the outputs of ``node`` and erase it.

    Names need no change, because they are unique in the whole model. A branch output that can't take over the name of a
    graph output (a constant, an outer value, one that leaves twice) gets an Identity.

    Args:
        node: an If whose condition is known; every input of ``branch`` must be absent (If branches have none).
        branch: the subgraph in the attributes of ``node`` that is executed.
        editor: edits the graph of ``node``.

    Returns:
        The nodes that stand there now, in order, for the caller to infer.
    """
    moved, results = editor.adopt(branch, before=node), list(branch.outputs)
    editor.set_outputs(branch, [])
    for old, new in zip(node.outputs, results):
        if old is None:
            continue
        if new.type is None:
            new.type = old.type
        if not editor.can_take_name(old, new):
            wrap = editor.node("Identity", [new], before=node, like=[node])
            moved.append(wrap)
            new = wrap.out
        editor.replace(old, new)
    editor.erase(node)
    return moved


__all__ = ["inline_subgraph"]
