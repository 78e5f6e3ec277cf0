"""What each operator makes of known numbers (see ``zeros``): one function a family of operators."""

from __future__ import annotations

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Array, Graph, Node, Value
from graphopt.ops.context import attr
from graphopt.ops.infer import infer_node
from graphopt.ops.registry import BROADCAST, MOVEMENT, UNARY, has_trait
from graphopt.passes.fold.constants import evaluate_node
from graphopt.passes.prune.dead.zero_products import convolution, product
from graphopt.passes.prune.dead.zeros import FactRule, Facts, Known, Mask, Zeros, operand, or_none
from graphopt.passes.prune.labels import Labelling, RuleContext, shape_of
from graphopt.passes.prune.rules.registry import label_rule

_ZERO_KEEPING = frozenset({
    "AveragePool", "Dropout", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GridSample", "LpPool", "MaxPool",
    "Pad", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
    "Resize",
})  # fmt: skip
"""A channel of zeros gives zeros; other numbers may meet padding or a count."""
_ABSORBING = frozenset({"Mul", "And", "BitwiseAnd"})
_PER_ELEMENT = ("Cast", "Clip", "IsNaN", "IsInf")


def rule_of(node: Node) -> FactRule | None:
    """The rule of a node's operator."""
    if node.domain:
        return None
    if node.op in _RULES:
        return _RULES[node.op]
    if has_trait(node, MOVEMENT) or node.op in _ZERO_KEEPING:
        return moved
    if node.op in _PER_ELEMENT or has_trait(node, UNARY) or has_trait(node, BROADCAST):
        return element_wise
    return None


# -- element-wise -----------------------------------------------------------------------------------------------
def element_wise(z: Zeros, node: Node, index: int) -> Facts:
    """Known operands are computed with; a zero decides a product alone."""
    if index or not _may_know(z, node):
        return []
    shape = node.out.shape
    return [_along(z, node, axis, d) if isinstance(d, int) else None for axis, d in enumerate(shape)]


def _may_know(z: Zeros, node: Node) -> bool:
    if z.any_known(node):
        return True
    if node.op not in _ABSORBING:
        return False
    consts = [v.data for v in node.inputs if v is not None and v.data is not None]
    return any(bool((data == 0).any()) for data in consts)


def _along(z: Zeros, node: Node, axis: int, extent: int) -> Known | None:
    operands = [None if v is None else _operand(z, node, i, axis, extent) for i, v in enumerate(node.inputs)]
    present = [k for k, v in zip(operands, node.inputs) if v is not None]
    if node.op == "PRelu":  # below zero only it takes notice of the slope
        x = operands[0]
        return None if x is None else or_none(x.mask & (x.value >= 0), x.value)
    if node.op == "Where":
        a, b = operands[1:]
        return None if a is None or b is None else or_none(a.mask & b.mask & (a.value == b.value), a.value)
    mask, value = np.zeros(extent, bool), np.zeros(extent, node.out.dtype.numpy)
    known = [k for k in present if k is not None]
    if len(known) == len(present):
        mask = np.asarray(np.logical_and.reduce([k.mask for k in known]))
        numbers = _compute(node, operands, mask) if mask.any() else None
        if numbers is None:
            mask = np.zeros(extent, bool)
        else:
            value[mask] = numbers
            mask = mask & np.isfinite(value.astype(np.float64))
    if node.op in _ABSORBING:
        zero = np.asarray(np.logical_or.reduce([k.zero for k in known])) if known else np.zeros(extent, bool)
        mask, value = mask | zero, np.where(zero, np.zeros((), value.dtype), value)
    return or_none(mask, value)


def _operand(z: Zeros, node: Node, index: int, axis: int, extent: int) -> Known | None:
    """What is known of an operand along an axis of the result."""
    source = operand(node, index)
    value = node.inputs[index]
    assert value is not None
    shape = shape_of(value)
    if shape is None:
        return None
    at = axis - (len(node.out.shape) - len(shape))
    if at >= 0 and shape[at] == extent and extent != 1:
        return z.known(source, at)
    number = z.whole(source)
    return None if number is None else Known(np.ones(extent, bool), np.broadcast_to(number, (extent,)))


def _compute(node: Node, operands: list[Known | None], mask: Mask) -> Array | None:
    """The operator on vectors of known numbers; what it wants as a single number is given as one."""
    editor = Editor(Graph("known"), infer_node)
    inputs: list[Value | None] = []
    for value, known in zip(node.inputs, operands):
        if value is None or known is None:
            inputs.append(None)
        elif value.data is not None and value.data.size == 1:
            inputs.append(editor.constant(value.data.reshape(())))
        else:
            inputs.append(editor.constant(np.ascontiguousarray(known.value[mask])))
    made = editor.node(node.op, inputs, node.attrs, outputs=1)
    found = evaluate_node(made, [None if v is None else v.data for v in made.inputs])
    return None if isinstance(found, str) else np.broadcast_to(found[0], (int(mask.sum()),))


