"""The masked original: the same graph with a plan's channels set to zero wherever they occur, and nothing removed.

It is the definition of what a pruned graph has to compute. Values are masked after every node, so the plan's index maps
alone decide what is zero, not the surgery on weights that is to be checked. Zero of a quantised tensor is its zero point.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor, clone
from graphopt.ir.graph import Array, Graph, Node, Use, Value
from graphopt.ops.infer import infer_node
from graphopt.ops.registry import REDUCE, has_trait
from graphopt.passes.prune.labels import Role
from graphopt.passes.prune.plan import Mask, PrunePlan
from graphopt.passes.prune.zero_points import zero_of

_SELECTABLE = (DType.f32, DType.f16, DType.f64, DType.i8, DType.u8, DType.i32, DType.i64, DType.u32)
"""Element types that ONNX Runtime's Where takes; others are cast to one of them and back, which is exact."""


def masked_graph(plan: PrunePlan) -> Graph:
    """A copy of the analysed graph whose values are zero at the plan's channels."""
    work = clone(plan.groups.graph)
    editor = Editor(work, infer_node)
    pairs = list(zip(plan.groups.graph.nodes, work.nodes, strict=True))
    for (old, new), following in zip(pairs, [*(new for _, new in pairs[1:]), None]):
        _mask_operands(plan, old, new, editor)
        for before, after in zip(old.outputs, new.outputs):
            if before is not None and after is not None and after.uses:
                keep = _keep(plan.keep(before))
                if keep is not None:
                    _select(editor, after, keep, zero_of(before) or 0, following)
    return work


def _keep(masks: Sequence[Mask | None]) -> Array | None:
    """False at the channels that go, in a shape that broadcasts to the tensor's; None if everything stays."""
    if all(mask is None or mask.all() for mask in masks):
        return None
    keep = np.ones((1,) * len(masks), bool)
    for axis, mask in enumerate(masks):
        if mask is not None and not mask.all():
            keep = keep & mask.reshape([-1 if i == axis else 1 for i in range(len(masks))])
    return keep


def _mask_operands(plan: PrunePlan, old: Node, new: Node, editor: Editor) -> None:
    """Constants that are summed over have no node after which they could be masked, nor need the other factor have."""
    for index, value in enumerate(old.inputs):
        if value is None or value.data is None:
            continue
        use = Use(old, index)
        keep = _keep(plan.keep(use))
        summed = has_trait(old, REDUCE) or any(
            role is Role.IN for axis in range(value.data.ndim) if (role := plan.groups.labelling.roles.get((use, axis)))
        )
        alone = old.op == "Einsum" or all(v is None or v.is_const for v in old.inputs[:2])
        if keep is not None and summed and alone:
            masked = np.where(keep, value.data, np.zeros((), value.data.dtype))
            editor.set_input(new, index, editor.constant(masked, f"{value.name}_masked"))


def _select(editor: Editor, value: Value, keep: Array, number: int, before: Node | None) -> None:
    uses, name, source = list(value.uses), f"{value.name}_masked", value
    if value.dtype not in _SELECTABLE:
        wide = DType.f32 if value.dtype.is_float else DType.i64
        source = editor.node("Cast", [value], {"to": wide.onnx}, name=f"{name}_wide", before=before).out
    zero = editor.constant(np.asarray(number, source.dtype.numpy), f"{value.name}_zero")
    chosen = editor.node(
        "Where", [editor.constant(keep, f"{value.name}_keep"), source, zero], name=name, before=before
    ).out
    if source is not value:
        chosen = editor.node("Cast", [chosen], {"to": value.dtype.onnx}, name=f"{name}_back", before=before).out
    for use in uses:
        editor.set_input(use.node, use.index, chosen)
