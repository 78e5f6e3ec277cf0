"""A connected group of nodes that can be computed with their axes in another order."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import TensorType
from graphopt.ops.context import attr, ints
from graphopt.ops.registry import AFFINE, ELEMENTWISE, REDUCE, has_trait
from graphopt.ops.table import ops_with
from graphopt.passes.canonical.views import perm_of

_AXIS_ATTR = frozenset({"Concat", "Split", "Softmax", "LogSoftmax"})
_AXES_INPUT = {**dict.fromkeys(ops_with(REDUCE), 1), "Slice": 3, "Pad": 3}
_POSITIONAL = frozenset({"PRelu", "BitCast", "SwiGLU"})
"""Marked element-wise, but some axis has a part of its own (the slope's, the one that is reinterpreted or halved)."""
_LIMIT = 200
"""Regions are cut off at this many nodes: gains come from short chains, and growth would be quadratic."""


@dataclass
class Region:
    """Nodes whose values v are to be kept as v' with ``v == Transpose(v', perm)``."""

    perm: list[int]
    nodes: dict[Node, None] = field(default_factory=dict)

    @staticmethod
    def grow(start: Node, perm: list[int], *, backwards: bool) -> Region:
        """The region after a Transpose; with ``backwards`` also what feeds the region from elsewhere."""
        region = Region(perm)
        queue = [u.node for u in start.out.uses]
        while queue and len(region.nodes) < _LIMIT:
            node = queue.pop()
            if node in region.nodes or node.graph is not start.graph or not movable(node, len(perm)):
                continue
            region.nodes[node] = None
            for out in node.outputs:
                if out is not None:
                    queue.extend(u.node for u in out.uses)
            if backwards:
                queue.extend(v.producer for v in data_inputs(node) if v.producer is not None)
        assert start.graph is not None
        order = {n: i for i, n in enumerate(start.graph.nodes)} if len(region.nodes) > 1 else {}
        region.nodes = dict.fromkeys(sorted(region.nodes, key=lambda n: order.get(n, 0)))
        return region

    def gain(self) -> int:
        """Transposes fewer after flipping."""
        gain = 0
        for value in self._entering():
            turned = _turned(value)
            if turned is None:
                gain -= 1
                continue
            stays = value.escapes or any(u.node not in self.nodes for u in value.uses)
            gain += (0 if stays else 1) - (0 if turned == self.perm else 1)
        for value, users in self._leaving():
            other = value.escapes > 0
            for user in users:
                turned = _turned(user.out) if user.op == "Transpose" and not user.domain else None
                if turned is None:
                    other = True
                elif _compose(self.perm, turned) == sorted(self.perm):
                    gain += 1
            gain -= other
        return gain

    def flip(self, e: Editor) -> None:
        """Rewrite the region's nodes in the other axis order."""
        flipped: dict[Value, Value] = {}
        for node in self.nodes:
            self._flip_node(node, flipped, e)
        for value, users in self._leaving():
            new = flipped[value]
            for user in users:
                turned = _turned(user.out) if user.op == "Transpose" and not user.domain else None
                if turned is not None:
                    self._compose_user(user, new, _compose(self.perm, turned), e)
            if value.escapes or any(u.node not in self.nodes for u in value.uses):
                assert value.producer is not None
                back = e.node("Transpose", [new], {"perm": self.perm}, before=value.producer, like=[value.producer]).out
                back.content = value.content
                for use in list(value.uses):
                    if use.node not in self.nodes:
                        e.set_input(use.node, use.index, back)
                if value.escapes:
                    e.replace(value, back)
        for node in reversed(list(self.nodes)):
            e.erase_dead([o for o in node.outputs if o is not None][:1])

    def _compose_user(self, user: Node, new: Value, perm: list[int], e: Editor) -> None:
        if perm == sorted(perm) and e.can_take_name(user.out, new):
            e.replace(user.out, new)
        else:
            made = e.node("Transpose", [new], {"perm": perm}, before=user, like=[user])
            e.replace(user.out, made.out)
        e.erase_dead([user.out])

    def _flip_node(self, node: Node, flipped: dict[Value, Value], e: Editor) -> None:
        inverse = list(np.argsort(self.perm))
        inputs: list[Value | None] = []
        data = data_inputs(node)
        for i, value in enumerate(node.inputs):
            if value is None or not any(value is d for d in data) or not _is_data_slot(node, i):
                inputs.append(self._operand(node, i, value, e))
                continue
            if value not in flipped:
                flipped[value] = self._enter(value, node, [int(i) for i in inverse], e)
            inputs.append(flipped[value])
        attrs = dict(node.attrs)
        if node.op in _AXIS_ATTR:
            attrs["axis"] = self.perm[int(attr(node, "axis")) % len(self.perm)]
        made = e.node(node.op, inputs, attrs, outputs=len(node.outputs), before=node, like=[node])
        for old, new in zip(node.outputs, made.outputs):
            if old is not None and new is not None:
                flipped[old] = new

    def _enter(self, value: Value, before: Node, inverse: list[int], e: Editor) -> Value:
        """v' of a value made outside: what a cancelled Transpose read, a transposed constant, or a new Transpose."""
        if value.data is not None:
            if value.data.size == 1:
                return value
            wide = value.data.reshape((1,) * (len(self.perm) - value.data.ndim) + value.data.shape)
            return e.constant(np.ascontiguousarray(np.transpose(wide, inverse)), value.name)
        if len(value.shape) < len(self.perm):
            return value  # a single element; movable() allows no other
        turned = _turned(value)
        if turned == self.perm:
            source = value.producer.input(0) if value.producer is not None else None
            assert source is not None
            return source
        if turned is not None and value.producer is not None:
            source = value.producer.input(0)
            perm = _compose(turned, inverse)
            return e.node("Transpose", [source], {"perm": perm}, before=before, like=[value.producer]).out
        return e.node("Transpose", [value], {"perm": inverse}, before=before, like=[before]).out

    def _operand(self, node: Node, index: int, value: Value | None, e: Editor) -> Value | None:
        """Operands that name axes or list something by axis."""
        if value is None or value.data is None:
            return value
        rank = len(self.perm)
        if node.op in _AXES_INPUT and index == _AXES_INPUT[node.op]:
            axes = [self.perm[a % rank] for a in ints(value.data)]
            return e.constant(np.asarray(axes, value.data.dtype), value.name)
        return value

    def _entering(self) -> list[Value]:
        """Values made outside that need another axis order, each once."""
        made = {o for n in self.nodes for o in n.outputs if o is not None}
        found: dict[Value, None] = {}
        for node in self.nodes:
            for value in data_inputs(node):
                if value not in made and value.data is None and len(value.shape) == len(self.perm):
                    found[value] = None
        return list(found)

    def _leaving(self) -> list[tuple[Value, list[Node]]]:
        """Values of the region needed outside, with the nodes there that use them."""
        found = []
        for node in self.nodes:
            for value in node.outputs:
                if value is None:
                    continue
                users = [c for c in value.consumers if c not in self.nodes]
                if users or value.escapes:
                    found.append((value, users))
        return found


def movable(node: Node, rank: int) -> bool:
    """Whether the node can be computed in another order of its ``rank`` axes."""
    if node.domain or node.subgraphs or node.op == "Dropout":
        return False
    values = [*data_inputs(node), *(o for o in node.outputs if o is not None)]
    if not all(isinstance(v.type, TensorType) and v.type.shape is not None for v in values):
        return False
    if any(len(o.shape) != rank for o in node.outputs if o is not None) or not _operands_fit(node, rank):
        return False
    if has_trait(node, REDUCE):
        given = node.input(1)
        return bool(attr(node, "keepdims")) and given is not None and given.data is not None and given.data.size > 0
    if node.op in ("Slice", "Pad"):
        axes = node.input(3)
        return axes is not None and axes.data is not None
    if has_trait(node, AFFINE):  # per channel, their scale is a vector along an axis
        return all(v is None or (v.data is not None and v.data.size == 1) for v in node.inputs[1:])
    return node.op in _AXIS_ATTR or (has_trait(node, ELEMENTWISE) and node.op not in _POSITIONAL)


def _operands_fit(node: Node, rank: int) -> bool:
    """Operands of full rank, constants that broadcast, and single elements."""
    return all(
        len(v.shape) == rank or v.data is not None or all(isinstance(d, int) and d == 1 for d in v.shape)
        for v in data_inputs(node)
    )


def _is_data_slot(node: Node, index: int) -> bool:
    if has_trait(node, REDUCE) or node.op in ("Split", "Slice", "Pad", "Clip", "Cast", "CastLike"):
        return index == 0
    return True


def data_inputs(node: Node) -> list[Value]:
    """Operands whose axes are the node's axes (not those that list axes, bounds or sizes)."""
    return [v for i, v in enumerate(node.inputs) if v is not None and _is_data_slot(node, i)]


def _turned(value: Value) -> list[int] | None:
    node = value.producer
    if node is None or node.op != "Transpose" or node.domain:
        return None
    return perm_of(attr(node, "perm"), len(value.shape))


def _compose(first: list[int], second: list[int]) -> list[int]:
    """The permutation of ``Transpose(Transpose(x, first), second)``."""
    return [first[i] for i in second]
