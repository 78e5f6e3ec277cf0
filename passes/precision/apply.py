"""Carrying out a plan: types, constants and Casts, then types are inferred again from the start."""

from __future__ import annotations

from graphopt.errors import InternalError
from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType
from graphopt.ops.infer import infer_graph
from graphopt.passes.precision.narrow_form import is_float32
from graphopt.passes.precision.neighbours import cast_from, casts_to
from graphopt.passes.precision.plan import PrecisionPlan
from graphopt.passes.precision.sources import narrow_attributes
from graphopt.rewrite.passes import PassContext, graphs

_TWO_COPIES = 1 << 14
"""A constant of at most so many elements that is read in both types is stored in both; a larger one once, with a Cast."""


def apply_precision(plan: PrecisionPlan, ctx: PassContext) -> None:
    """Convert the plan's graph in place. A graph that has nothing to convert is not touched.

    Raises:
        InternalError: inference gives another type than planned.
    """
    if plan.narrow or plan.io == "cast":
        _Conversion(plan, ctx).run()


class _Conversion:
    def __init__(self, plan: PrecisionPlan, ctx: PassContext) -> None:
        self.plan, self.ctx, self.dtype = plan, ctx, plan.format.dtype
        self.narrow_values = plan.narrow_values()
        self.wide_values: set[Value] = set()
        for node in plan.graph.walk():
            self.wide_values.update(v for v in (*node.inputs, *node.outputs) if v is not None and is_float32(v))
        for sub in graphs(plan.graph):
            self.wide_values.update(v for v in (*sub.inputs, *sub.outputs) if is_float32(v))
        self.owners = {v: g for g in graphs(plan.graph) for v in g.inputs}
        self.copies: dict[Value, Value] = {}
        self.renamed: set[Value] = set()
        self.exited: set[Value] = set()
        self.read_as: dict[Value, set[DType]] = {}

    def run(self) -> None:
        graph = self.plan.graph
        self.ctx.editor(graph).require_opset(self.plan.format.opset)
        nodes = list(graph.walk())
        for node in nodes:
            for index, value in enumerate(node.inputs):
                if value is not None and value.data is not None and value in self.wide_values:
                    self.read_as.setdefault(value, set()).add(self.wanted(node, index))
        exits = [
            (g, i, v, self.wanted_output(g))
            for g in graphs(graph)
            for i, v in enumerate(g.outputs)
            if v in self.wide_values
        ]
        for _, _, value, dtype in exits:
            if value.data is not None:
                self.read_as.setdefault(value, set()).add(dtype)
        self.renamed = {v for g, _, v, dtype in exits if g is graph and dtype is not self.home(v)}
        for value in self.narrow_values:
            assert isinstance(value.type, TensorType)
            value.type = TensorType(self.dtype, value.type.shape)
        for node in nodes:
            self.operands(node)
        for sub, index, value, dtype in exits:
            self.leave(sub, index, value, dtype)
        self.clean(nodes)
        infer_graph(graph)
        for value in self.wide_values | self.narrow_values:
            if value.data is None and value.dtype is not self.home(value):
                raise InternalError(f"%{value.name} was to be {self.home(value)} and is {value.type}", code="precision")

    # -- what is wanted -----------------------------------------------------------------------------------------------
    def wanted(self, node: Node, index: int) -> DType:
        form = self.plan.narrow.get(node)
        return self.dtype if form is not None and index in form.operands else DType.f32

    def home(self, value: Value) -> DType:
        return self.dtype if value in self.narrow_values else DType.f32

    def wanted_output(self, graph: Graph) -> DType:
        if graph.parent is None:
            return self.dtype if self.plan.io == "cast" else DType.f32
        holder = next(n for n in graph.parent.nodes if any(s is graph for s in n.subgraphs))
        return self.dtype if holder in self.plan.narrow else DType.f32

    # -- rewriting ----------------------------------------------------------------------------------------------------
    def operands(self, node: Node) -> None:
        editor = self.ctx.editor(node.graph or self.plan.graph)
        if casts_to(node, self.dtype):
            return  # reads either type
        for index, value in enumerate(node.inputs):
            if value is not None and value in self.wide_values:
                editor.set_input(node, index, self.as_type(value, self.wanted(node, index)))
        form = self.plan.narrow.get(node)
        if form is not None and form.results:
            for name, attr in narrow_attributes(node, self.plan.format).items():
                editor.set_attr(node, name, attr)

    def as_type(self, value: Value, dtype: DType) -> Value:
        """The value in a type: itself, the one copy of it, or what it was cast from."""
        if value.dtype is dtype:
            return value
        if value.producer is not None and cast_from(value.producer, dtype) is not None:
            source = value.producer.inputs[0]
            assert source is not None
            return source
        if value not in self.copies:
            self.copies[value] = self.copy(value, dtype)
        return self.copies[value]

    def copy(self, value: Value, dtype: DType) -> Value:
        graph = value.producer.graph if value.producer is not None else self.owners.get(value, self.plan.graph)
        assert graph is not None
        editor = self.ctx.editor(graph)
        if value.data is not None:
            narrowed = self.plan.format.narrow(value.data)
            if self.read_as[value] == {self.dtype}:
                editor.set_constant(value, narrowed)
                return value
            if value.data.size <= _TWO_COPIES:
                return editor.constant(narrowed, value.name)
        return self.cast(value, dtype, graph, editor)

    def cast(self, value: Value, dtype: DType, graph: Graph, editor: Editor) -> Value:
        at = 0 if value.producer is None else graph.position(value.producer) + 1
        before = graph.nodes[at] if at < len(graph.nodes) else None
        # an output's name goes to what leaves
        named = value.dtype if value in self.renamed else dtype
        out = editor.value(f"{value.name}_{named.numpy}")
        like = [value.producer] if value.producer is not None else []
        editor.node(
            "Cast", [value], {"to": dtype.onnx}, outputs=[out], name=f"{value.name}_cast", before=before, like=like
        )
        return out

    def leave(self, graph: Graph, index: int, value: Value, dtype: DType) -> None:
        """Let an output leave in the type wanted, under its name."""
        if value.dtype is dtype:
            return
        new = self.as_type(value, dtype)
        editor = self.ctx.editor(graph)
        if graph.parent is None and new is not value:
            if self.copies.get(value) is not new:  # something else that has a name of its own
                new = editor.node("Identity", [new], name=value.name).out
                self.copies[value] = new
            if value not in self.exited:
                self.exited.add(value)
                editor.swap_names(value, new)
        editor.set_output(graph, index, new)

    def clean(self, nodes: list[Node]) -> None:
        """Remove Casts that were there and do nothing any more."""
        casts = [node for node in nodes if node.op == "Cast" and not node.domain]
        for node in casts:
            if casts_to(node, self.dtype):
                self.forward(node)
        for node in reversed(casts):
            if not node.out.uses and not node.out.escapes:
                assert node.graph is not None
                self.ctx.editor(node.graph).erase(node)

    def forward(self, node: Node) -> None:
        """Let readers of a Cast to the format have what it casts, where that has the type already, had it before, or was cast
        to it for others as well."""
        source, out = node.inputs[0], node.out
        assert source is not None
        assert node.graph is not None
        editor = self.ctx.editor(node.graph)
        before = cast_from(source.producer, self.dtype) if source.producer is not None else None
        if before is None and source.dtype is not self.dtype:
            before = self.copies.get(source)
        if before is not None and before is not out:
            editor.set_input(node, 0, before)
            source = before
        if source.dtype is not self.dtype:
            return
        if not out.escapes:
            editor.replace(out, source)
            return
        editor.set_op(node, "Identity")  # an output has a name of its own
        for attribute in list(node.attrs):
            editor.set_attr(node, attribute, None)
