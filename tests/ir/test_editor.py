"""Every mutation keeps use lists, names, order and version right; the verifier is run after each."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import InternalError
from graphopt.ir.editor import Editor, clone
from graphopt.ir.graph import Graph, Use
from graphopt.ir.printer import format_graph
from graphopt.ir.verifier import verify
from graphopt.ops.infer import infer_node
from tests.support.graphs import chain, new_graph, weight


def test_node_infers_types_and_records_uses() -> None:
    graph, editor, x = new_graph(2, 3)
    node = editor.node("MatMul", [x, weight(editor, 3, 4)])
    assert str(node.out.type) == "f32[2, 4]"
    assert list(x.uses) == [Use(node, 0)]
    verify(graph)


def test_names_are_unique_and_origins_kept() -> None:
    _, editor, (a, b) = chain("Relu", "Abs")
    new = editor.node("Exp", [a.out], before=b, like=[a, b])
    assert new.name != b.name
    assert new.origins == (*a.origins, *b.origins)


def test_replace_hands_over_the_name_of_an_output() -> None:
    graph, editor, (relu, last) = chain("Relu", "Abs")
    name = last.out.name
    new = editor.node("Exp", [relu.out])
    editor.replace(last.out, new.out)
    assert graph.outputs == [new.out]
    assert new.out.name == name
    editor.erase(last)
    verify(graph)


def test_replace_refuses_an_output_that_needs_two_names() -> None:
    graph, editor, (relu,) = chain("Relu")
    assert not Editor.can_take_name(relu.out, graph.inputs[0])
    with pytest.raises(InternalError, match="can't be replaced"):
        editor.replace(relu.out, graph.inputs[0])
    assert not Editor.can_take_name(relu.out, weight(editor, 2, 3))


def test_erase_refuses_a_node_in_use() -> None:
    _, editor, (relu, _) = chain("Relu", "Abs")
    with pytest.raises(InternalError, match="still used"):
        editor.erase(relu)


def test_erase_dead_removes_a_whole_chain() -> None:
    graph, editor, (a, _) = chain("Relu", "Abs")
    tail = editor.node("Neg", [editor.node("Exp", [a.out]).out])
    editor.erase_dead([tail.out])
    assert [n.op for n in graph.nodes] == ["Relu", "Abs"]
    verify(graph)


def test_set_input_trims_and_pads() -> None:
    graph, editor, x = new_graph(2, 3)
    node = editor.node("Clip", [x])
    editor.set_output(graph, 0, node.out)
    editor.set_input(node, 2, editor.constant(np.float32(6), "six"))
    assert node.inputs[1] is None
    verify(graph)
    editor.set_input(node, 2, None)
    assert node.inputs == [x]
    verify(graph)


def test_retain_and_move() -> None:
    graph, editor, (a, b) = chain("Relu", "Abs")
    extra = editor.node("Exp", [a.out])
    editor.move_before(extra, b)
    assert graph.nodes == [a, extra, b]
    assert editor.retain([a, b]) == 1
    verify(graph)


def test_trim_outputs_refuses_used_ones() -> None:
    graph, editor, x = new_graph(4, 6)
    split = editor.node("Split", [x], {"axis": 1, "num_outputs": 2}, outputs=2)
    for i, out in enumerate(split.outputs):
        assert out is not None
        editor.set_output(graph, i, out)
    with pytest.raises(InternalError, match="still used"):
        editor.trim_outputs(split, 1)


def test_version_grows_with_every_change_only() -> None:
    graph, editor, (a, b) = chain("Relu", "Abs")
    seen = graph.version
    editor.set_input(b, 0, a.out)
    assert graph.version == seen
    editor.set_attr(b, "axis", 1)
    assert graph.version > seen


def test_clone_is_independent() -> None:
    graph, _, _ = chain("Relu", "Abs")
    text = format_graph(graph)
    copy = clone(graph)
    assert format_graph(copy) == text
    editor = Editor(copy, infer_node)
    editor.replace(copy.nodes[1].out, editor.node("Exp", [copy.nodes[0].out]).out)
    verify(copy)
    verify(graph)
    assert format_graph(graph) == text


def test_erasing_a_branch_releases_what_it_uses() -> None:
    graph, editor, x = new_graph(2)
    outer = editor.node("Relu", [x])
    branches = {}
    for name in ("then_branch", "else_branch"):
        inner = Graph(name, parent=graph)
        inner_editor = Editor(inner, infer_node)
        inner_editor.set_output(inner, 0, inner_editor.node("Abs", [outer.out]).out)
        inner_editor.set_output(inner, 1, outer.out)
        branches[name] = inner
    condition = editor.constant(np.array(True), "c")
    node = editor.node("If", [condition], dict(branches), outputs=2)
    assert outer.out.escapes == 2
    editor.erase(node)
    assert not outer.out.uses
    assert outer.out.escapes == 0
