"""Each broken invariant is caught. Graphs are broken by hand, behind the editor's back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from graphopt.errors import InternalError
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node, Use, Value
from graphopt.ir.verifier import verify
from tests.support.graphs import chain, weight


def order(graph: Graph, a: Node, b: Node) -> None:
    graph.nodes.reverse()


def stolen_node(graph: Graph, a: Node, b: Node) -> None:
    b.graph = Graph("other")


def lost_use(graph: Graph, a: Node, b: Node) -> None:
    a.out.uses.clear()


def extra_use(graph: Graph, a: Node, b: Node) -> None:
    a.out.uses[Use(b, 7)] = None


def escapes(graph: Graph, a: Node, b: Node) -> None:
    b.out.escapes += 1


def same_name(graph: Graph, a: Node, b: Node) -> None:
    a.out.name = b.out.name


def wrong_producer(graph: Graph, a: Node, b: Node) -> None:
    a.out.producer = b


def defined_twice(graph: Graph, a: Node, b: Node) -> None:
    b.outputs.append(a.out)


def computed_constant(graph: Graph, a: Node, b: Node) -> None:
    a.out.data = np.zeros((2, 3), np.float32)


def undefined(graph: Graph, a: Node, b: Node) -> None:
    Editor(graph).set_input(b, 0, Value("ghost", a.out.type))


def constant_shape(graph: Graph, a: Node, b: Node) -> None:
    value = weight(Editor(graph), 2, 3)
    Editor(graph).set_input(b, 0, value)
    value.data = np.zeros((3, 2), np.float32)


def constant_dtype(graph: Graph, a: Node, b: Node) -> None:
    value = weight(Editor(graph), 2, 3)
    Editor(graph).set_input(b, 0, value)
    value.data = np.zeros((2, 3), np.float64)


def subgraph_parent(graph: Graph, a: Node, b: Node) -> None:
    b.attrs["body"] = Graph("lost")


BREAKS: dict[Callable[[Graph, Node, Node], None], str] = {
    order: "before it is defined",
    stolen_node: "another graph",
    lost_use: "use list",
    extra_use: "use list",
    escapes: "graph outputs",
    same_name: "two values are called",
    wrong_producer: "another producer",
    defined_twice: "defined twice",
    computed_constant: "both constant and computed|has a producer",
    undefined: "before it is defined",
    constant_shape: "array of shape",
    constant_dtype: "array of float64",
    subgraph_parent: "another parent",
}


@pytest.mark.parametrize("damage", BREAKS, ids=lambda f: f.__name__)
def test_damage_is_caught(damage: Callable[[Graph, Node, Node], None]) -> None:
    graph, _, (a, b) = chain("Relu", "Abs")
    verify(graph)
    damage(graph, a, b)
    with pytest.raises(InternalError, match=BREAKS[damage]) as caught:
        verify(graph)
    assert caught.value.code == "verifier"
