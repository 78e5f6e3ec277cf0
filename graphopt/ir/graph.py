"""Graph, Node and Value. Plain data with use lists; only ``graphopt.ir.editor`` changes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.ir.atoms import SymbolKind
from graphopt.ir.constraints import bounds_of
from graphopt.ir.deviations import Deviation
from graphopt.ir.dims import Dim, SymExpr, symbol
from graphopt.ir.dtypes import DType
from graphopt.ir.intervals import Interval
from graphopt.ir.names import Names
from graphopt.ir.types import TensorType, Type

Array: TypeAlias = npt.NDArray[Any]
Content: TypeAlias = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Use:
    """One operand slot: input ``index`` of ``node``."""

    node: Node
    index: int


@dataclass(eq=False)
class Value:
    """A tensor flowing through the graph, defined once: by a node, as a graph input, or as a constant.

    Attributes:
        name: unique within the outermost graph.
        type: dtype and shape; None before inference.
        data: the array when the value is a constant.
        content: for integer tensors whose elements are known as dimensions: an object array of ``Dim`` of the value's
        shape.
        binds: the content's symbols are defined by this value's elements at run time.
        escapes: how many times it stands among the outputs of a graph or subgraph.
    """

    name: str
    type: Type | None = None
    producer: Node | None = None
    data: Array | None = None
    content: Content | None = None
    binds: bool = False
    uses: dict[Use, None] = field(default_factory=dict)
    escapes: int = 0

    @property
    def is_const(self) -> bool:
        """Whether the array is known now."""
        return self.data is not None

    @property
    def tensor(self) -> TensorType:
        """The tensor type.

        Raises:
            TypeError: the value is not a tensor of known rank.
        """
        if not isinstance(self.type, TensorType) or self.type.shape is None:
            raise TypeError(f"%{self.name} is not a tensor of known rank ({self.type})")
        return self.type

    @property
    def shape(self) -> tuple[Dim, ...]:
        """Shape of a tensor of known rank (raises TypeError otherwise)."""
        shape = self.tensor.shape
        assert shape is not None
        return shape

    @property
    def dtype(self) -> DType:
        """Element type (raises TypeError for non-tensors)."""
        if not isinstance(self.type, TensorType):
            raise TypeError(f"%{self.name} is not a tensor ({self.type})")
        return self.type.dtype

    @property
    def is_output(self) -> bool:
        """Whether it leaves a graph or subgraph."""
        return self.escapes > 0

    @property
    def only_use(self) -> Use | None:
        """The single use of a value used once and nowhere else, else None."""
        return next(iter(self.uses)) if len(self.uses) == 1 and not self.escapes else None

    @property
    def consumers(self) -> list[Node]:
        """Nodes using the value, each once, in use order."""
        return list(dict.fromkeys(u.node for u in self.uses))

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(eq=False)
class Node:
    """An operator applied to values.

    Attributes:
        op: ONNX op_type in its newest form (see ``graphopt.ops.upgrade``).
        domain: "" for ai.onnx.
        name: ONNX node name, or one made from its first output.
        inputs: None marks an optional input left out.
        outputs: None marks an optional output left out.
        attrs: ints, floats, strings, lists of these, arrays, or Graph for control flow.
        origins: names of the ONNX nodes that it came from, for messages.
        at: about where it stands in its graph, see ``Graph.position``.
    """

    op: str
    inputs: list[Value | None]
    outputs: list[Value | None]
    attrs: dict[str, Any]
    name: str = ""
    domain: str = ""
    origins: tuple[str, ...] = ()
    graph: Graph | None = None
    at: int = 0

    @property
    def out(self) -> Value:
        """The first output."""
        value = self.outputs[0]
        assert value is not None
        return value

    def input(self, index: int) -> Value | None:
        """Input ``index``, None when absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def output(self, index: int) -> Value | None:
        """Output ``index``, None when absent."""
        return self.outputs[index] if index < len(self.outputs) else None

    @property
    def qualified_op(self) -> str:
        """``domain::op``, without the domain for ai.onnx."""
        return f"{self.domain}::{self.op}" if self.domain else self.op

    @property
    def label(self) -> str:
        """``name (Op)`` for messages."""
        return f"{self.name or '<unnamed>'} ({self.qualified_op})"

    @property
    def subgraphs(self) -> list[Graph]:
        """Graphs held in attributes."""
        return [a for a in self.attrs.values() if isinstance(a, Graph)]

    def __repr__(self) -> str:
        return f"Node({self.label})"


