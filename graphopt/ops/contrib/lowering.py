"""Replaces a node of the table by the plain operators of its rule, when a model is imported."""

from __future__ import annotations

from graphopt.errors import ModelError, UnsupportedOpError, did_you_mean
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Node
from graphopt.ops.contrib import (  # noqa: F401  (registration)
    activations,
    attention,
    convolution,
    elementwise,
    float_products,
    normalization,
    pooling,
    products,
    quantize_linear,
    recurrent,
    rotary,
)
from graphopt.ops.contrib.builder import Builder
from graphopt.ops.contrib.table import MICROSOFT, Entry, entry_of, known_operators
from graphopt.ops.registry import ANCHOR, MOVEMENT, VIEW, has_trait

_HELPERS = ("Cast", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear", "Shape")
"""Besides what moves elements: operators that bring operands and results into their form."""


def lower_contrib(node: Node, editor: Editor) -> bool:
    """Bring ``node`` to plain operators if the table has it.

    Args:
        node: its inputs are typed.
        editor: edits the graph of ``node`` and infers types of nodes that it creates.

    Returns:
        Whether ``node`` is still there.

    Raises:
        ModelError: the node contradicts the operator's definition.
        UnsupportedOpError: it has an attribute or a form that no rule covers.
    """
    entry = entry_of(node.domain, node.op)
    if entry is None:
        if node.domain.startswith(MICROSOFT):
            raise _unknown(node)
        return True
    _check(node, entry)
    builder = Builder(node, editor, entry)
    try:
        results = entry.rule(builder)
    except (LookupError, TypeError, ValueError, ArithmeticError) as e:  # of shapes that no rule foresees
        given = ", ".join(str(v.type) if v is not None else "nothing" for v in node.inputs)
        raise _invalid(node, f"{node.op} can't be applied to ({given}) with these attributes: {e}") from e
    if results is None:
        return True
    for old, new in zip(node.outputs, results):
        if old is None or new is None:
            continue
        if not editor.can_take_name(old, new) or new.producer is None or new in node.inputs:
            new = editor.node("Identity", [new], before=node, like=[node]).out
        escapes = bool(old.escapes)
        editor.replace(old, new)
        if not escapes:  # what leaves the graph has been renamed
            editor.swap_names(old, new)
    editor.erase(node)
    main = _main(builder.made)
    if main is not None:
        editor.name_after(main, node)
    return False


def _unknown(node: Node) -> UnsupportedOpError:
    hint = (
        "save the model without ONNX Runtime's optimisation, or at its level 'basic', or export it without the operator"
    )
    if node.domain != MICROSOFT:
        hint = "ONNX Runtime optimised it for one processor; save the model at its level 'extended' or a lower one"
    return UnsupportedOpError(
        f"operator {node.op} of domain {node.domain!r} is unknown",
        code="unknown-op",
        node=node.label,
        hint=did_you_mean(node.op, known_operators(node.domain)) or hint,
    )


def _main(made: list[Node]) -> Node | None:
    """The one of the new nodes that does what the old one was there for: its name stands in plans, options and reports."""
    computing = [n for n in made if not has_trait(n, MOVEMENT) and not has_trait(n, VIEW) and n.op not in _HELPERS]
    anchor = next((n for n in computing if has_trait(n, ANCHOR)), None)
    return anchor or next(reversed(computing or made), None)


def _check(node: Node, entry: Entry) -> None:
    """Refuse what the rule would pass over in silence."""
    names = entry.operands
    missing = [name for i, name in enumerate(names) if name[-1] not in "?*" and node.input(i) is None]
    if missing:
        raise _invalid(node, f"operand {missing[0]} of {node.op} is missing; it takes ({', '.join(names)})")
    if len(node.inputs) > len(names) and names[-1][-1] != "*":
        raise _invalid(node, f"{node.op} takes ({', '.join(names)}); {len(node.inputs)} operands are given")
    if len(node.outputs) > entry.outputs:
        raise _invalid(node, f"{node.op} has {entry.outputs} results; {len(node.outputs)} are named")
    unknown = sorted(set(node.attrs) - entry.attributes)
    if unknown:
        raise UnsupportedOpError(
            f"attribute {', '.join(unknown)} of {node.qualified_op} is not known to graphopt",
            code="unsupported-attribute",
            node=node.label,
            hint="remove it if its value changes nothing, or export the model without this operator",
        )


def _invalid(node: Node, why: str) -> ModelError:
    return ModelError(why, code="invalid-node", node=node.label, hint="the model is inconsistent; check its export")