# -- movement ---------------------------------------------------------------------------------------------------
def moved(z: Zeros, node: Node, index: int) -> Facts:
    """Where pruning's own labels go, the elements go: what carries one label in the result is made of nothing but what
    carries that label in the operands."""
    rule = label_rule(node)
    if rule is None or not z.any_known(node) or not _zero_stays(node) or (index and node.op != "Split"):
        return []
    if any(v is not None and shape_of(v) is None for v in (*node.inputs, *node.outputs)):
        return []
    labelling = Labelling(z.graph)
    for value in node.inputs:
        if value is not None and not value.is_const:
            axes = [labelling.tokens.fresh(d) if isinstance(d, int) else None for d in value.shape]
            labelling.slots.setdefault(value, axes)
    rule(RuleContext(labelling, node))
    labelling.tokens.settle()
    tokens = labelling.tokens
    numbers: dict[int, object] = {}
    for i, value in enumerate(node.inputs):
        if value is None:
            continue
        source = operand(node, i)
        for axis, labels in enumerate(labelling.slots.get(source, [])):
            if labels is None:
                continue
            known = z.known(source, axis)
            if known is not None and node.op in _ZERO_KEEPING:
                known = known.only_zero()
            for position, token in enumerate(labels.tolist()):
                number = known.value[position] if known is not None and known.mask[position] else None
                for atom in tokens.atoms(token):
                    if numbers.setdefault(atom, number) != number:
                        numbers[atom] = None
    out = node.outputs[index]
    assert out is not None
    return [
        None if labels is None else _from_atoms([tokens.atoms(t) for t in labels.tolist()], numbers, out)
        for labels in labelling.slots.get(out, [None] * len(out.shape))
    ]


def _from_atoms(atoms: list[tuple[int, ...]], numbers: dict[int, object], out: Value) -> Known | None:
    mask, value = np.zeros(len(atoms), bool), np.zeros(len(atoms), out.dtype.numpy)
    for position, parts in enumerate(atoms):
        for atom in parts:
            number = numbers.get(atom)
            if number is not None:
                mask[position], value[position] = True, number
    return or_none(mask, value)


def _zero_stays(node: Node) -> bool:
    """Whether nothing but the operand's own elements comes in."""
    if node.op == "Pad":
        filler = node.input(2)
        zero = filler is None or (filler.data is not None and not filler.data.any())
        return attr(node, "mode") != "constant" or zero
    return node.op != "Resize" or attr(node, "coordinate_transformation_mode") != "tf_crop_and_resize"


# -- normalisation and quantisation -----------------------------------------------------------------------------
def normalisation(z: Zeros, node: Node, index: int) -> Facts:
    """BatchNormalization, InstanceNormalization, GroupNormalization: a scale of zero leaves the bias."""
    shape = node.out.shape
    scale, bias = (z.known(operand(node, i), 0) for i in (1, 2))
    if index or scale is None or bias is None or not isinstance(shape[1], int) or len(scale.mask) != shape[1]:
        return []
    if attr(node, "training_mode"):
        return []
    mask, value = scale.zero & bias.mask, bias.value
    x = z.known(operand(node, 0), 1)
    if node.op == "InstanceNormalization" and x is not None:
        mask = mask | (x.zero & bias.mask)
    if node.op == "BatchNormalization" and x is not None:
        mean, var = (z.known(operand(node, i), 0) for i in (3, 4))
        if mean is not None and var is not None:
            wide = [k.value.astype(np.float64) for k in (x, scale, bias, mean, var)]
            with np.errstate(all="ignore"):
                through = (wide[0] - wide[3]) / np.sqrt(wide[4] + float(attr(node, "epsilon"))) * wide[1] + wide[2]
            given = x.mask & scale.mask & bias.mask & mean.mask & var.mask & np.isfinite(through) & ~mask
            mask, value = mask | given, np.where(given, through, value).astype(value.dtype)
    return [None, or_none(mask, value), *[None] * (len(shape) - 2)]


def dequantized(z: Zeros, node: Node, index: int) -> Facts:
    """DequantizeLinear: (x - zero point) * scale; QuantizeLinear of zero is the zero point."""
    if attr(node, "block_size"):
        return []
    x = node.inputs[0]
    assert x is not None
    quantizes = node.op == "QuantizeLinear"
    if not x.is_const and not z.any_known(node):
        return []
    facts: Facts = []
    for axis, extent in enumerate(node.out.shape):
        known = z.known(operand(node, 0), axis) if isinstance(extent, int) else None
        point = None if known is None else _zero_point(z, node, axis, known)
        if known is None or point is None:
            facts.append(None)
        elif quantizes:
            facts.append(or_none(known.zero & point.mask, point.value.astype(node.out.dtype.numpy)))
        else:
            facts.append(Known.zeros(known.mask & point.mask & (known.value == point.value), node.out.dtype.numpy))
    return facts


def _zero_point(z: Zeros, node: Node, axis: int, x: Known) -> Known | None:
    """The zero point along an axis of the data."""
    value = node.input(2)
    extent = len(x.mask)
    if value is None:
        return Known(np.ones(extent, bool), np.zeros(extent, x.value.dtype))
    if value.data is None:
        return None
    if value.data.size == 1 or (value.data == value.data.reshape(-1)[0]).all():
        return Known(np.ones(extent, bool), np.broadcast_to(value.data.reshape(-1)[0], (extent,)))
    own = int(attr(node, "axis")) % len(node.out.shape)
    return Known(np.ones(extent, bool), value.data) if own == axis and value.data.shape == (extent,) else None


_RULES: dict[str, FactRule] = {
    "Conv": convolution,
    "ConvTranspose": convolution,
    "Gemm": product,
    "MatMul": product,
    "BatchNormalization": normalisation,
    "InstanceNormalization": normalisation,
    "GroupNormalization": normalisation,
    "DequantizeLinear": dequantized,
    "QuantizeLinear": dequantized,
}
