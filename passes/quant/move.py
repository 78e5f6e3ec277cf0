"""Quantization moved to where bytes, not floats, are moved: exact rewrites of what keeps elements as they are.

Equal scales and zero points all over a region of such operators make it one in integers, whatever tool placed its QuantizeLinear
and DequantizeLinear: a tool may quantize what a concatenation gives and not what it is made of, or split what it has dequantized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops.context import attr, known_array
from graphopt.ops.registry import GREATEST, PART, has_trait
from graphopt.passes.quant.roles import Role, data_operands, role_of
from graphopt.rewrite.passes import Pass, PassContext, graphs, register_pass

_STORED = (DType.i8, DType.u8, DType.i16, DType.u16)
_LEAST, _MOST = 1e-30, 1e30
"""Scales between which every integer of 16 bits times the scale is a normal number, and gives the integer again when divided."""


@dataclass(frozen=True)
class _Step:
    """How a tensor is quantized as a whole: numbers that are equal where equal bits mean equal values.

    Attributes:
        dtype: of the integers.
        scale: a positive number.
        zero_point: in their type.
    """

    dtype: DType
    scale: float
    zero_point: int


@register_pass
@dataclass(frozen=True)
class MoveQuantization(Pass):
    """Moves DequantizeLinear behind, and QuantizeLinear before what only moves elements or selects the greatest.

    Scales are positive and one for the whole tensor, so that order and elements stay: no result changes by a bit. A
    QuantizeLinear of what a DequantizeLinear of the same scale and zero point gives vanishes.
    """

    name: ClassVar[str] = "move-quantization"

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """In order, so that a DequantizeLinear travels through a whole region at once."""
        for g in list(graphs(graph)):
            editor = ctx.editor(g)
            for node in list(g.nodes):
                if node.graph is g:
                    self._visit(node, editor, ctx)
            for node in reversed(list(g.nodes)):
                if node.graph is g and (lifted := _lifted_step(node)) is not None:
                    _lift(node, *lifted, editor)
                    ctx.applied(node, "quantized before")

    @staticmethod
    def _visit(node: Node, editor: Editor, ctx: PassContext) -> None:
        if node.op == "QuantizeLinear" and not node.domain:
            source = _integers_of(node)
            if source is not None and editor.can_take_name(node.out, source):
                ctx.applied(node, "of what was dequantized alike")
                editor.replace(node.out, source)
                editor.erase_dead([node.out])
            return
        step = _sunk_step(node)
        if step is not None:
            _sink(node, step, editor)
            ctx.applied(node, "moves integers")


def _step(node: Node | None, integers: Value | None) -> _Step | None:
    """How a QuantizeLinear or DequantizeLinear in float32 does it, None unless alike for all of the tensor and known."""
    if node is None or node.domain or integers is None or integers.dtype not in _STORED:
        return None
    if attr(node, "block_size") or attr(node, "precision"):
        return None
    scale_value, zero_value = node.input(1), node.input(2)
    scale = None if scale_value is None else known_array(scale_value)
    zero = np.zeros(1, np.int64) if zero_value is None else known_array(zero_value)
    if scale is None or zero is None or scale.size != 1 or zero.size != 1 or scale.dtype != np.float32:
        return None
    number = float(scale.reshape(-1)[0])
    return _Step(integers.dtype, number, int(zero.reshape(-1)[0])) if _LEAST <= number <= _MOST else None


def _dequantized(value: Value) -> _Step | None:
    """How a value was dequantized, None if it wasn't."""
    node = value.producer
    if node is None or node.op != "DequantizeLinear" or value.dtype is not DType.f32:
        return None
    return _step(node, node.inputs[0])


def _integers_of(node: Node) -> Value | None:
    """What a QuantizeLinear gives again: the integers before the DequantizeLinear of the same kind."""
    x = node.inputs[0]
    if x is None or x.producer is None:
        return None
    before, step = _dequantized(x), _step(node, node.out)
    return x.producer.inputs[0] if before is not None and before == step else None


