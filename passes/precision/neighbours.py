"""Nodes that take the type of their neighbours: what never rounds, and what lies between nodes kept in float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops.registry import ELEMENTWISE, has_trait
from graphopt.passes.precision.narrow_form import holders, is_float32
from graphopt.passes.precision.operator_rules import never_rounds
from graphopt.passes.precision.plan import Kept, PrecisionPlan

_NARROW, _WIDE, _FREE = "narrow", "wide", "free"
"""How a neighbour has a value: in 16 bits, in float32, or in float32 at the edge of the graph, where nothing speaks for it."""

_BETWEEN = Kept("rule", "it lies between nodes kept in float32")
_EXACT = Kept("rule", "it rounds nothing, and neither all its operands nor all its readers are in 16 bits")
_OBSERVER = Kept("rule", "it reads float32 and makes no floats")


class Neighbours:
    """Settles the nodes of a plan that can be in either type.

    Args:
        plan: its ``kept`` nodes are decided; those settled here are moved from ``narrow`` to ``kept`` where float32 is
            better. What never rounds would round a value and widen it again; arithmetic between two nodes in float32 would
            need a Cast on either side.
        fixed: nodes that stay in 16 bits whatever their neighbours are in.
    """

    def __init__(self, plan: PrecisionPlan, fixed: Set[Node] = frozenset()) -> None:
        self.plan, self.fixed = plan, fixed
        self.holders = holders(plan.graph)
        self.escapes: dict[Value, list[Graph]] = {}
        for graph in _graphs(plan.graph):
            for value in graph.outputs:
                self.escapes.setdefault(value, []).append(graph)
        self.entered = {v: g for g in _graphs(plan.graph) for v in g.inputs}
        self.open: set[Node] = set()

    def settle(self) -> None:
        """Decide on all nodes that take the type of their neighbours."""
        order = [node for node in _inner_first(self.plan.graph) if node not in self.fixed]
        self.islands(order)
        self.exact_nodes([node for node in order if node in self.plan.narrow and never_rounds_here(node)])
        for node in order:
            self.observer(node)

    # -- arithmetic between nodes kept in float32 -----------------------------------------------------------------------
    def islands(self, order: list[Node]) -> None:
        """Keep whole regions of cheap nodes whose neighbours all are in float32."""
        region = {n for n in order if n in self.plan.narrow and (never_rounds_here(n) or has_trait(n, ELEMENTWISE))}
        touched = [n for n in order if n in region and self.touches_narrow(n, region)]
        reached = set(touched)
        while touched:
            node = touched.pop()
            for other in self.adjacent(node):
                if other in region and other not in reached:
                    reached.add(other)
                    touched.append(other)
        for node in order:
            if node in region and node not in reached:
                self.keep(node, _BETWEEN)

    def touches_narrow(self, node: Node, region: set[Node]) -> bool:
        states = [*self.sources(node, region), *self.readers(node, region)]
        return any(state != _WIDE for state in states) or not (states or self.adjacent(node))

    def adjacent(self, node: Node) -> list[Node]:
        found = [v.producer for v in self.operands(node) if v.producer is not None]
        for value in self.results(node):
            found += value.consumers
            found += [h for g in self.escapes.get(value, ()) if (h := self.holders.get(id(g))) is not None]
        return found

    # -- nodes that never round ---------------------------------------------------------------------------------------
    def exact_nodes(self, nodes: list[Node]) -> None:
        """16 bits where all operands, or else all readers, are in them; otherwise a value would be rounded for nothing."""
        self.open = set(nodes)
        for node in nodes:
            states = list(self.sources(node, self.open))
            if states and not any(n in self.open for n in self.makers(node)) and all(s == _NARROW for s in states):
                self.open.discard(node)
        for node in reversed(nodes):
            if node not in self.open:
                continue
            readers = list(self.readers(node, self.open))
            self.open.discard(node)
            if _NARROW not in readers or _WIDE in readers:
                self.keep(node, _EXACT)

    def makers(self, node: Node) -> list[Node]:
        return [v.producer for v in self.operands(node) if v.producer is not None]

    def observer(self, node: Node) -> None:
        """Nodes without float results read 16 bits where all their operands are in them, and constants lose nothing."""
        form = self.plan.narrow.get(node)
        if form is None or form.results or node.subgraphs:
            return
        exact = all(v.data is None or self.plan.format.exact(v.data) for v in self.operands(node))
        states = list(self.sources(node, set()))
        if not exact or not states or any(state != _NARROW for state in states):
            self.keep(node, _OBSERVER)

    # -- looking around -----------------------------------------------------------------------------------------------
    def keep(self, node: Node, why: Kept) -> None:
        del self.plan.narrow[node]
        self.plan.kept[node] = why

    def operands(self, node: Node) -> list[Value]:
        """Float operands that would change; of an If what its branches return."""
        if node.subgraphs:
            return [v for sub in node.subgraphs for v in sub.outputs if is_float32(v)]
        form = self.plan.narrow.get(node)
        return [v for i in sorted(form.operands) if (v := node.inputs[i]) is not None] if form is not None else []

    def results(self, node: Node) -> list[Value]:
        return [v for v in node.outputs if v is not None and is_float32(v)]

    def sources(self, node: Node, undecided: set[Node]) -> Iterator[str]:
        """How the operands come; those of ``undecided`` nodes and constants are left out."""
        for value in self.operands(node):
            maker = value.producer
            if value.data is None and (maker is None or maker not in undecided):
                yield self.state(value)

    def state(self, value: Value) -> str:
        """How a value that is no constant is there."""
        maker = value.producer
        if maker is None:
            entered = self.entered.get(value)
            if entered is not self.plan.graph:
                return _NARROW if entered is not None and self.holders[id(entered)] in self.plan.narrow else _WIDE
            return _NARROW if self.plan.io == "cast" else _FREE
        if cast_from(maker, self.plan.format.dtype) is not None:
            return _NARROW
        form = self.plan.narrow.get(maker)
        return _NARROW if form is not None and any(maker.outputs[i] is value for i in form.results) else _WIDE

    def readers(self, node: Node, undecided: set[Node]) -> Iterator[str]:
        """How readers take the results; ``undecided`` ones and those that take either are left out."""
        for value in self.results(node):
            for use in value.uses:
                if use.node in undecided or self.takes_either(use.node):
                    continue
                form = self.plan.narrow.get(use.node)
                narrow = form is not None and use.index in form.operands
                yield _NARROW if narrow or casts_to(use.node, self.plan.format.dtype) else _WIDE
            for graph in self.escapes.get(value, ()):
                yield from self.leaving(graph, undecided)

    def leaving(self, graph: Graph, undecided: set[Node]) -> Iterator[str]:
        holder = self.holders.get(id(graph))
        if holder is None:
            yield _NARROW if self.plan.io == "cast" else _FREE
        elif holder not in undecided:
            yield _NARROW if holder in self.plan.narrow else _WIDE

    def takes_either(self, node: Node) -> bool:
        form = self.plan.narrow.get(node)
        return form is not None and not form.results and not node.subgraphs and node not in self.fixed


def never_rounds_here(node: Node) -> bool:
    """Whether the node makes floats without rounding."""
    makes = any(is_float32(v) for v in node.outputs)
    return makes and (never_rounds(node) or not any(is_float32(v) for v in node.inputs))


def cast_from(node: Node, dtype: DType) -> Value | None:
    """The operand of a Cast of that type."""
    if node.op != "Cast" or node.domain or node.inputs[0] is None:
        return None
    return node.inputs[0] if node.inputs[0].dtype is dtype else None


def casts_to(node: Node, dtype: DType) -> bool:
    """Whether the node is a Cast to that type."""
    return node.op == "Cast" and not node.domain and int(node.attrs["to"]) == dtype.onnx


def _graphs(graph: Graph) -> Iterator[Graph]:
    yield graph
    for node in graph.nodes:
        for sub in node.subgraphs:
            yield from _graphs(sub)


def _inner_first(graph: Graph) -> Iterable[Node]:
    """All nodes, each after what it reads and after the nodes of its subgraphs."""
    for node in graph.nodes:
        for sub in node.subgraphs:
            yield from _inner_first(sub)
        yield node
