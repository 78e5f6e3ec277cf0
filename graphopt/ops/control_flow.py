"""If, Loop and Scan: types that flow into and out of their subgraphs."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.errors import ModelError
from graphopt.ir.atoms import SymbolKind
from graphopt.ir.dims import Dim, kind_of
from graphopt.ir.dtypes import DType
from graphopt.ir.editor import clone
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import OpaqueType, TensorType, Type
from graphopt.ops.context import InferContext, known_array
from graphopt.ops.registry import CONTROL, LOOP, has_trait, register

InferBody = Callable[[Graph], None]
MAX_ROUNDS = 4
"""How often the types of loop-carried values are widened before their ranks are given up."""


def infer_subgraphs(node: Node, infer_body: InferBody) -> None:
    """Type the inputs of the node's subgraphs, then everything in them with ``infer_body``.

    A loop-carried value may change its shape from one iteration to the next: dimensions that do become fresh symbols,
    found by trial on a copy of the body.
    """
    body = node.attrs.get("body")
    if not has_trait(node, LOOP) or not isinstance(body, Graph):
        for sub in node.subgraphs:
            infer_body(sub)
        return
    given = _loop_inputs(node, body) if node.op == "Loop" else _scan_inputs(node, body)
    first = 2 if node.op == "Loop" else 0
    carried = (len(body.inputs) - 2) if node.op == "Loop" else _scan_state_count(node, body)
    skip = 1 if node.op == "Loop" else 0
    before = [v.type for v in body.inputs]
    for round_ in range(MAX_ROUNDS + 1):
        _set_inputs(body, before, given)
        if carried <= 0:
            break
        trial = clone(body)
        if node.graph is not None:
            trial.symbols, trial.symbol_counts = dict(node.graph.root.symbols), dict(node.graph.root.symbol_counts)
        trial.opset = body.opset
        infer_body(trial)
        joined = list(given)
        for i in range(carried):
            joined[first + i] = join(given[first + i], trial.outputs[skip + i].type, body, rigid=round_ == MAX_ROUNDS)
        if joined == given:
            break
        given = joined
    _set_inputs(body, before, given)
    infer_body(body)


def join(a: Type | None, b: Type | None, graph: Graph, *, rigid: bool = False) -> Type:
    """The most precise type that covers both: differing dimensions become fresh symbols, differing ranks an unknown
    rank.

    Args:
        rigid: give the shape up altogether where they differ.

    Raises:
        ModelError: the element types differ.
    """
    if not isinstance(a, TensorType) or not isinstance(b, TensorType):
        return a if a is not None and a == b else OpaqueType("unknown")
    if a.dtype is not b.dtype:
        raise ModelError(
            f"a value is {a.dtype} on one path and {b.dtype} on another",
            code="invalid-node",
            hint="branches and loop bodies have to return the same element types; check the export",
        )
    if a == b:
        return a
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape) or rigid:
        return TensorType(a.dtype, None)
    dims: list[Dim] = [
        x if x == y or _is_unknown(x) else graph.fresh_symbol("u", SymbolKind.measured)
        for x, y in zip(a.shape, b.shape)
    ]
    return TensorType(a.dtype, tuple(dims))


def _is_unknown(dim: Dim) -> bool:
    return kind_of(dim) is SymbolKind.measured


def _set_inputs(body: Graph, before: list[Type | None], types: list[Type | None]) -> None:
    for value, old, type_ in zip(body.inputs, before, types):
        value.type = _reuse_symbols(old, type_)


def _reuse_symbols(old: Type | None, new: Type | None) -> Type | None:
    """Inferring a loop again must not rename the unknowns of its body."""
    if not (isinstance(old, TensorType) and isinstance(new, TensorType)) or old.shape is None or new.shape is None:
        return new
    if old.dtype is not new.dtype or len(old.shape) != len(new.shape):
        return new
    return TensorType(
        new.dtype, tuple(o if _is_unknown(o) and _is_unknown(n) else n for o, n in zip(old.shape, new.shape))
    )


def _loop_inputs(node: Node, body: Graph) -> list[Type | None]:
    types: list[Type | None] = [TensorType(DType.i64, ()), TensorType(DType.bool_, ())]
    types += [v.type if v is not None else None for v in node.inputs[2:]]
    return _fit(types, node, body)


def _scan_inputs(node: Node, body: Graph) -> list[Type | None]:
    states = _scan_state_count(node, body)
    types: list[Type | None] = [v.type if v is not None else None for v in node.inputs[:states]]
    for i, value in enumerate(node.inputs[states:]):
        type_ = None if value is None else value.type
        if isinstance(type_, TensorType) and type_.shape is not None:
            axis = _axis(node, "scan_input_axes", i, len(type_.shape))
            type_ = TensorType(type_.dtype, type_.shape[:axis] + type_.shape[axis + 1 :])
        types.append(type_)
    return _fit(types, node, body)


def _fit(types: list[Type | None], node: Node, body: Graph) -> list[Type | None]:
    if len(types) != len(body.inputs):
        raise ModelError(
            f"the body of {node.op} takes {len(body.inputs)} values and gets {len(types)}",
            code="invalid-node",
            node=node.label,
            hint="the model is inconsistent; check its export",
        )
    return types


def _scan_state_count(node: Node, body: Graph) -> int:
    return len(body.inputs) - int(node.attrs.get("num_scan_inputs", 0))


def _axis(node: Node, name: str, i: int, rank: int) -> int:
    axes = node.attrs.get(name) or []
    axis = int(axes[i]) if i < len(axes) else 0
    if not -rank <= axis < max(rank, 1):
        raise ModelError(
            f"{name} {axis} is out of range for rank {rank}",
            code="invalid-node",
            node=node.label,
            hint="check the export",
        )
    return axis + rank if axis < 0 else axis


def _visible(type_: Type, inner: frozenset[str], graph: Graph) -> Type:
    """The type outside of the body: dimensions made of what only exists inside become fresh symbols."""
    if not isinstance(type_, TensorType) or type_.shape is None or not type_.symbols & inner:
        return type_
    dims = [
        d if isinstance(d, int) or not d.symbols() & inner else graph.fresh_symbol("u", SymbolKind.measured)
        for d in type_.shape
    ]
    return TensorType(type_.dtype, tuple(dims))


def _inner_symbols(node: Node, outer: frozenset[str]) -> frozenset[str]:
    """Symbols that occur in the node's subgraphs and nowhere outside of them."""
    found: set[str] = set()

    def add(value: Value | None) -> None:
        if value is not None and isinstance(value.type, TensorType):
            found.update(value.type.symbols)

    for sub in node.subgraphs:
        for value in (*sub.inputs, *sub.outputs):
            add(value)
    return frozenset(found) - outer


