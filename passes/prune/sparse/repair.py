"""The weights that stay after others became zero, set anew so that each layer's results change least on calibration data.

For every row w of a layer's weights and its sparse support S: least squares of (w - v) x over the data, v zero outside S, and
the bias free where the layer has one. Solved by conjugate gradients for all rows at once (Hestenes and Stiefel 1952, scaled
by the diagonal): one matrix product a step, where factoring a matrix for each row's support would take K times as long.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Value
from graphopt.ops.context import attr
from graphopt.ops.infer import infer_node
from graphopt.passes.prune.calibration.linear_layer import LinearLayer, linear_layers
from graphopt.passes.prune.calibration.statistics import Statistics

Rows = npt.NDArray[np.float64]

STEPS = 40
TOLERANCE = 1e-3
"""Residual over the first one at which a row is done."""
DAMPING = 1e-4
"""Pull towards the weights as they are, over the mean of the diagonal: what the data doesn't determine stays."""


@dataclass(frozen=True)
class Repaired:
    """Names of layers.

    Attributes:
        layers: whose weights were set anew.
        left: sparse ones that weren't: rows too long for their products to be kept, not seen, or weights shared.
    """

    layers: tuple[str, ...]
    left: tuple[str, ...]


def repair(graph: Graph, sparse: Graph, stats: Statistics) -> Repaired:
    """Adjust the weights that are not zero, and biases, of a sparse copy of a graph in place. Zeros stay zeros.

    Args:
        graph: the original.
        sparse: a copy of it, with the same names, some of whose weights became zero.
        stats: gathered on the original.
    """
    editor, twins = Editor(sparse, infer_node), linear_layers(sparse)
    done, left = [], []
    for name, layer in linear_layers(graph).items():
        twin = twins[name]
        old, new = layer.w.data, twin.w.data
        assert old is not None
        assert new is not None
        if new is old or np.array_equal(old, new):
            continue
        gram = stats.gram(layer.weight)
        if gram is None or len(twin.w.uses) > 1 or twin.w.escapes:
            left.append(name)
            continue
        want, have = layer.matrix(old), twin.matrix(new)
        products = gram.reshape(layer.groups, layer.ins, layer.ins)
        bias = _bias(twin)
        mean = (
            np.zeros((layer.groups, layer.ins)) if bias is None else stats.mean(layer.weight).reshape(layer.groups, -1)
        )
        fitted = [fit(w, v, c - np.outer(m, m)) for w, v, c, m in zip(want, have, products, mean)]
        made = np.stack(fitted)
        editor.set_constant(twin.w, twin.array(made, new))
        if bias is not None:
            assert bias.data is not None
            shift = np.einsum("gmk,gk->gm", want - made, mean).reshape(bias.data.shape)
            moved = (bias.data + shift).astype(bias.data.dtype)
            if len(bias.uses) > 1 or bias.escapes:
                editor.set_input(twin.node, 2, editor.constant(moved, bias.name))
            else:
                editor.set_constant(bias, moved)
        done.append(name)
    return Repaired(tuple(done), tuple(left))


def fit(want: Rows, have: Rows, moments: Rows) -> Rows:
    """Rows with the support of ``have`` that come closest to ``want``.

    Args:
        want: [M, K].
        have: [M, K], where to start.
        moments: [K, K], second moments of what the rows multiply.

    Returns:
        [M, K]; never further from ``want``, in the mean square of results, than ``have``.
    """
    keep = have != 0
    diagonal = np.diagonal(moments)
    damping = DAMPING * float(diagonal.mean())
    if damping <= 0:
        return have
    scale = keep / (diagonal + damping)
    made: Rows = have.copy()
    residual = ((want - have) @ moments) * keep
    direction = residual * scale
    energy = (residual * direction).sum(1)
    enough = TOLERANCE**2 * energy
    for _ in range(STEPS):
        image = (direction @ moments + damping * direction) * keep
        curvature = (direction * image).sum(1)
        step = np.divide(energy, curvature, out=np.zeros_like(energy), where=curvature > 0)[:, None]
        made += step * direction
        residual -= step * image
        towards = residual * scale
        now = (residual * towards).sum(1)
        if (now <= enough).all():
            break
        direction = towards + np.divide(now, energy, out=np.zeros_like(now), where=energy > 0)[:, None] * direction
        energy = now
    return made


def _bias(layer: LinearLayer) -> Value | None:
    """The constant that is added to every result of the layer as it is, if there is one."""
    node, value = layer.node, layer.node.input(2)
    if value is None or value.data is None or value.data.size != layer.groups * layer.outs:
        return None
    if node.op == "Gemm":
        plain = _one(attr(node, "alpha")) and _one(attr(node, "beta")) and layer.weight.index == 1
        return value if plain and value.data.shape[-1] == value.data.size else None
    return value if node.op == "Conv" else None


def _one(value: object) -> bool:
    return value is None or value == 1.0
