"""A random graph as a model: which inputs have symbols for extents, what comes out, and several graphs side by side in one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto

from tests.random_graphs import anchors, elementwise, movement, quantized
from tests.random_graphs.draft import DTYPES, Draft, Rejected
from tests.random_graphs.evaluate import Array, by_ort, declared, model_of_nodes, reads
from tests.random_graphs.undefined import undefined

_ATTEMPTS = 400


@dataclass(frozen=True)
class Case:
    """A graph with values for its inputs.

    Attributes:
        seed: it was drawn with.
        nodes: in order.
        shapes: declared shape of each input, extents or symbols.
        feeds: values of the inputs; the second has other extents for the symbols.
        constants: by name.
        outputs: names.
        expected: for each feed, every value as ONNX Runtime gives it node by node.
        hostile: whether values hold infinities, NaN and the like.
        rejected: how often which node was refused when the graph was drawn.
    """

    seed: int
    nodes: tuple[NodeProto, ...]
    shapes: Mapping[str, tuple[int | str, ...]]
    feeds: tuple[Mapping[str, Array], ...]
    constants: Mapping[str, Array]
    outputs: tuple[str, ...]
    expected: tuple[Mapping[str, Array], ...]
    hostile: bool = False
    rejected: Counter[str] = field(default_factory=Counter)

    def model(self) -> onnx.ModelProto:
        """As ONNX."""
        return side_by_side([self])


def draw(seed: int) -> Case:
    """The graph of a seed."""
    d = Draft(seed)
    for _ in range(d.pick(1, 2, 2, 3)):
        d.input(d.shape(), d.pick(*DTYPES))
    wanted = d.pick(*range(5, 26))
    steps = [anchors.STEPS, elementwise.STEPS, elementwise.STEPS, elementwise.STEPS, movement.STEPS, movement.STEPS]
    if d.chance(0.15):
        steps.append(quantized.STEPS)
    for _ in range(_ATTEMPTS):
        if len(d.nodes) >= wanted:
            break
        try:
            d.pick(*d.pick(*steps))(d)
        except Rejected:
            continue
    used = {name for node in d.nodes for name in reads(node)}
    made = [name for node in d.nodes for name in node.output if name]
    outputs = [name for name in made if name not in used or d.chance(0.06)]
    inputs = [name for name in d.inputs if name in used]
    shapes = _declared_shapes(d, inputs)
    first = {name: d.values[name] for name in inputs}
    constants = {name: d.values[name] for name in d.constants if name in used}
    case = Case(
        seed, tuple(d.nodes), shapes, (first,), constants, tuple(outputs), (dict(d.values),), d.hostile, d.rejected
    )
    return _with_other_extents(case, d)


def _declared_shapes(d: Draft, inputs: Sequence[str]) -> dict[str, tuple[int | str, ...]]:
    """Extents as they are, or symbols, equal ones for equal extents or one for each axis."""
    symbolic = d.chance(0.4)
    share = d.chance(0.7)
    shapes: dict[str, tuple[int | str, ...]] = {}
    for name in inputs:
        dims: list[int | str] = list(d.dims(name))
        for axis, extent in enumerate(d.dims(name)):
            if symbolic and extent > 1 and name not in d.fixed and d.chance(0.6):
                dims[axis] = f"s{extent}" if share else f"s_{name}_{axis}"
        shapes[name] = tuple(dims)
    return shapes


def _with_other_extents(case: Case, d: Draft) -> Case:
    """The same with a second feed, where the symbols may have other extents."""
    symbols = sorted({dim for shape in case.shapes.values() for dim in shape if isinstance(dim, str)})
    for _ in range(3 if symbols else 0):
        changed = {s for s in symbols if d.chance(0.5)} or set(symbols)
        sizes = {s: d.pick(2, 3, 5, 6, 9, 16, 31) for s in changed}
        feed = {}
        for name, shape in case.shapes.items():
            old = case.feeds[0][name]
            new = [sizes.get(dim, e) if isinstance(dim, str) else e for dim, e in zip(shape, old.shape)]
            feed[name] = d.data(new, str(old.dtype)) if new != list(old.shape) else old
        values = run_nodes(case.nodes, {**feed, **case.constants}, set(case.constants))
        if values is not None:
            return replace(case, feeds=(*case.feeds, feed), expected=(*case.expected, values))
    return case


def run_nodes(nodes: Sequence[NodeProto], given: Mapping[str, Array], constants: set[str]) -> dict[str, Array] | None:
    """Every value, by ONNX Runtime node by node; None where it can't or something is undefined."""
    values = dict(given)
    for node in nodes:
        if undefined(node, values) is not None:
            return None
        try:
            arrays = by_ort(node, values, constants)
        except Exception:  # any class; the sizes don't go together
            return None
        if any(a.size > 1 << 20 for a in arrays):
            return None
        values.update((name, a) for name, a in zip([o for o in node.output if o], arrays))
    return values


