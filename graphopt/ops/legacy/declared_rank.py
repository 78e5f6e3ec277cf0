"""A Squeeze that names no axes removes every dimension of 1, which a symbolic shape doesn't tell: the declared result does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from graphopt.ir.deviations import Deviation
from graphopt.ir.dims import Dim
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Node
from graphopt.ir.types import Shape
from graphopt.ops.legacy.rules import ALWAYS, before, i64, shape_of

MAX_RANK = 16
"""Of larger shapes not every choice of axes is tried."""


@before(ALWAYS, "Squeeze")
def axes_of_the_declared_result(node: Node, editor: Editor) -> bool:
    """Name the axes where the declared result leaves one choice; run time then checks that they are 1."""
    graph = editor.graph.root
    declared = graph.declared.get(node.out) if node.outputs and node.outputs[0] is not None else None
    if len(node.inputs) != 1 or declared is None:
        return True
    shape = shape_of(node, 0)
    if all(isinstance(d, int) for d in shape):
        return True
    axes = squeezed_axes(shape, declared)
    if axes is None:
        return True
    shown = ", ".join(str(d) if d is not None else "?" for d in declared)
    graph.deviations.append(
        Deviation("squeeze-by-rank", node.label, f"it names no axes; of its declared result [{shown}] they are {axes}")
    )
    editor.set_input(node, 1, i64(editor, axes, "axes"))
    return True


def squeezed_axes(shape: Shape, declared: Sequence[int | str | None]) -> list[int] | None:
    """The axes whose removal leaves the declared dimensions; None if none do or if there is a choice.

    Dimensions of 1 always go. Where only the rank tells, names and numbers of the declared dimensions aren't needed; they
    decide between several choices.
    """
    ones = [i for i, d in enumerate(shape) if d == 1]
    unknown = [i for i, d in enumerate(shape) if not isinstance(d, int)]
    missing = len(shape) - len(declared) - len(ones)
    if not declared and missing:
        return None  # an empty shape is what exporters write for an unknown one, too
    if not 0 <= missing <= len(unknown) or len(shape) > MAX_RANK:
        return None
    choices = [sorted([*ones, *some]) for some in combinations(unknown, missing)]
    if len(choices) > 1:
        choices = [c for c in choices if _leaves([d for i, d in enumerate(shape) if i not in c], declared)]
    return choices[0] if len(choices) == 1 else None


def _leaves(left: Sequence[Dim], declared: Sequence[int | str | None]) -> bool:
    return all(want is None or str(have) == str(want) for have, want in zip(left, declared))
