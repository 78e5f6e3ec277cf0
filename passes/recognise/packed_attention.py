"""Attention that reads the heads where the products before it have put them, side by side in each row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.dims import Dim
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops.registry import RESHAPE, has_trait
from graphopt.passes.recognise.strided_view import StridedView, row_major, views
from graphopt.rewrite.passes import Pass, PassContext, register_pass


@dataclass(frozen=True)
class _Columns:
    """Neighbouring columns of a tensor [batch, length, width].

    Attributes:
        source: the tensor.
        first, count: the columns.
        factor: that they are multiplied with.
    """

    source: Value
    first: int
    count: int
    factor: float

    @property
    def is_whole(self) -> bool:
        """Whether they are all columns."""
        return self.first == 0 and self.source.shape[2] == self.count


@register_pass
@dataclass(frozen=True)
class PackAttention(Pass):
    """Attention over [batch, heads, length, size] whose operands are views of [batch, length, heads * size] -> that form of it.

    The reshapes and transpositions around it are dead then, and factors of queries and keys become part of the scale. Where the
    operands are columns of one product, as exporters write a layer that makes queries, keys and values, each gets a product of
    its own: its rows lie in memory as the kernel reads them. Where an operand isn't such a view (keys that come out of a cache),
    operands are read ahead of transpositions that cancel, of factors, and of keys and values repeated for groups of heads.
    """

    name: ClassVar[str] = "pack-attention"

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Rewrite every Attention of the graph and its subgraphs."""
        for g in _graphs(graph):
            for node in list(g.nodes):
                if node.op == "Attention" and not node.domain and node.graph is g:
                    reason = _pack(node, ctx.editor(g))
                    if reason is None:
                        ctx.applied(node, "reads heads where they lie", "pack-attention")
                    elif _read_plain(node, ctx.editor(g)):
                        ctx.applied(
                            node, "reads operands ahead of what only moves, repeats or scales them", "pack-attention"
                        )
                    else:
                        ctx.refuse(node, reason, "pack-attention")


def _graphs(graph: Graph) -> list[Graph]:
    found = [graph]
    for g in found:  # grows meanwhile
        found += [s for n in g.nodes for s in n.subgraphs]
    return found


def _pack(node: Node, editor: Editor) -> str | None:
    """Rewrite an Attention; why not, if it can't be."""
    operands = _operands(node)
    if operands is None:
        return "its operands have not four axes, or it has a cache"
    found = [_columns(value) for value in operands]
    if not all(found):
        return "an operand is no view of rows that hold all heads"
    # the columns of what all are made of, or the rows that were cut from it
    ways = ([c[-1] for c in found], [c[0] for c in found])
    q, k, v = next((way for way in ways if _can_be_read(way)), (None, None, None))
    if q is None or k is None or v is None:
        return "its operands are columns of something else, or its values are multiplied with a number"
    result = node.out
    (_, heads, _, size), kv_heads, width = operands[0].shape, operands[1].shape[1], result.shape[3]
    if not (isinstance(heads, int) and isinstance(kv_heads, int) and isinstance(size, int) and isinstance(width, int)):
        return "heads or vectors of unknown size"
    scale = _scale(node, size) * q.factor * k.factor
    attrs = {**node.attrs, "scale": scale, "q_num_heads": heads, "kv_num_heads": kv_heads}
    packed = [c.source if c.is_whole else _product_of(c, editor, node) for c in (q, k, v)]
    rows = editor.node("Attention", [*packed, node.input(3)], attrs, before=node, like=[node]).out
    shape = editor.constant(np.asarray([0, 0, heads, width], np.int64), "shape")  # 0: as many as there are
    split = editor.node("Reshape", [rows, shape], {}, before=node, like=[node]).out
    editor.replace(result, editor.node("Transpose", [split], {"perm": [0, 2, 1, 3]}, before=node, like=[node]).out)
    return None


def _operands(node: Node) -> list[Value] | None:
    """Queries, keys and values over four axes of an Attention without a cache that gives nothing but its result; None of others."""
    found = [v for v in node.inputs[:3] if v is not None and len(v.shape) == 4]
    alone = all(v is None for v in node.inputs[4:]) and all(o is None for o in node.outputs[1:])
    return found if len(found) == 3 and alone else None


def _scale(node: Node, size: int) -> float:
    """What scores are multiplied with."""
    scale = node.attrs.get("scale")
    return 1 / math.sqrt(size) if scale is None else float(scale)


def _read_plain(node: Node, editor: Editor) -> bool:
    """Have an Attention over four axes read its operands ahead of what only moves, repeats or scales them; whether it could."""
    given = _operands(node)
    if given is None:
        return False
    (q, by_q), (k, by_k), (v, by_v) = (_plain_source(value) for value in given)
    if by_v != 1:
        v = given[2]
    key, value = _ungrouped(given[1]), _ungrouped(given[2])
    if key is not None and value is not None and value[1] == 1 and key[0].shape[1] == value[0].shape[1]:
        (k, by_k), v = key, value[0]
    size = q.shape[3]
    if [q, k, v] == given or not isinstance(size, int):
        return False
    attrs = {**node.attrs, "scale": _scale(node, size) * by_q * by_k}
    plain = editor.node("Attention", [q, k, v, node.input(3)], attrs, before=node, like=[node])
    editor.replace(node.out, plain.out)
    return True


