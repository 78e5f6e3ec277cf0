"""Integers of a compiled model against a reference that computes from the same integers.

Two right computations of one float differ in the last bits, and where the float lies between two integers, a last bit decides
which one it becomes. One step further on, that is a difference like any other, so a tolerance can't compare results of quantized
models. Here the reference is given the integers that the compiled model made and computes the next ones from them. Each has to be
the same, or one step off where the float lies at the tie within its rounding error. If all are, so is the model, by induction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.driver.accuracy import Comparison, bound, compare_all, longest_sum, summing_depth
from graphopt.driver.quantized_check.cut import cut_graph, quantizing_nodes
from graphopt.driver.reference import make_reference
from graphopt.ir.graph import Array, Graph, Node
from graphopt.ir.onnx_io import graph_to_onnx
from graphopt.ir.outputs import with_outputs

Run = Callable[[Graph], Mapping[str, Array]]
"""Compiles a graph and runs it on the inputs: outputs in order."""


@dataclass(frozen=True)
class Steps:
    """Integers behind one QuantizeLinear.

    Attributes:
        value: name of the float that they are made from.
        integers: name of the result.
        node: that makes the float, as ``name (Op)``; "" for an input of the graph.
        most: the largest difference, in steps.
        ties: how many elements are one step off, at a tie.
        wrong: how many differ otherwise.
        size: of how many.
    """

    value: str
    integers: str
    node: str
    most: int
    ties: int
    wrong: int
    size: int

    @property
    def problem(self) -> str | None:
        """What is wrong, None for nothing."""
        if not self.wrong:
            return None
        return f"{self.wrong} of {self.size} integers are up to {self.most} steps off where the float is at no tie"


@dataclass(frozen=True)
class SteppedCheck:
    """A compiled model against a reference that is given its integers.

    Attributes:
        steps: one row a QuantizeLinear, in order.
        outputs: of the graph, by name.
        got: what the compiled model made: these outputs, and the results of QuantizeLinear, by name.
    """

    steps: tuple[Steps, ...]
    outputs: tuple[Comparison, ...]
    got: Mapping[str, Array]

    @property
    def ok(self) -> bool:
        """Whether nothing differs but ties."""
        return all(s.problem is None for s in self.steps) and all(c.ok for c in self.outputs)

    @property
    def ties(self) -> int:
        """How many integers are one step off at a tie."""
        return sum(s.ties for s in self.steps)


def stepped_check(graph: Graph, run: Run, inputs: Mapping[str, Array], kind: str | None) -> SteppedCheck:
    """Hold a compiled graph against a reference, step by step.

    Args:
        graph: as it was imported.
        run: compiles and runs a graph with other outputs.
        inputs: of the model.
        kind: of the reference.

    Raises:
        GraphOptError: one of them can't be run.
    """
    nodes = quantizing_nodes(graph)
    names = list(dict.fromkeys([n.out.name for n in nodes] + [v.name for v in graph.outputs if v.producer is not None]))
    got = dict(zip(names, run(with_outputs(graph, names)).values()))
    cut = cut_graph(graph)
    given = {new.name: got[node.out.name] for new, node in zip(cut.inputs[len(graph.inputs) :], nodes)}
    want = dict(
        zip([v.name for v in cut.outputs], make_reference(graph_to_onnx(cut), kind)({**inputs, **given}).values())
    )
    reduction, depth = longest_sum(cut), summing_depth(cut)
    made = {node.out.name for node in nodes}
    outputs = {v.name: want[v.name] for v in graph.outputs if v.name in want and v.name not in made}
    return SteppedCheck(
        tuple(_steps(node, got[node.out.name], want, inputs, reduction, depth) for node in nodes),
        tuple(compare_all(got, outputs, reduction=reduction, depth=depth)),
        got,
    )


def _steps(
    node: Node, got: Array, want: Mapping[str, Array], inputs: Mapping[str, Array], reduction: int, depth: int
) -> Steps:
    source = node.inputs[0]
    assert source is not None
    maker = source.producer.label if source.producer is not None else ""
    floats = want[source.name] if source.producer is not None else np.asarray(inputs[source.name])
    integers = want[node.out.name]
    if got.dtype != integers.dtype or got.shape != integers.shape:
        return Steps(source.name, node.out.name, maker, 0, 0, max(got.size, integers.size, 1), max(integers.size, 1))
    apart = np.abs(got.astype(np.int64) - integers.astype(np.int64))
    off = apart > 0
    # An input is the same number for both, and its quotient is rounded once.
    error = bound(floats.dtype, reduction, depth) if source.producer is not None else bound(floats.dtype, 0)
    at_tie = off & (apart == 1) & _at_tie(node, floats, np.minimum(got, integers), error)
    return Steps(
        source.name, node.out.name, maker, int(apart.max(initial=0)), int(at_tie.sum()), int((off & ~at_tie).sum()), got.size
    )  # fmt: skip


def _at_tie(node: Node, floats: Array, lower: Array, error: float) -> Array:
    """Where a float lies between the integer ``lower`` and the next one, within its rounding error.

    Args:
        error: of floats, relative to the largest magnitude among them.
    """
    scale, zero = _along(node, floats.ndim)
    wide = floats.astype(np.float64)
    finite = np.isfinite(wide)
    largest = float(np.abs(wide[finite]).max(initial=0.0))
    with np.errstate(invalid="ignore", over="ignore"):
        tie = (lower.astype(np.float64) - zero + 0.5) * scale
        near: Array = np.abs(wide - tie) <= error * largest
    return near & finite


def _along(node: Node, rank: int) -> tuple[Array, Array | float]:
    """Scale and zero point in float64, shaped to go with the operand."""

    def shaped(array: Any) -> Array:
        wide: Array = np.asarray(array).astype(np.float64)
        if wide.size == 1:
            return wide.reshape(())
        shape = [1] * rank
        shape[int(node.attrs.get("axis", 1))] = -1
        return wide.reshape(shape)

    scale, zero = node.input(1), node.input(2)
    assert scale is not None
    return shaped(scale.data), 0.0 if zero is None else shaped(zero.data)


def dequantized(node: Node, integers: Array) -> Array:
    """The floats that integers of a QuantizeLinear stand for."""
    scale, zero = _along(node, integers.ndim)
    found: Array = (integers.astype(np.float64) - zero) * scale
    return found
