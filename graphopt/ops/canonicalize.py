"""One walk over a freshly imported graph: newest operator forms, decided branches inlined, types inferred.

The three go together because each needs the others: upgrading an operator may need the rank of its input, deciding an
``If`` needs the contents of shape tensors, and a branch that is never taken may not even be well-typed.
"""

from __future__ import annotations

import numpy as np

from graphopt.errors import GraphOptError, InternalError
from graphopt.ir.atoms import SymbolKind
from graphopt.ir.constraints import as_equality
from graphopt.ir.dims import kinds_in
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node
from graphopt.ir.inline import inline_subgraph
from graphopt.ir.types import TensorType
from graphopt.ops.context import content_of, known_array
from graphopt.ops.contrib.lowering import lower_contrib
from graphopt.ops.control_flow import infer_subgraphs
from graphopt.ops.flags import check_flags
from graphopt.ops.infer import infer_node
from graphopt.ops.operand_types import check_types
from graphopt.ops.upgrade import upgrade


def canonicalize(graph: Graph, opset: int | None = None) -> None:
    """Bring every node to its newest form and infer all types, in subgraphs too.

    Args:
        graph: its inputs are typed, its nodes are in the form of ``opset``.
        opset: ai.onnx version of the nodes; the graph's own when None.

    Raises:
        ModelError: a node contradicts the ONNX specification.
        UnsupportedOpError: a node has no equivalent in newest form, or no rule can tell its types.
        InternalError: a rule failed on a node instead of accepting or refusing it.
    """
    canonicalize_nodes(list(graph.nodes), Editor(graph, infer_node), graph.opset if opset is None else opset)


def canonicalize_nodes(nodes: list[Node], editor: Editor, opset: int) -> None:
    """Like ``canonicalize`` for some nodes of ``editor.graph``, given in order."""
    todo = nodes[::-1]
    while todo:
        node = todo.pop()
        try:
            branch = taken_branch(node)
            if branch is not None:
                todo.extend(inline_subgraph(node, branch, Editor(editor.graph))[::-1])
                continue
            check_flags(node)
            if upgrade(node, editor, opset) and lower_contrib(node, editor):
                check_types(node)
                infer_subgraphs(node, lambda sub: canonicalize(sub, opset))
                infer_node(node, subgraphs_ready=True)
                branch = assumed_branch(node)
                if branch is not None:
                    inline_subgraph(node, branch, Editor(editor.graph))
        except GraphOptError as e:
            if e.node is None:
                e.node = node.label
            elif node.op == "If" and not node.domain:
                e.add_note_line(
                    f"in a branch of {node.label}, whose condition is only known at run time; if inputs decide it, "
                    "give their values (values={...}) and only the branch taken is compiled"
                )
            raise
        except Exception as e:  # an arbitrary model must not end in a traceback without the node's name
            raise InternalError(
                f"{type(e).__name__} while importing {node.op}: {e}",
                node=node.label,
                hint="this is a bug in graphopt's rule for the operator, please report it with the model",
            ) from e


def assumed_branch(node: Node) -> Graph | None:
    """The branch of an ``If`` on ``dim == constant`` that is taken for granted, and guarded by a run-time constraint.

    Exporters write ``squeeze(axis)`` of a dynamic dimension as ``If(dim == 1, Squeeze(x), Identity(x))``, whose rank
    depends on the input. Nothing can be compiled for two ranks, so the equality is recorded as a constraint of the
    graph, which is checked whenever the compiled model runs. Only done where the branches' ranks differ.
    """
    if node.op != "If" or node.domain or node.inputs[0] is None or node.graph is None:
        return None
    then = node.attrs.get("then_branch")
    split = [v.name for v in node.outputs if v is not None and isinstance(v.type, TensorType) and v.type.shape is None]
    content = content_of(node.inputs[0])
    if not split or content is None or content.size != 1 or not isinstance(then, Graph):
        return None
    if any(not isinstance(v.type, TensorType) or v.type.shape is None for s in node.subgraphs for v in s.outputs):
        return None
    sides = as_equality(content.reshape(-1)[0])
    if sides is None or kinds_in(*sides) & {SymbolKind.measured, SymbolKind.element}:
        return None
    reason = f"{node.label}: the rank of {', '.join(split)} is only known if this holds"
    node.graph.constraints.setdefault(sides, reason)
    return then


def taken_branch(node: Node) -> Graph | None:
    """The branch that an ``If`` always takes, None when it depends on run-time values or is no ``If``."""
    if node.op != "If" or node.domain or not node.inputs or node.inputs[0] is None:
        return None
    condition = known_array(node.inputs[0])
    if condition is None or condition.size != 1:
        return None
    branch = node.attrs.get("then_branch" if bool(np.asarray(condition).reshape(-1)[0]) else "else_branch")
    return branch if isinstance(branch, Graph) else None
