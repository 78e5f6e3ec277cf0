"""Zeros in weights: magnitude, and Wanda, which weighs magnitude by the size of what a weight multiplies.

Wanda: Sun, Liu, Bair, Kolter, "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024
(arXiv:2306.11695): score |w| sqrt(E[x^2]), compared within each output row.

Names, shapes and structure stay; no kernel here skips zeros, so a sparse model is a smaller file, not a faster one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from graphopt.errors import UserError, did_you_mean
from graphopt.ir.editor import Editor, clone
from graphopt.ir.graph import Array, Graph, Node, Use, Value
from graphopt.ops.infer import infer_node
from graphopt.passes.prune.calibration.linear_layer import LinearLayer, linear
from graphopt.passes.prune.calibration.statistics import Statistics
from graphopt.passes.prune.choice.selection import fits
from graphopt.passes.prune.sparse.pattern import (
    UNSTRUCTURED,
    Mask,
    Pattern,
    Scores,
    lowest,
    lowest_in_groups,
    parse_pattern,
)
from graphopt.rewrite.passes import Pass, PassContext, register_pass

Method: TypeAlias = Literal["magnitude", "wanda"]
Scope: TypeAlias = Literal["layer", "global"]

METHODS = ("magnitude", "wanda")
SCOPES = ("layer", "global")
_ROWS_AT_ONCE = 1 << 22
"""Elements scored at a time where rows are compared by themselves."""


@dataclass(frozen=True)
class LayerZeros:
    """Zeros in one layer's weights.

    Attributes:
        layer: node name.
        op: its operator.
        weight: name of the constant before it was changed.
        elements: of the weights.
        before: zeros that were there.
        after: zeros now.
        reason: why the layer was left alone, None when it was not.
    """

    layer: str
    op: str
    weight: str
    elements: int
    before: int
    after: int
    reason: str | None = None


@dataclass(frozen=True)
class _Weight:
    """A constant as one or more layers use it, all with the same axes."""

    value: Value
    layers: tuple[LinearLayer, ...]

    @property
    def layer(self) -> LinearLayer:
        """Any of them: the axes are the same."""
        return self.layers[0]

    @property
    def data(self) -> Array:
        """The elements."""
        assert self.value.data is not None
        return self.value.data

    @property
    def channels(self) -> int:
        """Input channels of a group of the layer."""
        return self.layer.ins // _taps(self.layer)


def sparsify(
    graph: Graph,
    *,
    pattern: str = UNSTRUCTURED,
    ratio: float | None = None,
    method: Method = "magnitude",
    stats: Statistics | None = None,
    scope: Scope = "layer",
    exclude: Sequence[str] = (),
    depthwise: bool = False,
) -> tuple[Graph, tuple[LayerZeros, ...]]:
    """A copy of the graph with zeros in the weights of Conv, ConvTranspose, Gemm and MatMul. The graph is not touched.

    Zeros that are there already count. A constant that several layers use the same way is judged once, for all of them;
    uses that aren't layers, excluded ones, and layers that use it otherwise keep the elements as they were.

    Args:
        graph: to sparsify.
        pattern: ``unstructured``, or N:M such as 2:4 (see ``sparsity_pattern``).
        ratio: part of each layer's weights that become zero; N:M has its own.
        method: ``magnitude`` or ``wanda``.
        stats: gathered on this graph; Wanda needs it.
        scope: ``layer``: the ratio holds in every layer; ``global``: over all weights compared by magnitude, which may empty
            a layer whose weights are small.
        exclude: names or patterns of layers to leave alone.
        depthwise: also layers whose outputs read one input channel each: they have few weights, and each counts. These are
            depthwise convolutions and first layers on pictures of one channel.

    Returns:
        The graph, with all names as they were, and a line for every layer.

    Raises:
        UserError: unknown names, impossible or contradictory requests, nothing to do.
    """
    wanted = _checked(pattern, ratio, method, scope, stats)
    work = clone(graph)
    twins = dict(zip(graph.walk(), work.walk(), strict=True))
    masks, report = _choose(graph, wanted, method, stats, scope, exclude, depthwise)
    _put_zeros(work, {Use(twins[use.node], use.index): mask for use, mask in masks.items()})
    return work, report


@register_pass
@dataclass(frozen=True)
class Sparsify(Pass):
    """Sets the smallest weights of layers to zero; the file gets smaller, nothing gets faster. Results change.

    Attributes:
        ratio: part of each layer's weights that become zero; 0 where the pattern says it.
        pattern: ``unstructured`` or N:M.
        scope: ``layer`` or ``global``.
        exclude: layers to leave alone, by name or pattern.
        depthwise: also layers whose outputs read one input channel each.
    """

    name: ClassVar[str] = "sparsify"
    ratio: float = 0.0
    pattern: str = UNSTRUCTURED
    scope: Scope = "layer"
    exclude: tuple[str, ...] = ()
    depthwise: bool = False

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """By magnitude only: a pass has no calibration data."""
        wanted = _checked(self.pattern, self.ratio or None, "magnitude", self.scope, None)
        nodes = {node.name: node for node in graph.walk()}
        masks, report = _choose(graph, wanted, "magnitude", None, self.scope, self.exclude, self.depthwise)
        _put_zeros(graph, masks)
        for row in report:
            if row.reason is not None:
                ctx.refuse(nodes[row.layer], f"%{row.weight} stays as it is: {row.reason}")
            else:
                ctx.applied(nodes[row.layer], f"{row.after} of {row.elements} elements of %{row.weight} are zero")


def _checked(pattern: str, ratio: float | None, method: str, scope: str, stats: Statistics | None) -> Pattern:
    wanted = parse_pattern(pattern, ratio)
    for word, known, what in ((method, METHODS, "method"), (scope, SCOPES, "scope")):
        if word not in known:
            raise UserError(
                f"there is no sparsity {what} called {word!r}", code=f"unknown-{what}",
                hint=did_you_mean(word, known) or f"known are {' and '.join(known)}",
            )  # fmt: skip
    if method == "wanda" and stats is None:
        raise UserError(
            "wanda needs calibration data", code="needs-calibration", hint="give some, or take method magnitude"
        )
    if scope == "global" and (wanted.is_grouped or method == "wanda"):
        raise UserError(
            f"{'N:M' if wanted.is_grouped else 'wanda'} compares weights within rows, not over the whole model",
            code="contradictory-sparsity", hint="leave the scope out",
        )  # fmt: skip
    return wanted


# -- which layers ---------------------------------------------------------------------------------------------------
def _choose(
    graph: Graph,
    pattern: Pattern,
    method: str,
    stats: Statistics | None,
    scope: str,
    exclude: Sequence[str],
    depthwise: bool,
) -> tuple[dict[Use, Mask], tuple[LayerZeros, ...]]:
    """Which elements become zero, by use, and the report."""
    layers = [layer for node in graph.walk() if (layer := linear(node)) is not None]
    _check_names(exclude, [layer.node.name for layer in layers])
    reasons = {layer.node: _reason(layer, pattern, stats, exclude, depthwise) for layer in layers}
    weights = _weights([layer for layer in layers if reasons[layer.node] is None])
    if not weights:
        listed = [f"{node.name}: {reason}" for node, reason in reasons.items()]
        raise UserError(
            "no layer's weights can be made sparse" if layers else "the model has no layers with constant weights",
            code="nothing-to-sparsify",
            notes=[*listed[:5], *([f"and {len(listed) - 5} more"] if len(listed) > 5 else [])],
            hint="layers are Conv, ConvTranspose, Gemm and MatMul; `graphopt optimize` first may turn weights into constants",
        )
    chosen = _by_rank(weights, pattern.ratio) if scope == "global" else _each(weights, pattern, stats)
    masks: dict[Use, Mask] = {}
    for weight, zeros in chosen:
        masks.update({layer.weight: zeros for layer in weight.layers})
    return masks, tuple(_row(layer, masks.get(layer.weight), reasons[layer.node]) for layer in layers)


def _check_names(patterns: Sequence[str], known: Sequence[str]) -> None:
    for pattern in patterns:
        if not fits(pattern, known):
            raise UserError(
                f"no layer is called {pattern!r}", code="unknown-layer",
                hint=did_you_mean(pattern, known) or "the report lists the layers; * and ? may stand in names",
            )  # fmt: skip


def _reason(
    layer: LinearLayer, pattern: Pattern, stats: Statistics | None, exclude: Sequence[str], depthwise: bool
) -> str | None:
    """Why a layer is left alone."""
    channels = layer.ins // _taps(layer)
    if any(fits(p, [layer.node.name]) for p in exclude):
        return "it is excluded"
    if channels == 1 and not (depthwise and not pattern.is_grouped):
        return "its outputs read one input channel each"
    if pattern.is_grouped and channels <= pattern.kept:
        return f"{pattern} leaves all of its {channels} input channels"
    if stats is not None and layer.weight not in stats:
        return "no calibration data reached it"
    return None


def _weights(layers: Sequence[LinearLayer]) -> list[_Weight]:
    """Layers by the constant and the axes that they use."""
    found: dict[tuple[Value, tuple[int, ...], tuple[int, ...]], list[LinearLayer]] = {}
    for layer in layers:
        axes = weight_rows(layer, layer.w.data) if layer.w.data is not None else None
        assert axes is not None
        found.setdefault((layer.w, axes.shape, axes.strides), []).append(layer)
    return [_Weight(value, tuple(same)) for (value, *_), same in found.items()]


def _row(layer: LinearLayer, mask: Mask | None, reason: str | None) -> LayerZeros:
    data = layer.w.data
    assert data is not None
    zero = data == 0
    after = zero if mask is None else zero | mask
    counts = int(np.count_nonzero(zero)), int(np.count_nonzero(after))
    return LayerZeros(layer.node.name, layer.node.op, layer.w.name, data.size, *counts, reason)


# -- which elements -------------------------------------------------------------------------------------------------
def _taps(layer: LinearLayer) -> int:
    """Taps in a row of the layer; a transposed convolution's row is one pixel's channels."""
    assert layer.w.data is not None
    return int(np.prod(layer.w.data.shape[2:])) if layer.node.op == "Conv" else 1


def weight_rows(layer: LinearLayer, array: Array) -> Array:
    """A view of a contiguous array of the weight's shape as [groups, outputs, channels, taps]."""
    g, m, k = layer.groups, layer.outs, layer.ins
    view: Array
    if layer.node.op == "Conv":
        view = array.reshape(g, m, k // _taps(layer), _taps(layer))
    elif layer.node.op == "ConvTranspose":
        view = array.reshape(g, k, m).transpose(0, 2, 1)[..., None]
    else:
        view = (array if layer.rows_first else array.T)[None, :, :, None]
    return view


def _each(weights: Sequence[_Weight], pattern: Pattern, stats: Statistics | None) -> Iterator[tuple[_Weight, Mask]]:
    """Zeros weight by weight: over all of it by magnitude, row by row with statistics, group by group for N:M."""
    for weight in weights:
        zeros = np.zeros(weight.data.shape, bool)
        if stats is None and not pattern.is_grouped:
            flat = np.abs(weight.data).reshape(1, -1)
            yield weight, lowest(flat, round(pattern.ratio * flat.size)).reshape(zeros.shape)
            continue
        view, out = weight_rows(weight.layer, np.ascontiguousarray(weight.data)), weight_rows(weight.layer, zeros)
        scale = None if stats is None else _scale(weight, stats)
        step = max(1, _ROWS_AT_ONCE // weight.layer.ins)
        for group in range(view.shape[0]):
            for first in range(0, view.shape[1], step):
                scores: Scores = np.abs(view[group, first : first + step], dtype=np.float32)
                if scale is not None:
                    scores *= scale[group]
                out[group, first : first + step] = _in_rows(scores, pattern)
        yield weight, zeros


def _in_rows(scores: Scores, pattern: Pattern) -> Mask:
    """Zeros of rows [rows, channels, taps]."""
    if pattern.is_grouped:
        return np.moveaxis(lowest_in_groups(np.moveaxis(scores, 1, 2), pattern.kept, pattern.of), 2, 1)
    flat = scores.reshape(len(scores), -1)
    return lowest(flat, round(pattern.ratio * flat.shape[1])).reshape(scores.shape)


def _scale(weight: _Weight, stats: Statistics) -> Scores:
    """sqrt(E[x^2]) as [groups, channels, taps]; layers that share the weights add their energies."""
    layer = weight.layer
    energy = np.sum([stats.energy(each.weight) for each in weight.layers], axis=0)
    scale: Scores = np.sqrt(energy).astype(np.float32).reshape(layer.groups, weight.channels, _taps(layer))
    return scale


def _by_rank(weights: Sequence[_Weight], ratio: float) -> Iterator[tuple[_Weight, Mask]]:
    """The smallest of all weights together; a constant counts once, however its layers read it."""
    sizes = {w.value: w.data for w in weights}
    scores = np.concatenate([np.abs(data, dtype=np.float32).reshape(-1) for data in sizes.values()])
    zeros, at = lowest(scores[None], round(ratio * scores.size))[0], 0
    masks = {}
    for value, data in sizes.items():
        masks[value] = zeros[at : at + data.size].reshape(data.shape)
        at += data.size
    return ((weight, masks[weight.value]) for weight in weights)


# -- the change -----------------------------------------------------------------------------------------------------
def _put_zeros(graph: Graph, masks: dict[Use, Mask]) -> None:
    """Zero the masked elements, in constants of the same names; those that are also used otherwise are split."""
    by_value: dict[Value, dict[int, list[Use]]] = {}
    arrays: dict[tuple[Value, int], Array] = {}
    for use, mask in masks.items():
        value = use.node.inputs[use.index]
        assert value is not None
        assert value.data is not None
        key = id(mask)  # one mask a constant and way of using it
        by_value.setdefault(value, {}).setdefault(key, []).append(use)
        if (value, key) not in arrays:
            arrays[value, key] = np.where(mask, value.data.dtype.type(0), value.data)
    for value, groups in by_value.items():
        spared = value.escapes > 0 or len(value.uses) > sum(map(len, groups.values()))
        for position, (key, uses) in enumerate(groups.items()):
            editor = Editor(_graph_of(uses[0].node), infer_node)
            if position == 0 and not spared:
                editor.set_constant(value, arrays[value, key])
                continue
            own = editor.constant(arrays[value, key], value.name)
            for use in uses:
                Editor(_graph_of(use.node), infer_node).set_input(use.node, use.index, own)


def _graph_of(node: Node) -> Graph:
    assert node.graph is not None
    return node.graph
