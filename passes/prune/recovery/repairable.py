"""Which layers of a pruned graph can be repaired, and how new weights get into them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Array, Graph, Use, Value
from graphopt.ops.context import attr
from graphopt.ops.registry import BIAS, has_trait
from graphopt.passes.prune.calibration.linear_layer import LinearLayer, Matrix, linear_layers
from graphopt.passes.prune.plan import PrunePlan
from graphopt.passes.prune.recovery.least_squares import Affine


@dataclass(frozen=True)
class Unit:
    """Layers with the same weights, repaired together; nearly always one.

    Attributes:
        names: of the nodes.
        lost: whether input channels are gone.
        depth: longest chain of affected layers that ends here, 1 for the first.
        problem: why it must stay as it is, None when it can be repaired.
    """

    names: tuple[str, ...]
    lost: bool
    depth: int
    problem: str | None


def sliced(plan: PrunePlan, value: Value, array: Array) -> Array:
    """An array of a value of the original graph, without the channels that the plan removes from it."""
    for axis, mask in enumerate(plan.keep(value)):
        if mask is not None and not mask.all():
            array = np.compress(mask, array, axis)
    return array


def loses(plan: PrunePlan, value: Value) -> bool:
    """Whether the plan takes anything from a value."""
    return any(mask is not None and not mask.all() for mask in plan.keep(value))


def affected_units(plan: PrunePlan, pruned: Graph) -> list[Unit]:
    """Layers of the pruned graph whose inputs lost channels or come from such layers, in graph order."""
    originals, layers = linear_layers(plan.groups.graph), linear_layers(pruned)
    lost = {v.name for node in plan.groups.graph.nodes for v in node.outputs if v is not None and loses(plan, v)}
    level: dict[Value, int] = {}  # of values that differ from the original's, or may
    depths: dict[str, int] = {}
    for node in pruned.nodes:
        operands = [v for v in node.inputs if v is not None]
        if not any(v in level or v.name in lost for v in operands):
            continue
        depth = max(level.get(v, 0) for v in operands)
        if node.name in layers and node.name in originals:
            depth += 1
            depths[node.name] = depth
        level.update((v, depth) for v in node.outputs if v is not None)
    shared: dict[Value, list[str]] = defaultdict(list)
    for name in depths:
        shared[layers[name].w].append(name)
    return [
        Unit(
            tuple(names),
            any(loses(plan, originals[n].x) for n in names),
            max(depths[n] for n in names),
            _problem([layers[n] for n in names]),
        )
        for names in shared.values()
    ]


def _problem(layers: Sequence[LinearLayer]) -> str | None:
    first = layers[0]
    weight = first.w
    if set(weight.uses) - {layer.weight for layer in layers} or weight.escapes:
        return f"its weights %{weight.name} are used elsewhere too"
    if len({(layer.node.op, layer.groups, layer.outs, layer.ins, _scale(layer)) for layer in layers}) > 1:
        return f"layers that share %{weight.name} use it in different ways"
    if len({_bias(layer) for layer in layers}) > 1:
        return f"layers that share %{weight.name} have different biases"
    bias = _bias(first)
    if bias is not None and bias.data is None:
        return f"its bias %{bias.name} is computed at run time"
    if bias is not None and not _per_channel(first, bias):
        return f"its bias %{bias.name} is not one number a channel"
    return None


# -- reading ----------------------------------------------------------------------------------------------------------
def affine(layer: LinearLayer) -> Affine:
    """What the layer does to rows now. The offset is what it adds to its results itself; products get none."""
    assert layer.w.data is not None
    offset = np.zeros((layer.groups, layer.outs))
    bias = _bias(layer)
    if bias is not None and has_trait(layer.node, BIAS) and not layer.gives_products:
        offset += _spread_out(layer, bias) * _beta(layer)
    return Affine(layer.matrix(layer.w.data) * _scale(layer), offset)


def takes_bias(layer: LinearLayer) -> bool:
    """Whether an offset can be put into the graph without a node more."""
    return has_trait(layer.node, BIAS) or _add_after(layer) is not None


def _bias(layer: LinearLayer) -> Value | None:
    if has_trait(layer.node, BIAS):
        return layer.node.input(2)
    use = _add_after(layer)
    return None if use is None else use.node.input(use.index)


def _add_after(layer: LinearLayer) -> Use | None:
    """The constant operand of the Add that a MatMul's result goes into alone, one number a channel."""
    use = layer.node.out.only_use
    if layer.node.op != "MatMul" or layer.weight.index == 0 or use is None or use.node.op != "Add" or use.node.domain:
        return None
    other = use.node.input(1 - use.index)
    if other is None or other.data is None or other.data.ndim > len(layer.node.out.shape):
        return None
    fits = other.data.shape[-1:] == (layer.outs,) and other.data.size == layer.outs
    return Use(use.node, 1 - use.index) if fits else None


def _per_channel(layer: LinearLayer, bias: Value) -> bool:
    assert bias.data is not None
    if layer.node.op == "Gemm" and layer.weight.index == 0:
        return bias.data.size == 1 or (bias.data.ndim == 2 and bias.data.shape == (layer.outs, 1))
    return bias.data.size in (1, layer.channels_out) and bias.data.shape[-1:] in ((), (bias.data.size,))


def _spread_out(layer: LinearLayer, bias: Value) -> Matrix:
    assert bias.data is not None
    flat = np.asarray(bias.data, np.float64).reshape(-1)
    return np.broadcast_to(flat, layer.channels_out).reshape(layer.groups, -1)


def _scale(layer: LinearLayer) -> float:
    return float(attr(layer.node, "alpha")) if layer.node.op == "Gemm" else 1.0


def _beta(layer: LinearLayer) -> float:
    return float(attr(layer.node, "beta")) if layer.node.op == "Gemm" else 1.0


# -- writing ----------------------------------------------------------------------------------------------------------
def put(editor: Editor, layers: Sequence[LinearLayer], new: Affine, density: float = 1.0) -> None:
    """Give the layers of a unit new weights and the offset that goes with them.

    Args:
        density: rows an output position, for products that are summed into positions (ConvTranspose).
    """
    first = layers[0]
    old = affine(first)
    assert first.w.data is not None
    scale = _scale(first)
    editor.set_constant(first.w, first.array(new.weight / (scale or 1.0), first.w.data))
    change = new.offset - old.offset
    if first.gives_products:
        change = change.reshape(first.channels_out, -1).sum(1) * density
    if not change.any():
        return
    bias = _bias(first)
    now = np.zeros(first.channels_out) if bias is None else _spread_out(first, bias).reshape(-1) * _beta(first)
    total = (now + change.reshape(-1)).astype(first.w.data.dtype)
    _put_bias(editor, layers, bias, total)


def _put_bias(editor: Editor, layers: Sequence[LinearLayer], bias: Value | None, total: Array) -> None:
    first = layers[0]
    if first.node.op == "Gemm":
        for layer in layers:
            editor.set_attr(layer.node, "beta", None)
        if first.weight.index == 0:
            total = total[:, None]
    uses = [_add_after(layer) or Use(layer.node, 2) for layer in layers]
    if bias is not None and bias.data is not None:
        if first.node.op == "MatMul":
            total = total.reshape(bias.data.shape)
        if not bias.escapes and set(bias.uses) <= set(uses) and bias.data.shape == total.shape:
            editor.set_constant(bias, total)
            return
    fresh = editor.constant(total, bias.name if bias is not None else f"{first.node.name}.bias")
    for use in uses:
        editor.set_input(use.node, use.index, fresh)
