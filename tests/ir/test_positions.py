"""Positions of nodes: right after any edit, and found without a search where edits go through the graph in order."""

from __future__ import annotations

import random

import numpy as np
import pytest

from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node
from graphopt.ir.types import TensorType


def _chain(count: int) -> tuple[Graph, Editor]:
    graph = Graph("g")
    editor = Editor(graph)
    value = editor.add_input("x", TensorType(DType.f32, (2,)))
    for _ in range(count):
        value = editor.node("Relu", [value]).out
    editor.set_output(graph, 0, value)
    return graph, editor


def test_positions_after_random_edits() -> None:
    """Insertions, removals and moves anywhere."""
    rng = random.Random(7)
    graph, editor = _chain(60)
    for _ in range(400):
        node = rng.choice(graph.nodes)
        kind = rng.randrange(3)
        if kind == 0 or len(graph.nodes) < 30:
            for _ in range(rng.randrange(1, 12)):
                editor.node("Neg", [graph.inputs[0]], before=node)
        elif kind == 1:
            dead = [n for n in graph.nodes if not n.out.uses and not n.out.escapes]
            if dead:
                editor.erase(rng.choice(dead))
        else:
            editor.move_before(node, rng.choice([n for n in graph.nodes if n is not node]))
        probe = rng.randrange(len(graph.nodes))
        assert graph.position(graph.nodes[probe]) == probe
    with pytest.raises(ValueError, match="not in graph"):
        graph.position(Node("Relu", [], [], {}))


@pytest.mark.parametrize("made", [1, 5, 40])
def test_a_sweep_of_edits_searches_seldom(made: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewriting every node of a chain renumbers it a few times, not once a node."""
    graph, editor = _chain(300)
    calls = []
    renumber = Graph.renumber
    monkeypatch.setattr(Graph, "renumber", lambda g: (calls.append(1), renumber(g)))
    for node in list(graph.nodes)[::3]:
        for _ in range(made):
            value = editor.node("Identity", [editor.constant(np.zeros(2, np.float32))], before=node).out
        editor.set_input(node, 0, value)
    for node in list(graph.nodes)[::-1]:
        if not node.out.uses and not node.out.escapes:
            editor.erase(node)
    assert len(calls) <= 3