@dataclass(eq=False)
class Graph:
    """A topologically ordered list of nodes with inputs and outputs.

    Attributes:
        constraints: pairs of dimensions that must be equal at run time (assumed by shape inference, checked at entry).
        opset: ai.onnx version the model came with.
        domains: versions of the operator sets besides ai.onnx that the model imports.
        version: grows with every change; the measure of "did a pass do anything".
        parent: the graph whose node holds this one, for subgraphs.
        deviations: what the import accepted although the specification has it otherwise.
        declared: dimensions that the model declares for results whose rank may not follow from the operator.
        fixed: inputs that were given a value at import, which are constants now.
        likely: extents that the user expects of symbols.
        names: of values, node_names: of nodes; taken in the outermost graph.
        symbols: names of dimensions that are taken, in the outermost graph, in the order in which they came up.
        drift: by how much the last node found stood away from where it was remembered.
        symbol_counts: per prefix, the number that the next fresh symbol tries.
        known_bounds: what `bounds` found last, and of which constraints.
    """

    name: str
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    opset: int = 0
    constraints: dict[tuple[Dim, Dim], str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    doc: str = ""
    source: str = "<model>"
    version: int = 0
    parent: Graph | None = None
    names: Names = field(default_factory=Names)
    node_names: Names = field(default_factory=Names)
    symbols: dict[str, int] = field(default_factory=dict)
    symbol_counts: dict[str, int] = field(default_factory=dict)
    drift: int = 0
    domains: dict[str, int] = field(default_factory=dict)
    deviations: list[Deviation] = field(default_factory=list)
    declared: dict[Value, tuple[int | str | None, ...]] = field(default_factory=dict)
    fixed: dict[str, Array] = field(default_factory=dict)
    likely: dict[str, int] = field(default_factory=dict)
    known_bounds: tuple[dict[tuple[Dim, Dim], str], int, Mapping[str, Interval]] = ({}, 0, {})

    @property
    def bounds(self) -> Mapping[str, Interval]:
        """Between what symbols lie whenever the model runs, by the constraints that are checked at entry."""
        root = self.root
        constraints, count, known = root.known_bounds
        if constraints is not root.constraints or count != len(constraints):  # they are only added, or all replaced
            known = bounds_of(root.constraints)
            root.known_bounds = root.constraints, len(root.constraints), known
        return known

    @property
    def root(self) -> Graph:
        """The outermost graph."""
        return self if self.parent is None else self.parent.root

    def walk(self) -> Iterator[Node]:
        """All nodes, subgraphs' after the node that holds them."""
        for node in self.nodes:
            yield node
            for sub in node.subgraphs:
                yield from sub.walk()

    def position(self, node: Node) -> int:
        """Where ``node`` stands in ``nodes`` (ValueError if it doesn't).

        Takes constant time where nodes are asked for in about the order in which they stand: each remembers where it
        stood, and the graph by how much those from the last change on have moved since.
        """
        nodes = self.nodes
        n = len(nodes)
        guess: int
        i: int
        for guess in (node.at + self.drift, node.at):
            for i in (guess, *range(max(guess - 8, 0), min(guess + 9, n))):
                if 0 <= i < n and nodes[i] is node:
                    self.drift = i - node.at
                    return i
        self.renumber()
        if not (node.at < n and nodes[node.at] is node):
            raise ValueError(f"{node.label} is not in graph {self.name}")
        return node.at

    def insert(self, index: int, nodes: list[Node]) -> None:
        """Put nodes at a position that ``position`` gave, or at the end; for the editor."""
        self.nodes[index:index] = nodes
        for i, node in enumerate(nodes, index):
            node.at = i - self.drift
        self.drift += len(nodes)

    def remove(self, node: Node) -> None:
        """Take a node out; for the editor."""
        del self.nodes[self.position(node)]
        self.drift -= 1

    def renumber(self) -> None:
        """Let every node remember where it stands now."""
        self.drift = 0
        for i, node in enumerate(self.nodes):
            node.at = i

    def constants(self) -> list[Value]:
        """Constant values in use, in order of first use (subgraphs included) and among the outputs."""
        found: dict[Value, None] = {}
        for node in self.walk():
            for value in node.inputs:
                if value is not None and value.is_const:
                    found[value] = None
            for sub in node.subgraphs:
                found.update({v: None for v in sub.outputs if v.is_const})
        found.update({v: None for v in self.outputs if v.is_const})
        return list(found)

    def fresh_name(self, hint: str) -> str:
        """A value's name not yet taken in the whole model, derived from ``hint``."""
        return self.root.names.fresh(hint)

    def fresh_node_name(self, hint: str) -> str:
        """A node's name not yet taken in the whole model, derived from ``hint``."""
        return self.root.node_names.fresh(hint)

    def reserve_symbol(self, name: str) -> None:
        """Take a name that the model or its user gives to a dimension."""
        symbols = self.root.symbols
        symbols.setdefault(name, len(symbols))

    def fresh_symbol(self, hint: str, kind: SymbolKind) -> SymExpr:
        """A new symbol, of a name that nothing else in the model has."""
        root = self.root
        n = root.symbol_counts.get(hint, 0)
        while f"{hint}{n}" in root.symbols:
            n += 1
        root.symbol_counts[hint] = n + 1
        root.reserve_symbol(f"{hint}{n}")
        return symbol(f"{hint}{n}", kind)
