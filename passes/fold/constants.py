"""Constant folding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Array, Graph, Node, Value
from graphopt.ir.types import TensorType
from graphopt.ops.context import known_array
from graphopt.ops.infer import infer_graph, node_proto
from graphopt.ops.registry import ANCHOR, CONTROL, LINEAR, MOVEMENT, RECURRENT, has_trait
from graphopt.rewrite.passes import Pass, PassContext, graphs, register_pass
from graphopt.rewrite.purity import is_pure

KEPT = ("SequenceMap",)
"""Never folded: control flow is not evaluated here."""
_NARROW = (DType.f16.numpy, DType.bf16.numpy)
_AS_STORED = ("BitCast", "Cast", "CastLike")
"""Evaluated in the types of their operands, whose bits they read or which they round but once."""


@register_pass
@dataclass(frozen=True)
class FoldConstants(Pass):
    """Computes what depends on constants alone, and replaces shape arithmetic whose result is known.

    Random operators stay, and so do quantized weights and biases (DequantizeLinear). A result larger than its operands by more
    than ``max_elements`` is left to the run time, as is one of more than ``PassContext.max_fold_work`` operations.
    """

    name: ClassVar[str] = "fold-constants"
    max_elements: int | None = None

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """One sweep in order suffices: a folded value is a constant for the nodes after it."""
        rebind = False
        limit = ctx.max_fold_elements if self.max_elements is None else self.max_elements
        for g in list(graphs(graph)):
            editor = ctx.editor(g)
            for node in list(g.nodes):
                if node.graph is g and node.outputs:
                    rebind |= self._fold(node, editor, ctx, limit)
        if rebind:  # symbols that stood for elements unknown until now are integers; let the shapes after them know
            infer_graph(graph)

    def _fold(self, node: Node, editor: Editor, ctx: PassContext, limit: int) -> bool:
        if node.op in KEPT or has_trait(node, CONTROL) or not is_pure(node) or _holds_weight(node):
            return False
        outs = [o for o in node.outputs if o is not None and (o.uses or o.escapes)]
        if not outs:
            return False
        arrays: list[Array] | None = _from_contents(outs)
        if arrays is None:
            operands = [None if v is None else known_array(v) for v in node.inputs]
            if any(a is None and v is not None for a, v in zip(operands, node.inputs)) or node.subgraphs:
                return False
            reason = _too_large(node, operands, limit, ctx.max_fold_work)
            if reason:
                ctx.refuse(node, reason)
                return False
            found = evaluate_node(node, operands)
            if isinstance(found, str):
                ctx.refuse(node, found)
                return False
            arrays = [a for o, a in zip(node.outputs, found) if o in outs]
        if any(o.escapes for o in outs):
            ctx.refuse(node, "it is a graph output, which has to be computed by a node")
            return False
        rebind = False
        for out, array in zip(outs, arrays):
            rebind |= out.binds or _sharper(out, array)
            editor.replace(out, editor.constant(array, out.name))
        ctx.applied(node, "computed")
        editor.erase_dead([node.out])
        return rebind


def _holds_weight(node: Node) -> bool:
    """Whether a DequantizeLinear may hold a weight or bias of a product: folded it would grow fourfold and lose its integers."""
    if node.op != "DequantizeLinear":
        return False
    return any(has_trait(use.node, trait) for use in node.out.uses for trait in (LINEAR, RECURRENT, MOVEMENT, CONTROL))


def _from_contents(outs: list[Value]) -> list[Array] | None:
    arrays = [known_array(o) if not o.binds else None for o in outs]
    return [a for a in arrays if a is not None] if all(a is not None for a in arrays) else None


def _sharper(out: Value, array: Array) -> bool:
    return isinstance(out.type, TensorType) and out.type.shape != tuple(array.shape)


def _too_large(node: Node, operands: list[Array | None], limit: int, work: int) -> str | None:
    if not operands and node.op not in ("Constant",):
        return "it has no operands"
    given = sum(a.size for a in operands if a is not None)
    sizes = [o.type.num_elements for o in node.outputs if o is not None and isinstance(o.type, TensorType)]
    if any(s is None for s in sizes):
        made = given  # data-dependent extents (NonZero, Unique) are bounded by the operands
    else:
        made = sum(s for s in sizes if s is not None)
    if made - given > limit:
        return f"the result has {made} elements, {made - given} more than its operands; at most {limit} are allowed"
    if has_trait(node, ANCHOR):
        sizes_in = [a.size for a in operands if a is not None]
        cost = made * max(sizes_in) // max(1, min(s for s in (made, *sizes_in) if s))
        if cost > work:
            return f"computing it takes about {cost} multiply-adds; at most {work} are allowed"
    return None


def evaluate_node(node: Node, operands: list[Array | None], *, own_shapes: bool = True) -> list[Array] | str:
    """The node's results by the reference evaluator, or why it can't tell (wrong type, not implemented, ...).

    Results of other shapes than the graph has are such a reason unless operands of other shapes are given (``own_shapes``).

    In 16-bit floats the evaluator rounds each step: a sum of ones in bfloat16 ends at 256. As in kernels, what computes does so
    in float32, and its result is rounded once.
    """
    names = [f"i{i}" if v is not None else "" for i, v in enumerate(node.inputs)]
    outs = [f"o{i}" if v is not None else "" for i, v in enumerate(node.outputs)]
    proto = node_proto(node, names, outs)
    if not has_trait(node, MOVEMENT) and node.op not in _AS_STORED:
        operands = [a.astype(np.float32) if a is not None and a.dtype in _NARROW else a for a in operands]
    graph = onnx.helper.make_graph(
        [proto],
        "fold",
        [
            onnx.helper.make_tensor_value_info(n, DType.from_numpy(a.dtype).onnx, list(a.shape))
            for n, a in zip(names, operands)
            if a is not None
        ],
        [onnx.helper.make_empty_tensor_value_info(o) for o in outs if o],
    )
    version = onnx.defs.get_schema(node.op).since_version
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", max(version, 18))])
    feeds = {n: a for n, a in zip(names, operands) if a is not None}
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, feeds)
    except Exception as e:  # the evaluator raises whatever numpy or its own code does; a node not folded is no error
        return (
            f"the reference evaluator can't compute it: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
        )
    found: list[Array] = []
    present = iter(results)
    for out in node.outputs:
        if out is None:
            found.append(np.empty(0))
            continue
        array = np.asarray(next(present))
        if isinstance(out.type, TensorType) and out.type.dtype.numpy in _NARROW and array.dtype == np.float32:
            with np.errstate(over="ignore"):
                array = array.astype(out.type.dtype.numpy)
        if not isinstance(out.type, TensorType) or array.dtype != out.type.dtype.numpy:
            return f"the reference evaluator gives {array.dtype} for %{out.name}: {out.type}"
        if own_shapes and out.type.shape is not None and not _fits(out.type, array):
            return f"the reference evaluator gives the shape {list(array.shape)} for %{out.name}: {out.type}"
        found.append(np.ascontiguousarray(array).reshape(array.shape))
    return found


def _fits(type_: TensorType, array: Array) -> bool:
    assert type_.shape is not None
    return len(type_.shape) == array.ndim and all(
        not isinstance(d, int) or d == n for d, n in zip(type_.shape, array.shape)
    )