def _outer_symbols(node: Node) -> frozenset[str]:
    """Symbols of everything defined before the node in its own and the enclosing graphs."""
    found: set[str] = set()
    graph = node.graph
    while graph is not None:
        values: list[Value | None] = [*graph.inputs, *(o for n in graph.nodes for o in n.outputs if n is not node)]
        for value in values:
            if value is None:
                continue
            if isinstance(value.type, TensorType):
                found.update(value.type.symbols)
            if value.content is not None:
                for dim in value.content.reshape(-1):
                    found |= dim.symbols() if not isinstance(dim, int) else set()
        graph = graph.parent
    return frozenset(found)


@register("If", traits=(CONTROL,))
def _if(c: InferContext) -> list[Type]:
    then, other = c.node.attrs.get("then_branch"), c.node.attrs.get("else_branch")
    if not isinstance(then, Graph) or not isinstance(other, Graph):
        raise c.invalid("If without both branches")
    if not len(then.outputs) == len(other.outputs) >= len(c.node.outputs):
        raise c.invalid("the branches of If return different numbers of values")
    condition = c.value(0).type
    if isinstance(condition, TensorType) and condition.num_elements not in (None, 1):
        raise c.invalid(f"the condition of If is {condition}; it has one element")
    inner = _inner_symbols(c.node, _outer_symbols(c.node))
    return [_visible(join(a.type, b.type, c.graph), inner, c.graph) for a, b in zip(then.outputs, other.outputs)]


@register("Loop", traits=(CONTROL, LOOP))
def _loop(c: InferContext) -> list[Type]:
    body = c.node.attrs["body"]
    inner = _inner_symbols(c.node, _outer_symbols(c.node))
    carried = len(body.inputs) - 2
    if len(body.outputs) < 1 + carried:
        raise c.invalid("the body of Loop returns fewer values than it carries")
    types: list[Type] = []
    for i in range(carried):
        start = c.node.input(2 + i)
        types.append(_visible(join(start.type if start else None, body.outputs[1 + i].type, c.graph), inner, c.graph))
    count = _trip_count(c, body)
    for value in body.outputs[1 + carried :]:
        types.append(_stacked(_visible(value.type or OpaqueType("unknown"), inner, c.graph), count, 0))
    return types


def _trip_count(c: InferContext, body: Graph) -> Dim:
    """Iterations of a Loop that only its trip count ends, else an unknown."""
    limit = c.node.input(0)
    start = c.node.input(1)
    runs = start is None or (known_array(start) is not None and bool(known_array(start)))
    goes_on = body.outputs[0]
    constant = known_array(goes_on)
    if limit is not None and runs and ((constant is not None and bool(constant)) or _is_passed_on(goes_on, body)):
        count = known_array(limit)
        if count is not None:
            return max(int(count.reshape(-1)[0]), 0)
    return c.graph.fresh_symbol("u", SymbolKind.measured)


def _is_passed_on(value: Value, body: Graph) -> bool:
    while value.producer is not None and value.producer.op == "Identity" and value.producer.inputs[0] is not None:
        value = value.producer.inputs[0]
    return value is body.inputs[1]


def _stacked(type_: Type, count: Dim, axis: int) -> Type:
    if not isinstance(type_, TensorType) or type_.shape is None:
        return type_
    return TensorType(type_.dtype, (*type_.shape[:axis], count, *type_.shape[axis:]))


@register("Scan", traits=(CONTROL, LOOP))
def _scan(c: InferContext) -> list[Type]:
    body = c.node.attrs["body"]
    states = _scan_state_count(c.node, body)
    inner = _inner_symbols(c.node, _outer_symbols(c.node))
    length: Dim | None = None
    for i in range(states, len(c.node.inputs)):
        extent = c.shape(i)[_axis(c.node, "scan_input_axes", i - states, c.rank(i))]
        if length is None:
            length = extent
        else:
            c.assume_equal(length, extent, "scan inputs have the same length")
    types: list[Type] = []
    for i in range(states):
        types.append(_visible(join(c.value(i).type, body.outputs[i].type, c.graph), inner, c.graph))
    for i, value in enumerate(body.outputs[states:]):
        type_ = _visible(value.type or OpaqueType("unknown"), inner, c.graph)
        rank = len(type_.shape) + 1 if isinstance(type_, TensorType) and type_.shape is not None else 1
        axis = _axis(c.node, "scan_output_axes", i, rank)
        types.append(_stacked(type_, length if length is not None else 0, axis))
    return types
