"""Loop and Scan with a known number of iterations become that many copies of their body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.instantiate import instantiate
from graphopt.ir.types import TensorType
from graphopt.ops.canonicalize import canonicalize_nodes
from graphopt.ops.context import known_array
from graphopt.ops.infer import infer_graph, infer_node
from graphopt.ops.registry import LOOP, has_trait
from graphopt.ops.upgrade import REVIEWED_OPSET
from graphopt.rewrite.passes import Pass, PassContext, register_pass

MAX_NODES = 4096
"""Most nodes that one loop may become: beyond, compiling takes longer than the loop is worth."""


@register_pass
@dataclass(frozen=True)
class UnrollLoops(Pass):
    """Replaces Loop and Scan whose number of iterations is known and small by that many copies of their body.

    Attributes:
        max_nodes: a loop that would become more nodes stays.
    """

    name: ClassVar[str] = "unroll-loops"
    max_nodes: int = MAX_NODES

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """In subgraphs too."""
        version = graph.root.version
        self._unroll(graph, ctx)
        if graph.root.version != version:
            infer_graph(graph)  # shapes that depended on the number of iterations

    def _unroll(self, graph: Graph, ctx: PassContext) -> None:
        for node in list(graph.nodes):
            body = node.attrs.get("body")
            if has_trait(node, LOOP) and isinstance(body, Graph):
                steps = _loop_count(node, body) if node.op == "Loop" else _scan_count(node, body)
                problem = self._problem(steps, sum(1 for _ in body.walk()))
                if problem is None:
                    assert steps is not None
                    _Unroller(node, body, steps).run()
                    ctx.applied(node, f"unrolled, {steps} iterations")
                    continue
                ctx.refuse(node, problem)
            for sub in node.subgraphs:
                self._unroll(sub, ctx)

    def _problem(self, steps: int | None, size: int) -> str | None:
        """Why a loop stays, None if it can go."""
        if steps is None:
            return "the number of iterations is not known"
        if steps <= 0:
            return "it never runs"
        if steps * max(size, 1) > self.max_nodes:
            return f"{steps} iterations of {size} nodes are more than {self.max_nodes} nodes"
        return None


def _loop_count(node: Node, body: Graph) -> int | None:
    """Iterations if nothing but the trip count ends the loop, else None."""
    limit, start = node.input(0), node.input(1)
    trips = None if limit is None else known_array(limit)
    begins = None if start is None else known_array(start)
    if trips is None or (start is not None and (begins is None or not bool(begins.reshape(-1)[0]))):
        return None
    goes_on = body.outputs[0]
    known = known_array(goes_on)
    if known is not None:
        return int(trips.reshape(-1)[0]) if bool(known.reshape(-1)[0]) else min(int(trips.reshape(-1)[0]), 1)
    while goes_on.producer is not None and goes_on.producer.op == "Identity" and goes_on.producer.inputs[0] is not None:
        goes_on = goes_on.producer.inputs[0]
    return int(trips.reshape(-1)[0]) if goes_on is body.inputs[1] else None


def _scan_count(node: Node, body: Graph) -> int | None:
    """Extent of the scanned axis, None if symbolic."""
    scanned = int(node.attrs.get("num_scan_inputs", 0))
    if not scanned:
        return None
    value = node.inputs[len(node.inputs) - scanned]
    if value is None or not isinstance(value.type, TensorType) or value.type.shape is None:
        return None
    extent = value.shape[_entry(node, "scan_input_axes", 0)]
    return extent if isinstance(extent, int) else None


def _entry(node: Node, name: str, i: int) -> int:
    values = node.attrs.get(name) or []
    return int(values[i]) if i < len(values) else 0


class _Unroller:
    def __init__(self, node: Node, body: Graph, steps: int) -> None:
        assert node.graph is not None
        self.node, self.body, self.steps = node, body, steps
        self.editor = Editor(node.graph)
        self.made: list[Node] = []
        self.is_scan = node.op == "Scan"
        self.scanned = int(node.attrs.get("num_scan_inputs", 0)) if self.is_scan else 0

    def run(self) -> None:
        """Replace the loop by its iterations."""
        node, first = self.node, 0 if self.is_scan else 2
        states = [v for v in node.inputs[first : len(node.inputs) - self.scanned] if v is not None]
        count, skip = len(states), 0 if self.is_scan else 1
        stacks: list[list[Value]] = [[] for _ in self.body.outputs[skip + count :]]
        for step in range(self.steps):
            outputs, made = instantiate(self.body, self._inputs(step, states), self.editor, node)
            self.made += made
            states = outputs[skip : skip + count]
            for stack, value in zip(stacks, outputs[skip + count :]):
                stack.append(value)
        results = [*states, *(self._stacked(i, s) for i, s in enumerate(stacks[: max(len(node.outputs) - count, 0)]))]
        for old, new in zip(node.outputs, results):
            if old is None:
                continue
            if not Editor.can_take_name(old, new):
                new = self._add("Identity", [new]).out
            if new.type is None:
                new.type = old.type
            self.editor.replace(old, new)
        self.editor.erase(node)
        canonicalize_nodes(self.made, Editor(self.editor.graph, infer_node), REVIEWED_OPSET)

    def _inputs(self, step: int, states: list[Value]) -> list[Value]:
        if not self.is_scan:
            counter = self.editor.constant(np.asarray(step, np.int64), f"{self.node.name}_i")
            return [counter, self.editor.constant(np.asarray(True), f"{self.node.name}_cond"), *states]
        slices = []
        for i, value in enumerate(self.node.inputs[len(self.node.inputs) - self.scanned :]):
            assert value is not None
            at = self.steps - 1 - step if _entry(self.node, "scan_input_directions", i) else step
            index = self.editor.constant(np.asarray(at, np.int64), f"{self.node.name}_at")
            slices.append(self._add("Gather", [value, index], axis=_entry(self.node, "scan_input_axes", i)).out)
        return [*states, *slices]

    def _stacked(self, i: int, parts: list[Value]) -> Value:
        axis = _entry(self.node, "scan_output_axes", i) if self.is_scan else 0
        if self.is_scan and _entry(self.node, "scan_output_directions", i):
            parts = parts[::-1]
        axes = self.editor.constant(np.asarray([axis], DType.i64.numpy), f"{self.node.name}_axis")
        rows = [self._add("Unsqueeze", [part, axes]).out for part in parts]
        return self._add("Concat", rows, axis=axis).out if len(rows) > 1 else rows[0]

    def _add(self, op: str, inputs: list[Value], **attrs: int) -> Node:
        new = self.editor.node(op, list(inputs), dict(attrs), before=self.node, like=[self.node])
        self.made.append(new)
        return new
