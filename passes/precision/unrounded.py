"""Values between nodes of a 16-bit model in float32, where arithmetic is in float32 anyway: fewer roundings and conversions.

ONNX says that a node's result has the type of its operands. A machine without 16-bit arithmetic converts them to float32, computes,
and rounds, only for the next node to convert again. Rounding less is what other runtimes do, too. Stored in 16 bits remain
inputs and outputs, weights, and what only moves or selects elements of these; and what products read whose factors the machine
wants in 16 bits. A Cast from float32 to 16 bits and back rounds, as it is written; arithmetic behind the first reads what is cast.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from graphopt.errors import InternalError
from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType
from graphopt.ops.infer import infer_graph, infer_node
from graphopt.ops.registry import ANCHOR, CONTROL, ELEMENTWISE, RANDOM, has_trait
from graphopt.passes.precision.operator_rules import never_rounds
from graphopt.rewrite.passes import graphs

STORED_NARROW = 1 << 8
"""A weight of at least so many elements stays in 16 bits and is converted while it is read; another constant becomes float32."""

_BY_BITS = ("BitCast",)

Factors = Callable[[Node, DType], Collection[int]]
"""The operands of a node that the target multiplies as they are stored, in the type given."""


Computes = Callable[[Node, DType], bool]
"""Whether the target computes a node in the narrow type given."""


def leave_unrounded(
    graph: Graph,
    dtypes: Collection[DType],
    factors: Factors = lambda node, dtype: (),
    computes: Computes = lambda node, dtype: False,
) -> None:
    """Let nodes of a graph and its subgraphs hand float32 to one another instead of the types given, in place.

    What a model computes then depends neither on how nodes are fused nor on layouts, and is at least as near to real numbers.

    Args:
        dtypes: of float16 and bfloat16, those that the target adds up in float32.
        factors: a result that one of these operands reads is rounded, once, for all its readers.
        computes: such a node is left as it is written, operands and results.
    """
    if any(_is_narrow(v, dtypes) for node in graph.walk() for v in (*node.inputs, *node.outputs)):
        _Unrounded(graph, dtypes, factors, computes).run()


class _Unrounded:
    def __init__(self, graph: Graph, dtypes: Collection[DType], factors: Factors, computes: Computes) -> None:
        self.graph, self.dtypes, self.computes = graph, dtypes, computes
        self.factors = _factors(graph, dtypes, factors)
        self.owners = {v: g for g in graphs(graph) for v in g.inputs}
        self.narrow_type: dict[Value, DType] = {}  # what was narrow and is float32 now
        self.before_cast: dict[Value, Value] = {}  # what is cast to 16 bits, by the result
        self.constants: dict[Value, Value] = {}  # in float32, of what is narrow
        self.narrow: dict[Value, Value] = {}  # what is float32 now, by its narrow form

    def run(self) -> None:
        for node in list(self.graph.walk()):
            self.visit(node)
        for graph in list(graphs(self.graph)):
            for index, value in enumerate(graph.outputs):
                if value in self.narrow_type:
                    self.leave(graph, index, value)
        for value in self.before_cast:
            if value.producer is not None and not value.uses and not value.escapes:
                self.editor(value.producer).erase(value.producer)
        infer_graph(self.graph)
        for value in self.narrow_type:
            if value.dtype is not DType.f32:
                raise InternalError(f"%{value.name} was to be float32 and is {value.type}", code="precision")

    def visit(self, node: Node) -> None:
        operands = {v for v in node.inputs if v is not None and (v in self.narrow_type or _is_narrow(v, self.dtypes))}
        results = [v for v in node.outputs if v is not None and _is_narrow(v, self.dtypes)]
        if node.op in ("Cast", "CastLike") and not node.domain:
            self.visit_cast(node)
        elif self.stays(node, operands, results):
            self.set_operands(node, operands, self.as_narrow)
        else:
            self.set_operands(node, operands, self.as_wide)
            for value in results:
                assert isinstance(value.type, TensorType)
                self.narrow_type[value] = value.type.dtype
                value.type = TensorType(DType.f32, value.type.shape)
                if value in self.factors:
                    self.round(node, value)

    def visit_cast(self, node: Node) -> None:
        """One to float32 of what is float32 now does nothing. One like another value has the type that this had."""
        source = node.inputs[0]
        if node.op == "CastLike":
            editor = self.editor(node)
            editor.set_input(node, 1, None)
            editor.set_op(node, "Cast")
            editor.set_attr(node, "to", node.out.dtype.onnx)
        if source is not None and source.dtype is DType.f32 and _is_narrow(node.out, self.dtypes):
            if source not in self.narrow_type and node.out not in self.factors:
                self.before_cast[node.out] = source
            return
        if source in self.narrow_type and node.out.dtype is DType.f32 and not node.out.escapes:
            assert source is not None
            self.editor(node).replace(node.out, source)
            self.editor(node).erase(node)

    def stays(self, node: Node, operands: set[Value], results: list[Value]) -> bool:
        """Whether the node reads and makes the types that it is written with."""
        if not operands or node.domain or has_trait(node, CONTROL) or has_trait(node, RANDOM):
            return True
        if (
            node.op in _BY_BITS
            or node.attrs.get("output_dtype")
            or any(v is not None and not isinstance(v.type, TensorType) for v in (*node.inputs, *node.outputs))
        ):
            return True
        if self.computes(node, self.written(next(iter(operands)))):
            return True
        if not never_rounds(node):
            return False
        stored = all(v not in self.narrow_type and v not in self.before_cast for v in operands)
        return stored or (any(v.escapes for v in results) and not has_trait(node, ELEMENTWISE))

    def written(self, value: Value) -> DType:
        """The narrow type that a value is written with."""
        return self.narrow_type.get(value, value.dtype)

    def set_operands(self, node: Node, operands: set[Value], form: Callable[[Value], Value]) -> None:
        """Let a node read a form of its operands."""
        for index, value in enumerate(list(node.inputs)):
            if value is not None and value in operands:
                self.editor(node).set_input(node, index, form(value))

    def editor(self, node: Node) -> Editor:
        return Editor(node.graph or self.graph, infer_node)

    # -- the other form of a value --------------------------------------------------------------------------------------
    def round(self, node: Node, value: Value) -> None:
        """Let all readers of a result have it in 16 bits."""
        rounded = self.as_narrow(value)
        editor = self.editor(node)
        for use in list(value.uses):
            if use.node is not rounded.producer:
                editor.set_input(use.node, use.index, rounded)

    def as_wide(self, value: Value) -> Value:
        """In float32: each reader has a conversion of its own, which becomes part of its kernel."""
        if value in self.narrow_type:
            return value
        if value in self.before_cast:
            return self.before_cast[value]
        if value.data is None or _is_weight(value) or value in self.factors:
            return self.cast(value, DType.f32)
        if value not in self.constants:
            self.constants[value] = Editor(self.graph).constant(value.data.astype(np.float32), value.name)
        return self.constants[value]

    def as_narrow(self, value: Value) -> Value:
        if value not in self.narrow_type:
            return value
        if value not in self.narrow:
            self.narrow[value] = self.cast(value, self.narrow_type[value])
        return self.narrow[value]

    def cast(self, value: Value, dtype: DType) -> Value:
        graph = value.producer.graph if value.producer is not None else self.owners.get(value, self.graph)
        assert graph is not None
        at = 0 if value.producer is None else graph.position(value.producer) + 1
        before = graph.nodes[at] if at < len(graph.nodes) else None
        like = [value.producer] if value.producer is not None else []
        editor = Editor(graph, infer_node)
        out = editor.value(f"{value.name}_{dtype.numpy}")
        editor.node(
            "Cast", [value], {"to": dtype.onnx}, outputs=[out], name=f"{value.name}_cast", before=before, like=like
        )
        return out

    def leave(self, graph: Graph, index: int, value: Value) -> None:
        """An output leaves in its type, under its name."""
        first = value not in self.narrow or not self.narrow[value].escapes
        new = self.as_narrow(value)
        editor = Editor(graph, infer_node)
        if first and graph.parent is None:
            editor.swap_names(value, new)
        editor.set_output(graph, index, new)


def _factors(graph: Graph, dtypes: Collection[DType], factors: Factors) -> set[Value]:
    """Values that a product reads as they are stored, maybe after they were moved."""
    found: set[Value] = set()
    for node in reversed(list(graph.walk())):
        moves = never_rounds(node) and not has_trait(node, ELEMENTWISE) and any(v in found for v in node.outputs)
        for index, value in enumerate(node.inputs):
            if value is not None and _is_narrow(value, dtypes) and (moves or index in factors(node, value.dtype)):
                found.add(value)
    return found


def _is_narrow(value: Value | None, dtypes: Collection[DType]) -> bool:
    return value is not None and isinstance(value.type, TensorType) and value.type.dtype in dtypes


def _is_weight(value: Value) -> bool:
    """Whether a constant is large, and read by products that can convert it while they read."""
    assert value.data is not None
    if value.data.size < STORED_NARROW:
        return False
    return any(has_trait(use.node, ANCHOR) for use in value.uses)
