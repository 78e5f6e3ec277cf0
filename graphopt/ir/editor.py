"""The only code that changes a graph: keeps use lists, names, order and the version right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from graphopt.errors import InternalError
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array, Graph, Node, Use, Value
from graphopt.ir.types import TensorType, Type

InferFn = Callable[[Node], None]
"""Sets the types (and contents) of a node's outputs from its inputs; ``graphopt.ops.infer.infer_node``."""


class Editor:
    """Edits one graph. New nodes get their output types from ``infer`` at once, so an ill-typed rewrite fails where it
    is made."""

    def __init__(self, graph: Graph, infer: InferFn | None = None) -> None:
        self.graph = graph
        self._infer = infer

    # -- building -----------------------------------------------------------------------------------------------
    def value(self, name: str, type_: Type | None = None) -> Value:
        """A new value with a name made unique."""
        return Value(self.graph.fresh_name(name), type_)

    def constant(self, array: Array, name: str = "const") -> Value:
        """A new constant value."""
        array = np.asarray(array)
        value = self.value(name, TensorType(DType.from_numpy(array.dtype), tuple(int(d) for d in array.shape)))
        value.data = array
        return value

    def add_input(self, name: str, type_: Type) -> Value:
        """A new graph input."""
        value = self.value(name, type_)
        self.graph.inputs.append(value)
        self._touch()
        return value

    def node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: dict[str, Any] | None = None,
        *,
        outputs: int | Sequence[Value | None] = 1,
        domain: str = "",
        name: str | None = None,
        before: Node | None = None,
        like: Sequence[Node] = (),
    ) -> Node:
        """Insert a node before ``before`` (at the end when None) and infer its output types.

        Args:
            outputs: how many outputs to create, or the values to define.
            like: nodes that it replaces: source of its name and origins.
        """
        base = name or (like[-1].name if like and like[-1].name else op.lower())
        node = Node(op, [], [], dict(attrs or {}), name=self.graph.fresh_node_name(base), domain=domain)
        node.origins = tuple(dict.fromkeys(o for n in like for o in (n.origins or (n.name,)))) or (node.name,)
        node.graph = self.graph
        outs: list[Value | None]
        outs = [self.value(f"{base}_out") for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        for out in outs:
            if out is not None:
                if out.producer is not None:
                    raise InternalError(f"%{out.name} already has a producer")
                out.producer = node
        node.outputs = outs
        index = len(self.graph.nodes) if before is None else self.graph.position(before)
        self.graph.insert(index, [node])
        for sub in node.subgraphs:
            sub.parent = self.graph
        for i, value in enumerate(inputs):
            node.inputs.append(value)
            if value is not None:
                value.uses[Use(node, i)] = None
        self._touch()
        if self._infer is not None:
            self._infer(node)
        return node

    # -- changing -----------------------------------------------------------------------------------------------
    def set_input(self, node: Node, index: int, value: Value | None) -> None:
        """Point input ``index`` at ``value``; trailing absent inputs are trimmed."""
        while len(node.inputs) <= index:
            node.inputs.append(None)
        old = node.inputs[index]
        if old is value:
            return
        if old is not None:
            old.uses.pop(Use(node, index), None)
        node.inputs[index] = value
        if value is not None:
            value.uses[Use(node, index)] = None
        while node.inputs and node.inputs[-1] is None:
            node.inputs.pop()
        self._touch()

    def set_constant(self, value: Value, array: Array) -> None:
        """Another array, maybe of another shape, under a constant's name; types of its users are to be inferred again.

        Raises:
            InternalError: the value is no constant.
        """
        if value.data is None:
            raise InternalError(f"%{value.name} is no constant")
        value.type = TensorType(DType.from_numpy(array.dtype), tuple(int(d) for d in array.shape))
        value.data, value.content = array, None
        self._touch()

    def fix_input(self, value: Value, array: Array) -> None:
        """Make an input of the graph a constant under its own name."""
        value.data = array
        value.type = TensorType(DType.from_numpy(array.dtype), tuple(int(d) for d in array.shape))
        self.graph.inputs = [v for v in self.graph.inputs if v is not value]
        self._touch()

    def require_opset(self, version: int) -> None:
        """Export the model with this version of ai.onnx or a later one."""
        if self.graph.root.opset < version:
            self.graph.root.opset = version
            self._touch()

    @staticmethod
    def swap_names(a: Value, b: Value) -> None:
        """Exchange the names of two values."""
        a.name, b.name = b.name, a.name

    def name_after(self, node: Node, gone: Node) -> None:
        """Give a node the name of one that is no longer in the graph."""
        node.name = gone.name
        self._touch()

    def set_attr(self, node: Node, name: str, value: Any) -> None:
        """Set an attribute, or remove it when ``value`` is None."""
        if value is None:
            node.attrs.pop(name, None)
        else:
            node.attrs[name] = value
        self._touch()

    def set_op(self, node: Node, op: str) -> None:
        """Rename the operator; inputs and attributes stay."""
        node.op = op
        self._touch()

    def rename(self, value: Value, name: str) -> None:
        """Give a value another name, made unique; an output of the graph keeps its own."""
        if not value.escapes:
            value.name = self.graph.fresh_name(name)
            self._touch()

    def add_outputs(self, node: Node, total: int, count: int) -> list[Value]:
        """New results at the end of a node's, whose bodies give them already; their types are inferred.

        Args:
            total: how many results the node then has; those in between that nobody asked for stay left out.
            count: how many are new.
        """
        node.outputs += [None] * (total - count - len(node.outputs))
        new = [self.value(f"{node.name}_seen") for _ in range(count)]
        for value in new:
            value.producer = node
        node.outputs += new
        self._touch()
        if self._infer is not None:
            self._infer(node)
        return new

    def trim_outputs(self, node: Node, count: int) -> None:
        """Drop unused outputs from position ``count`` on.

        Raises:
            InternalError: one of them is in use.
        """
        for out in node.outputs[count:]:
            if out is None:
                continue
            if out.uses or out.escapes:
                raise InternalError(f"dropping output %{out.name} of {node.label}, which is still used")
            out.producer = None
        del node.outputs[count:]
        self._touch()

    def set_output(self, graph: Graph, index: int, value: Value) -> None:
        """Make ``value`` output ``index`` of ``graph``, appending when ``index`` is the length."""
        if index == len(graph.outputs):
            graph.outputs.append(value)
        else:
            graph.outputs[index].escapes -= 1
            graph.outputs[index] = value
        value.escapes += 1
        self._touch()

    def set_outputs(self, graph: Graph, values: Sequence[Value]) -> None:
        """Make ``values`` the outputs of ``graph``, whatever they were."""
        for old in graph.outputs:
            old.escapes -= 1
        graph.outputs = []
        for index, value in enumerate(values):
            self.set_output(graph, index, value)
        self._touch()

    def replace(self, old: Value, new: Value) -> None:
        """Make every use of ``old`` use ``new``. A graph output keeps its name: ``new`` takes it over.

        Raises:
            InternalError: an output would need two names (the caller inserts an Identity then).
        """
        if old is new:
            return
        for use in list(old.uses):
            self.set_input(use.node, use.index, new)
        if old.escapes:
            if not self.can_take_name(old, new):
                raise InternalError(
                    f"output %{old.name} can't be replaced by %{new.name}, which must keep its own name"
                )
            for graph in self._graphs(self.graph.root):
                for i, out in enumerate(graph.outputs):
                    if out is old:
                        self.set_output(graph, i, new)
            if new.producer is not None:
                self.swap_names(old, new)
        self._touch()

    @staticmethod
    def can_take_name(old: Value, new: Value) -> bool:
        """Whether ``replace(old, new)`` can hand a graph output's name over to ``new``."""
        if not old.escapes:
            return True
        return new.producer is not None and not new.escapes and new.producer.graph is _graph_of(old)

    def erase(self, node: Node) -> None:
        """Remove a node whose outputs nobody uses.

        Raises:
            InternalError: an output is still in use.
        """
        for out in node.outputs:
            if out is not None and (out.uses or out.escapes):
                raise InternalError(f"erasing {node.label}, but %{out.name} is still used")
        self._unlink(node)
        assert node.graph is not None
        node.graph.remove(node)
        self._touch()

    def erase_dead(self, roots: Iterable[Value]) -> None:
        """Remove the producers of ``roots`` that became unused, and what only they used."""
        stack = list(roots)
        while stack:
            value = stack.pop()
            node = value.producer
            if node is None or node.graph is None or any(o is not None and (o.uses or o.escapes) for o in node.outputs):
                continue
            stack.extend(v for v in node.inputs if v is not None)
            self.erase(node)

    def retain(self, keep: Iterable[Node]) -> int:
        """Drop all nodes but ``keep`` (already in order) at once; returns how many went."""
        kept = list(keep)
        kept_ids = {id(n) for n in kept}
        gone = [n for n in self.graph.nodes if id(n) not in kept_ids]
        for node in gone:
            self._unlink(node)
        self.graph.nodes = kept
        self.graph.renumber()
        if gone:
            self._touch()
        return len(gone)

    def move_before(self, node: Node, anchor: Node) -> None:
        """Move ``node`` to just before ``anchor`` in the same graph."""
        self.graph.remove(node)
        self.graph.insert(self.graph.position(anchor), [node])
        self._touch()

    def adopt(self, branch: Graph, before: Node) -> list[Node]:
        """Move all nodes of a subgraph to just before ``before`` in this graph, with its runtime assumptions.

        The subgraph is left without nodes; its outputs stay the caller's business (``set_outputs``).
        """
        moved, branch.nodes = branch.nodes, []
        for node in moved:
            node.graph = self.graph
            for sub in node.subgraphs:
                sub.parent = self.graph
        self.graph.insert(self.graph.position(before), moved)
        for pair, why in branch.constraints.items():
            self.graph.constraints.setdefault(pair, why)
        self._touch()
        return moved

    def _unlink(self, node: Node) -> None:
        for sub in (s for n in _with_nested(node) for s in n.subgraphs):
            for escaping in sub.outputs:
                escaping.escapes -= 1
        for inner in _with_nested(node):
            self._drop_uses(inner)
        for out in node.outputs:
            if out is not None:
                out.producer = None

    @staticmethod
    def _drop_uses(node: Node) -> None:
        for i, value in enumerate(node.inputs):
            if value is not None:
                value.uses.pop(Use(node, i), None)

    def _graphs(self, graph: Graph) -> list[Graph]:
        return [graph] + [g for n in graph.nodes for s in n.subgraphs for g in self._graphs(s)]

    def _touch(self) -> None:
        self.graph.root.version += 1


def _with_nested(node: Node) -> list[Node]:
    return [node] + [n for s in node.subgraphs for n in s.walk()]


def _graph_of(value: Value) -> Graph | None:
    return value.producer.graph if value.producer is not None else None


def clone(graph: Graph) -> Graph:
    """A structural copy that shares constant arrays: the original survives whatever happens to the copy."""
    return _clone(graph, {}, None)


def _clone(graph: Graph, values: dict[Value, Value], parent: Graph | None) -> Graph:
    out = Graph(
        graph.name,
        opset=graph.opset,
        constraints=dict(graph.constraints),
        metadata=dict(graph.metadata),
        doc=graph.doc,
        source=graph.source,
        version=graph.version,
        parent=parent,
        names=graph.names.copy(),
        node_names=graph.node_names.copy(),
        symbols=dict(graph.symbols),
        symbol_counts=dict(graph.symbol_counts),
        domains=dict(graph.domains),
        deviations=list(graph.deviations),
        fixed=dict(graph.fixed),
        likely=dict(graph.likely),
    )

    def copy(value: Value) -> Value:
        if value not in values:
            values[value] = Value(value.name, value.type, data=value.data, content=value.content, binds=value.binds)
        return values[value]

    out.inputs = [copy(v) for v in graph.inputs]
    for node in graph.nodes:
        new = Node(node.op, [], [], {}, node.name, node.domain, node.origins, out)
        for i, v in enumerate(node.inputs):
            new.inputs.append(None if v is None else copy(v))
            if v is not None:
                copy(v).uses[Use(new, i)] = None
        new.outputs = [None if v is None else copy(v) for v in node.outputs]
        for o in new.outputs:
            if o is not None:
                o.producer = new
        new.at = len(out.nodes)
        out.nodes.append(new)
        new.attrs = {k: _clone(a, values, out) if isinstance(a, Graph) else a for k, a in node.attrs.items()}
    out.outputs = [copy(v) for v in graph.outputs]
    for v in out.outputs:
        v.escapes += 1
    return out