def _plain_source(value: Value) -> tuple[Value, float]:
    """The value furthest up that a value is but for a factor, and that factor."""
    found = value, 1.0
    for view in _in_order(value):
        if view.source.shape == value.shape and not view.source.is_const:
            found = view.source, view.factor
    return found


def _in_order(value: Value) -> Iterator[StridedView]:
    """The views that have the elements of all of a tensor in their order."""
    for view in views(value):
        plain = zip(view.shape, view.strides, row_major(value.shape))
        if view.offset == 0 and all(d == 1 or have == want for d, have, want in plain):
            yield view


def _ungrouped(value: Value) -> tuple[Value, float] | None:
    """Heads [batch, groups, length, size] out of heads that are these, each repeated for all of its group, and a factor."""
    batch, heads, length, size = value.shape
    for view in _in_order(value):
        expand = view.source.producer
        if expand is None or expand.op != "Expand" or expand.domain or expand.inputs[0] is None:
            continue
        narrow, wide = expand.inputs[0].shape, expand.out.shape
        if len(narrow) != 5 or len(wide) != 5 or narrow[2] != 1 or (narrow[:2], narrow[3:]) != (wide[:2], wide[3:]):
            continue
        unsqueeze = expand.inputs[0].producer
        source = unsqueeze.input(0) if unsqueeze is not None and has_trait(unsqueeze, RESHAPE) else None
        grouped = (wide[0], wide[1] * wide[2], *wide[3:]) == (batch, heads, length, size)
        if grouped and source is not None and source.shape == (*narrow[:2], *narrow[3:]):
            return source, view.factor
    return None


def _can_be_read(parts: list[_Columns]) -> bool:
    """Whether queries, keys and values can be operands of the packed form."""
    whole = all(c.is_whole for c in parts)
    return parts[2].factor == 1 and (whole or _are_columns_of_one_product(parts))


def _columns(value: Value) -> list[_Columns]:
    """The columns of which a value [batch, heads, length, size] is made, those nearest to it first."""
    batch, heads, length, size = value.shape
    if not isinstance(heads, int) or not isinstance(size, int):
        return []
    found = (_columns_of(view, batch, heads, length, size) for view in views(value))
    return [columns for columns in found if columns is not None]


def _columns_of(view: StridedView, batch: Dim, heads: int, length: Dim, size: int) -> _Columns | None:
    source = view.source
    if source.is_const or len(source.shape) != 3 or source.shape[:2] != (batch, length):
        return None
    width = source.shape[2]
    if not isinstance(width, int) or not isinstance(view.offset, int) or view.offset + heads * size > width:
        return None
    wanted = (length * width, size, width, 1)
    fits = all(d == 1 or have == want for d, have, want in zip(view.shape, view.strides, wanted))
    return _Columns(source, view.offset, heads * size, view.factor) if fits else None


def _are_columns_of_one_product(parts: list[_Columns]) -> bool:
    """Whether parts cover the result of a product with a constant that nothing else reads."""
    source, taken = parts[0].source, sorted((c.first, c.count) for c in parts)
    if any(c.source is not source for c in parts) or source.escapes:
        return False
    ends = [0, *(first + count for first, count in taken)]
    if [first for first, _ in taken] != ends[:-1] or ends[-1] != source.shape[2]:
        return False
    product, _ = _product(source)
    return product is not None and all(_only_moves(use.node) for use in source.uses)


def _only_moves(node: Node) -> bool:
    return not node.domain and node.op in (
        "Reshape",
        "Transpose",
        "Slice",
        "Split",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Gather",
    )


def _product(value: Value) -> tuple[Node | None, Value | None]:
    """The MatMul with a constant matrix that makes a value, and the constant row that is added to it."""
    node = value.producer
    bias: Value | None = None
    if node is not None and node.op == "Add" and not node.domain:
        a, b = node.inputs
        assert a is not None
        assert b is not None
        value, bias = (b, a) if a.is_const else (a, b)
        if bias.data is None or bias.data.shape != (value.shape[-1],) or len(value.uses) != 1 or value.escapes:
            return None, None
        node = value.producer
    if node is None or node.domain or node.op != "MatMul":
        return None, None
    weight = node.inputs[1]
    return (node, bias) if weight is not None and weight.data is not None and weight.data.ndim == 2 else (None, None)


def _product_of(columns: _Columns, editor: Editor, before: Node) -> Value:
    """Some columns of a product, as a product with as many columns of the constant."""
    node, bias = _product(columns.source)
    assert node is not None
    weight = node.inputs[1]
    assert weight is not None
    assert weight.data is not None
    taken = slice(columns.first, columns.first + columns.count)
    part = editor.constant(np.ascontiguousarray(weight.data[:, taken]), weight.name)
    out = editor.node("MatMul", [node.inputs[0], part], {}, before=before, like=[node]).out
    if bias is None:
        return out
    assert bias.data is not None
    row = editor.constant(np.ascontiguousarray(bias.data[taken]), bias.name)
    return editor.node("Add", [out, row], {}, before=before, like=[node]).out