def _keeps(node: Node) -> list[Value] | None:
    """The operands whose elements a node gives again, None for other nodes."""
    if node.subgraphs or role_of(node) is not Role.KEEPS:
        return None
    operands = [node.input(i) for i in data_operands(node, Role.KEEPS)]
    found = [v for v in operands if v is not None]
    return found if len(found) == len(operands) else None


def _sunk_step(node: Node) -> _Step | None:
    """How all operands of something that moves elements were dequantized, if alike."""
    if has_trait(node, GREATEST):
        return None  # its kernel reads integers as it is
    operands = _keeps(node)
    if not operands:
        return None
    steps = {_dequantized(v) for v in operands}
    return steps.pop() if len(steps) == 1 else None


def _sink(node: Node, step: _Step, editor: Editor) -> None:
    """Move the integers, and dequantize what comes out."""
    stored = [v.producer.inputs[0] if v.producer is not None else None for v in _keeps(node) or ()]
    first = node.inputs[0]
    assert first is not None
    assert first.producer is not None
    parameters = list(first.producer.inputs[1:])
    moved = _moving(node, stored, step, editor)
    for old, integers in zip(node.outputs, moved.outputs):
        if old is None or integers is None or not (old.uses or old.escapes):
            continue
        back = editor.node(
            "DequantizeLinear", [integers, *parameters], name=f"{old.name}_dequantized", before=node, like=[node]
        )
        editor.replace(old, back.out)
    editor.erase_dead([v for v in node.outputs if v is not None])


def _moving(node: Node, stored: Sequence[Value | None], step: _Step, editor: Editor) -> Node:
    """The same node for integers instead of floats."""
    inputs = list(node.inputs)
    for i, value in zip(data_operands(node, Role.KEEPS), stored):
        inputs[i] = value
    if node.op == "Pad" and attr(node, "mode") == "constant" and step.zero_point:
        while len(inputs) < 3:
            inputs.append(None)
        inputs[2] = editor.constant(np.array(step.zero_point, step.dtype.numpy), "zero")
    elif node.op == "Pad" and len(inputs) > 2:
        inputs[2] = None
    while inputs and inputs[-1] is None:
        inputs.pop()
    return editor.node(node.op, inputs, dict(node.attrs), outputs=len(node.outputs), before=node, like=[node])


def _lifted_step(node: Node) -> tuple[_Step, Node] | None:
    """How all that read a node's result quantize it, and one of them; None unless it pays to do so to the operands."""
    operands = _keeps(node)
    if not operands or has_trait(node, PART) or len([o for o in node.outputs if o is not None]) != 1:
        return None
    out = node.out
    readers = [use.node for use in out.uses]
    if out.escapes or not readers or any(r.op != "QuantizeLinear" or r.inputs[0] is not out for r in readers):
        return None
    steps = {_step(r, r.out) for r in readers}
    step = steps.pop() if len(steps) == 1 else None
    if step is None:
        return None
    floats = [v for v in operands if _dequantized(v) != step]
    # what others read too would be stored twice, and what no node computes would get a kernel for its quantization
    if not floats or any(v.producer is None or v.escapes or len(v.uses) != 1 for v in floats):
        return None
    return step, readers[0]


def _lift(node: Node, step: _Step, reader: Node, editor: Editor) -> None:
    """Quantize the operands; what selects the greatest gets them dequantized, its kernel reads the integers."""
    operands = _keeps(node) or []
    quantized: list[Value] = []
    for value in operands:
        attrs = dict(reader.attrs)
        new = editor.node(
            "QuantizeLinear",
            [value, *reader.inputs[1:]],
            attrs,
            name=f"{value.name}_quantized",
            before=node,
            like=[reader],
        )
        quantized.append(new.out)
    if has_trait(node, GREATEST):
        parameters = list(reader.inputs[1:])
        for i, value in zip(data_operands(node, Role.KEEPS), quantized):
            back = editor.node(
                "DequantizeLinear", [value, *parameters], name=f"{value.name}_dequantized", before=node, like=[reader]
            )
            editor.set_input(node, i, back.out)
        return
    moved = _moving(node, quantized, step, editor)
    for use in list(node.out.uses):
        editor.replace(use.node.out, moved.out)
    editor.erase_dead([*(u.node.out for u in node.out.uses), node.out])
