"""Legacy operator forms to the newest one, so that everything after the import knows one form of each operator.

The rules are in ``graphopt.ops.legacy``; each covers the forms before one opset version. What has changed its meaning
without an equivalent in the newest form is refused. ``REVIEWED_OPSET`` is the newest opset whose changes were compared
one by one with the rules (``tests/ops/test_upgrade.py`` repeats the comparison against the schemas of the installed
onnx package).
"""

from __future__ import annotations

import functools

import onnx

from graphopt.errors import UnsupportedOpError
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Node
from graphopt.ops.legacy import (  # noqa: F401  (registration)
    attributes,
    declared_rank,
    layers,
    one_element,
    opset6,
    resampling,
    softmax,
)
from graphopt.ops.legacy.rules import rules_for

REVIEWED_OPSET = 28


def upgrade(node: Node, editor: Editor, opset: int) -> bool:
    """Rewrite ``node``, which has the form of ai.onnx ``opset``, to the newest form.

    Args:
        node: its inputs are typed.
        editor: edits the graph of ``node`` and infers types of nodes it creates.

    Returns:
        Whether ``node`` is still there (False when other nodes took its place).

    Raises:
        UnsupportedOpError: the old form has no equivalent, or the operator's form is newer than this code.
    """
    if node.domain:
        return True
    if _since(node.op, opset) > REVIEWED_OPSET:
        raise UnsupportedOpError(
            f"{node.op} of opset {_since(node.op, opset)} is newer than what graphopt knows ({REVIEWED_OPSET})",
            code="unsupported-opset",
            node=node.label,
            hint=f"export the model for opset {REVIEWED_OPSET} or older",
        )
    return all(rule(node, editor) for rule in rules_for(node.op, opset))  # stops when the node is gone


@functools.cache
def _since(op: str, opset: int) -> int:
    if opset <= REVIEWED_OPSET:
        return opset
    try:
        return int(onnx.defs.get_schema(op, opset).since_version)
    except onnx.defs.SchemaError:
        return 0