def prefix_of(index: int) -> str:
    """What the names of a graph begin with where several are one model."""
    return f"g{index}."


def side_by_side(cases: Sequence[Case]) -> onnx.ModelProto:
    """One model that holds all the graphs; names begin with ``prefix_of`` where there are several."""
    nodes, inputs, outputs, constants = [], [], [], {}
    for index, case in enumerate(cases):
        prefix = prefix_of(index) if len(cases) > 1 else ""
        nodes += [_renamed(node, prefix) for node in case.nodes]
        for name, shape in case.shapes.items():
            dims = [prefix + dim if isinstance(dim, str) else dim for dim in shape]
            inputs.append(declared(prefix + name, case.feeds[0][name], dims))
        constants.update({prefix + name: array for name, array in case.constants.items()})
        outputs += [(prefix + name, case.expected[0][name], _is_fixed(case)) for name in case.outputs]
    blank = [onnx.helper.make_empty_tensor_value_info(name) for name, _, _ in outputs]
    inferred = onnx.shape_inference.infer_shapes(model_of_nodes(nodes, inputs, blank, constants), data_prop=True)
    known = {value.name: value for value in inferred.graph.output}
    infos = []
    for name, array, fixed in outputs:
        found = known[name].type.tensor_type
        if found.elem_type and found.HasField("shape") and len(found.shape.dim) == array.ndim:
            infos.append(known[name])
        else:
            free = [f"{name}.{axis}" for axis in range(array.ndim)]
            infos.append(declared(name, array, array.shape if fixed else free))
    return model_of_nodes(nodes, inputs, infos, constants)


def _is_fixed(case: Case) -> bool:
    """Whether no extent can differ from run to run."""
    names = {node.op_type for node in case.nodes}
    symbolic = any(isinstance(dim, str) for shape in case.shapes.values() for dim in shape)
    return not symbolic and not names & {"NonZero", "Unique", "Compress", "If"}


def _renamed(node: NodeProto, prefix: str) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    if prefix:
        copy.name = prefix + node.name
        copy.input[:] = [prefix + name if name else "" for name in node.input]
        copy.output[:] = [prefix + name if name else "" for name in node.output]
        for attribute in copy.attribute:
            if attribute.type == AttributeProto.GRAPH:
                inner = [_renamed(n, prefix) for n in attribute.g.node]
                del attribute.g.node[:]
                attribute.g.node.extend(inner)
                for output in attribute.g.output:
                    output.name = prefix + output.name
    return copy


def combined_feed(cases: Sequence[Case], which: int) -> dict[str, Array]:
    """Inputs of ``side_by_side``; graphs without such a feed take their first."""
    if len(cases) == 1:
        return {k: np.asarray(v) for k, v in cases[0].feeds[which].items()}
    return {
        prefix_of(index) + name: array
        for index, case in enumerate(cases)
        for name, array in case.feeds[min(which, len(case.feeds) - 1)].items()
    }
